"""Assigns the frames of through-focus recordings to planes and sweeps.

A *sweep* is a run of planes in one direction of the stage.  Recordings are split wherever the stage
reverses, so a recording that goes up, down and up again gives three sweeps.  Consecutive frames at
one stage position form one plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.scale import stated_z_step_um, z_position_um
from refocusd.frame import Axes, Pixels
from refocusd.profiles.microscope_metadata import bit_depth_of

#: Fewest planes that show a focus: a peak has three parameters.
MIN_PLANES = 5
#: Stage positions closer than this (um) are equal: encoders resolve smaller distances than stages can repeat.
SAME_UM = 1e-4
#: The highest count is the end of the scale only if at least this many pixels have it.
FEWEST_CUT_OFF = 10


@dataclass(frozen=True, slots=True)
class Plane:
    """The frames taken at one stage position, one after the other.

    Parameters
    ----------
    z_um : float
    reads : tuple of callable
        Each returns the pixels of one frame.
    time_s : float or None
        Time of the first frame, on the series' clock.
    name : str
        Name for messages.
    """

    z_um: float
    reads: tuple[Callable[[], Pixels], ...]
    time_s: float | None
    name: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """Planes in the order taken.

    Parameters
    ----------
    direction : int
        1 from below, -1 from above, 0 if the planes were not taken in order.
    planes : tuple of Plane
    """

    direction: int
    planes: tuple[Plane, ...]

    @property
    def z_um(self) -> NDArray[np.float64]:
        """Stage positions, shape (planes,)."""
        return np.array([plane.z_um for plane in self.planes])


@dataclass(frozen=True, slots=True)
class ZSeries:
    """All sweeps of one field.

    Parameters
    ----------
    sweeps : tuple of Sweep
    shape : (int, int)
        Height and width of every frame, px.
    pixel_um : float or None
        Pixel size that the recordings state.
    metadata : mapping
        Metadata of the first frame.
    channel : str
        Channel according to the frames' axes; "" if they do not name one.
    notes : tuple of str
        What was left out, and why.
    counted : bool
        Whether z is counted from the first plane, in the order of the file.
    """

    sweeps: tuple[Sweep, ...]
    shape: tuple[int, int]
    pixel_um: float | None
    metadata: Mapping[str, Any]
    channel: str = ""
    notes: tuple[str, ...] = ()
    counted: bool = False


@contextmanager
def open_series(
    paths: Sequence[str | Path],
    *,
    z_step_um: float | None = None,
    channel: str | None = None,
    position: int | str | None = None,
) -> Iterator[ZSeries]:
    """Open one or several recordings of one field as sweeps; the files are closed on leaving.

    Parameters
    ----------
    paths : sequence of str or Path
        Recordings, in the order taken.
    z_step_um : float, optional
        Distance between neighbouring planes, for recordings without stage positions; it
        overrides the positions of a recording that has them.
    channel, position : optional
        The one to use; required if a recording has several.

    Raises
    ------
    InputError
        If a recording cannot be read, has several channels or positions and none was
        chosen, does not say its stage positions, or has too few planes.
    """
    if z_step_um is not None and not (math.isfinite(z_step_um) and z_step_um != 0):
        raise InputError(
            f"a z step of {z_step_um} um is not valid: give the distance between two planes"
        )
    with ExitStack() as stack:
        recordings = [stack.enter_context(open_dataset(path)) for path in paths]
        if not recordings:
            raise InputError("give one or more recordings")
        shape = _common_shape(recordings)
        taken = [_taken(item, z_step_um, channel, position) for item in recordings]
        sweeps: list[Sweep] = []
        notes: list[str] = []
        # Each recording has its own zero of time, unless its frames carry wall-clock times.
        common = len(taken) == 1 or all(item.absolute for item in taken)
        if not common:
            notes.append("the recordings have no common clock, so drift was not measured")
        counted = any(item.by_number for item in taken)
        if counted:
            notes.append(
                "z is counted from the first plane, in the order of the file: the focus's position on the stage is not "
                "known, so the defocus of other frames cannot be derived from their stage position; if the planes were "
                "taken downwards, give a negative --z-step, or every slope and side has the wrong sign"
            )
        for item in taken:
            planes = item.planes if common else [replace(p, time_s=None) for p in item.planes]
            found, remarks = sweeps_of(planes)
            sweeps.extend(found)
            notes.extend(remarks)
        if not sweeps:
            raise InputError(
                f"{', '.join(map(str, paths))}: fewer than {MIN_PLANES} stage positions in a row; record "
                f"at least {MIN_PLANES} planes through focus (recommended: 20)"
            )
        yield ZSeries(
            tuple(sweeps),
            shape,
            next((um for r in recordings if (um := r.plan().pixel_um)), None),
            taken[0].metadata,
            taken[0].channel,
            tuple(notes),
            counted,
        )


def _common_shape(recordings: Sequence[Dataset]) -> tuple[int, int]:
    shapes = {(item.plan().format.height, item.plan().format.width) for item in recordings}
    if len(shapes) > 1:
        raise InputError(
            f"the recordings have frames of different sizes ({sorted(shapes)}): give series of "
            "one field with one camera setting"
        )
    return shapes.pop()


@dataclass(frozen=True, slots=True)
class _Taken:
    planes: list[Plane]
    absolute: bool
    by_number: bool
    metadata: Mapping[str, Any]
    channel: str


def _taken(
    recording: Dataset,
    z_step_um: float | None,
    channel: str | None,
    position: int | str | None,
) -> _Taken:
    """A recording's frames of the chosen field, in the order taken."""
    plan = recording.plan()
    indices = _chosen(recording, {"channel": channel, "position": position})
    if len(indices) < MIN_PLANES:
        raise InputError(
            f"{recording.path} has {len(indices)} frames of this field; at least {MIN_PLANES} planes "
            "are needed to show a focus: record a series through it, on both sides of focus"
        )
    said: list[float | None] = []
    clock: list[float | None] = []
    first: Mapping[str, Any] | None = None
    for index in indices:
        metadata = recording.metadata(plan.axes[index])
        first = metadata if first is None else first
        said.append(z_position_um(metadata))
        clock.append(_wall_clock_s(metadata.get("TimeReceivedByCore")))
    axes = [plan.axes[index] for index in indices]
    z = _positions(recording, axes, said, z_step_um)
    absolute = all(seconds is not None for seconds in clock)
    elapsed = [plan.elapsed_ms[index] for index in indices]
    times = clock if absolute else [None if ms is None else ms / 1000 for ms in elapsed]
    planes = [
        Plane(place, (partial(_pixels, recording, where),), time, f"frame {index}")
        for index, where, place, time in zip(indices, axes, z, times, strict=True)
    ]
    by_number = z_step_um is not None or None in said
    return _Taken(planes, absolute, by_number, first or {}, str(axes[0].get("channel", "")))


