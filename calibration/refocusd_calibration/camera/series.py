"""Series of frames at known exposures, read one frame at a time.

A series is read more than once and is never held in memory: 1000 frames of 2048² take 8 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.frame import Axes, Metadata, Pixels, canonical_axes, checked_pixels
from refocusd.profiles.microscope_metadata import bit_depth_of, number_within

#: Metadata keys of an exposure in milliseconds.
_EXPOSURE_KEYS = ("Exposure", "Exposure-ms")
#: The shortest exposure and the longest, ms: a day.
_EXPOSURE_MS = 1e-6, 8.64e7
#: Bits of the counts of cameras.
BITS = (8, 10, 11, 12, 14, 16)


@dataclass(frozen=True, slots=True)
class Level:
    """Frames taken at one exposure.

    Parameters
    ----------
    exposure_ms : float
    reads : sequence of callable
        Each returns one frame: uint8 or uint16, shape (height, width).
    """

    exposure_ms: float
    reads: Sequence[Callable[[], Pixels]]

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.reads)

    def frames(self) -> Iterator[Pixels]:
        """Read each frame, one at a time."""
        return (read() for read in self.reads)


@dataclass(frozen=True, slots=True)
class Series:
    """Levels of one camera under one light (or none), shortest exposure first.

    Parameters
    ----------
    levels : tuple of Level
    shape : (int, int)
        Height and width of every frame.
    largest_count : int
        End of the scale of the pixels' type: 255 or 65535.
    bits : int or None
        Bits of the counts, if the metadata state them.
    metadata : mapping
        Metadata of the first frame.
    channel : str
        Channel according to the frames' axes; "" if they do not name one.
    pixel_um : float or None
        Pixel size that the recording states.
    """

    levels: tuple[Level, ...]
    shape: tuple[int, int]
    largest_count: int
    bits: int | None = None
    metadata: Metadata | None = None
    channel: str = ""
    pixel_um: float | None = None


def series_of_frames(levels: Sequence[Level], what: str = "the series") -> Series:
    """Make a series from levels; levels of equal exposure are merged.

    Parameters
    ----------
    levels : sequence of Level
    what : str
        Name of the series, for error messages.

    Raises
    ------
    InputError
        If there is no frame, a frame is invalid, sizes or types are mixed, or an exposure is
        not positive.
    """
    merged: dict[float, list[Callable[[], Pixels]]] = {}
    shape: tuple[int, ...] | None = None
    kind: Any = None
    for level in levels:
        if not level.exposure_ms > 0:
            raise InputError(
                f"{what} has an exposure of {level.exposure_ms:g} ms: it must be positive"
            )
        for read in (level.reads[0], level.reads[-1]) if level.reads else ():
            frame = checked_pixels(read(), what=f"a frame of {what}")
            if shape is None:
                shape, kind = frame.shape, frame.dtype
            elif frame.shape != shape or frame.dtype != kind:
                raise InputError(
                    f"{what} mixes frames of {shape[1]}×{shape[0]} px ({kind}) with frames of "
                    f"{frame.shape[1]}×{frame.shape[0]} px ({frame.dtype}): take all with one camera "
                    "region, binning and pixel type"
                )
        merged.setdefault(float(level.exposure_ms), []).extend(level.reads)
    if shape is None:
        raise InputError(f"{what} has no frame")
    return Series(
        levels=tuple(Level(exposure, merged[exposure]) for exposure in sorted(merged)),
        shape=(shape[0], shape[1]),
        largest_count=255 if kind.itemsize == 1 else 65535,
    )


def series_of_recording(recording: Dataset, exposures_ms: Sequence[float] | None = None) -> Series:
    """Group the frames of a recording by exposure.

    The exposure is read from the metadata.  Frames that differ only in `time` are assumed to have
    the same exposure, unless they have no other axis.

    Parameters
    ----------
    recording : Dataset
    exposures_ms : sequence of float, optional
        Exposure of each level, in the order taken, for recordings whose metadata do not state it.
        The frames are divided equally among the levels.

    Raises
    ------
    InputError
        If the exposures are unknown; see also `series_of_frames`.
    """
    plan = recording.plan()
    first = recording.metadata(plan.axes[0])
    groups = (
        _by_list(recording, exposures_ms, len(plan)) if exposures_ms else _by_metadata(recording)
    )
    levels = [
        Level(exposure, [partial(_pixels, recording, plan.axes[index]) for index in indices])
        for exposure, indices in groups.items()
    ]
    bits = bit_depth_of(first)
    return replace(
        series_of_frames(levels, str(recording.path)),
        bits=bits if bits in BITS else None,
        metadata=first,
        channel=str(plan.axes[0].get("channel", "")),
        pixel_um=plan.pixel_um,
    )


def _pixels(recording: Dataset, axes: Axes) -> Pixels:
    return recording.read(axes).pixels


def _by_list(
    recording: Dataset, exposures_ms: Sequence[float], frames: int
) -> dict[float, list[int]]:
    each, rest = divmod(frames, len(exposures_ms))
    if rest or each == 0:
        raise InputError(
            f"{recording.path} has {frames} frames, which cannot be divided equally among "
            f"{len(exposures_ms)} exposures: give --dark-exposures-ms or --flat-exposures-ms one "
            "value for each exposure, in the order taken"
        )
    groups: dict[float, list[int]] = {}
    for number, exposure in enumerate(exposures_ms):
        groups.setdefault(float(exposure), []).extend(range(number * each, (number + 1) * each))
    return groups


def _by_metadata(recording: Dataset) -> dict[float, list[int]]:
    plan = recording.plan()
    together: dict[str, list[int]] = {}
    for index, axes in enumerate(plan.axes):
        others = {name: value for name, value in axes.items() if name != "time"}
        # Without another axis, neighbouring frames need not have the same exposure.
        together.setdefault(canonical_axes(others) if others else str(index), []).append(index)
    groups: dict[float, list[int]] = {}
    for indices in together.values():
        exposure = number_within(
            recording.metadata(plan.axes[indices[0]]), _EXPOSURE_KEYS, *_EXPOSURE_MS
        )
        if exposure is None:
            raise InputError(
                f"the frames of {recording.path} do not state their exposure: give --dark-exposures-ms "
                "and --flat-exposures-ms, one value for each exposure in the order taken"
            )
        groups.setdefault(exposure, []).extend(indices)
    return groups