def _chosen(recording: Dataset, wanted: Mapping[str, str | int | None]) -> list[int]:
    """Frames of the requested channel and position."""
    axes = recording.plan().axes
    indices = list(range(len(axes)))
    for axis, value in wanted.items():
        values = list(dict.fromkeys(axes[i].get(axis) for i in indices))
        listed = ", ".join(str(v) for v in values[:8])
        # A recording of one channel need not name it.
        if value is not None and (axis != "channel" or values != [None]):
            indices = [i for i in indices if str(axes[i].get(axis)) == str(value)]
            if not indices:
                raise InputError(f"{recording.path} has no {axis} {value!r}: it has {listed}")
        elif len(values) > 1:
            raise InputError(
                f"{recording.path} has several {axis}s ({listed}): choose one with --{axis}"
            )
    return indices


def _positions(
    recording: Dataset,
    axes: Sequence[Axes],
    said: Sequence[float | None],
    z_step_um: float | None,
) -> list[float]:
    """Stage position of each frame, um."""
    known = [value for value in said if value is not None]
    if z_step_um is None and len(known) == len(said):
        if float(np.ptp(known)) < SAME_UM:
            raise InputError(
                f"{recording.path} was taken at one stage position (z = {known[0]:g} um) according to "
                "its metadata: record a series through focus; or, if the stage did move, give the "
                "distance between planes with --z-step"
            )
        return known
    step = z_step_um if z_step_um is not None else stated_z_step_um(recording.summary)
    if step is None:
        raise InputError(
            f"{recording.path} does not state the stage positions: give the distance between two "
            "planes in um with --z-step"
        )
    # The pages of a plain stack are called `time` if nothing states what they are.
    indices = [frame.get("z", frame.get("time")) for frame in axes]
    numbers = [index for index in indices if isinstance(index, int)]
    if len(numbers) < len(indices) or len(set(numbers)) < MIN_PLANES:
        raise InputError(
            f"{recording.path} has no z axis with at least {MIN_PLANES} planes: give a recording "
            "whose planes are numbered"
        )
    if z_step_um is not None and len(known) == len(said):
        # The distance is corrected, the direction is known.
        away = np.asarray(numbers) - np.mean(numbers)
        step = -step if step > 0 and float(away @ np.asarray(known)) < -SAME_UM else step
    return [float(number) * step for number in numbers]


def known_pixel_um(path: str | Path, pixel_um: float | None) -> float:
    """The pixel size of a recording, um.

    Raises
    ------
    InputError
        If it is not known.
    """
    if pixel_um is None or not (math.isfinite(pixel_um) and pixel_um > 0):
        raise InputError(f"{path} does not state the pixel size in the specimen: give --pixel-um")
    return float(pixel_um)


def sweeps_of(planes: Sequence[Plane]) -> tuple[tuple[Sweep, ...], tuple[str, ...]]:
    """Sweeps of the planes, and notes; runs that are too short to show a focus are left out."""
    planes = _merged(planes)
    runs: list[Sweep] = []
    start = 0
    while start < len(planes):
        end = start + 1
        direction = 0
        while end < len(planes):
            step = 1 if planes[end].z_um > planes[end - 1].z_um else -1
            if direction and step != direction:
                break
            direction = step
            end += 1
        runs.append(Sweep(direction, tuple(planes[start:end])))
        start = end
    whole = [run for run in runs if len(run.planes) >= MIN_PLANES]
    if not whole:
        # The planes were not taken in order, so neither from below nor from above.
        ordered = _merged(sorted(planes, key=lambda plane: plane.z_um))
        return ((Sweep(0, tuple(ordered)),) if len(ordered) >= MIN_PLANES else ()), ()
    left = sum(len(run.planes) for run in runs) - sum(len(run.planes) for run in whole)
    notes = (f"{left} planes of runs shorter than {MIN_PLANES} were left out",) if left else ()
    return tuple(whole), notes


def _merged(planes: Sequence[Plane]) -> list[Plane]:
    """Merge consecutive frames at one stage position into one plane."""
    merged: list[Plane] = []
    for plane in planes:
        if merged and abs(merged[-1].z_um - plane.z_um) < SAME_UM:
            merged[-1] = replace(merged[-1], reads=merged[-1].reads + plane.reads)
        else:
            merged.append(plane)
    return merged


def _pixels(recording: Dataset, axes: Axes) -> Pixels:
    return recording.read(axes).pixels


def _wall_clock_s(value: Any) -> float | None:
    """Seconds of a time that Micro-Manager wrote, e.g. ``2025-03-04 15:06:07.089``."""
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except ValueError:
        return None


def end_of_scale(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> float:
    """The end of the camera's scale in counts, by `BitDepth` of the metadata or the pixel type."""
    bits = bit_depth_of(metadata)
    full = float(np.iinfo(dtype).max)
    return min(full, 2.0**bits - 1) if bits and bits >= 8 else full


def cut_off_at(pixels: NDArray[Any]) -> float:
    """The highest count if it seems to be the end of an unstated scale, otherwise infinity."""
    top = float(pixels.max())
    # Without an end of the scale, counts become rarer towards the brightest pixel.
    below = (pixels >= min(0.98 * top, top - 3)) & (pixels < top)
    many = int((pixels == top).sum())
    return top if many >= FEWEST_CUT_OFF and many > 3 * int(below.sum()) else math.inf
