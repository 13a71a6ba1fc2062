"""Planes of one field at known stage positions, as the PSF is measured from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import AxisValue

__all__ = ["FEWEST_PLANES", "PlaneStack", "in_order", "read_planes"]

#: Fewer do not show a law of defocus with its uncertainty.
FEWEST_PLANES = 5
#: A stack is held in memory whole: 33 planes of 2048² take 0.6 GB.
MOST_BYTES = 4 << 30
#: Where Micro-Manager's programs say how far the planes lie apart, and where they lie.
_STEP_KEYS = ("z-step_um", "z-step_um_Intended", "spacing")
_PLACE_KEYS = ("ZPosition_um_Intended", "ZPositionUm", "ZPosition_um")


@dataclass(frozen=True, slots=True)
class PlaneStack:
    """Planes of one field, in order of the stage position.

    Parameters
    ----------
    z_um : ndarray of float64, shape (planes,)
        Stage positions, ascending, all different.
    pixels : ndarray of float32, shape (planes, height, width)
        Camera counts; frames taken at the same position are averaged.
    pixel_um : float
    saturation : float
        Counts from which a pixel is not believed.
    averaged : int
        Frames averaged for each plane (the fewest).
    channel : str
        As the frames' axes name it.
    metadata : mapping
        Of the first frame.
    """

    z_um: NDArray[np.float64]
    pixels: NDArray[np.float32]
    pixel_um: float
    saturation: float
    averaged: int = 1
    channel: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_planes(
    path: str | Path,
    *,
    pixel_um: float | None = None,
    z_step_um: float | None = None,
    channel: str | None = None,
    position: AxisValue | None = None,
    saturation: float | None = None,
) -> PlaneStack:
    """Read a z series from a recording of any kind.

    Parameters
    ----------
    path : str or Path
    pixel_um : float, optional
        Where the recording does not say; it wins over the recording.
    z_step_um : float, optional
        From plane to plane; it wins over the stage positions recorded.
    channel : str, optional
        Needed where there are several.
    position : int or str, optional
        Needed where there are several.
    saturation : float, optional
        In counts; by default the end of the camera's scale (`BitDepth` of the
        metadata) or of the pixel type.

    Raises
    ------
    InputError
        If the pixel size or the stage positions are not known, there are several
        channels or positions, or too few planes.
    """
    with open_dataset(path) as recording:
        plan = recording.plan()
        form = plan.format
        wanted = _chosen(path, plan.axes, {"channel": channel, "position": position})
        size = pixel_um if pixel_um is not None else plan.pixel_um
        if size is None or not (math.isfinite(size) and size > 0):
            raise InputError(
                f"{path} does not say how large a pixel is in the specimen: give --pixel-um"
            )
        if len(wanted) * form.height * form.width * 4 > MOST_BYTES:
            raise InputError(
                f"{path} has {len(wanted)} frames of {form.width}×{form.height}, more than is held in "
                "memory at once: crop the recording, or take fewer planes"
            )
        sums: dict[float, NDArray[np.float32]] = {}
        counts: dict[float, int] = {}
        first: Mapping[str, Any] = {}
        for index in wanted:
            frame = recording.read(plan.axes[index])
            first = first or frame.metadata
            z = _place(path, frame.axes, frame.metadata, recording.summary, z_step_um)
            if z in sums:
                sums[z] += frame.pixels
                counts[z] += 1
            else:
                sums[z] = frame.pixels.astype(np.float32)
                counts[z] = 1
        full_scale = saturation if saturation is not None else _full_scale(first, form.dtype)
    places = sorted(sums)
    if len(places) < FEWEST_PLANES:
        raise InputError(
            f"{path} has planes at {len(places)} stage positions; give at least {FEWEST_PLANES}, on "
            "both sides of focus"
        )
    return PlaneStack(
        np.array(places),
        np.stack([sums[z] / counts[z] for z in places]),
        float(size),
        float(full_scale),
        min(counts.values()),
        str(plan.axes[wanted[0]].get("channel", "")),
        dict(first),
    )


def in_order(
    z_um: Sequence[float],
    planes: NDArray[Any],
    pixel_um: float,
    *,
    saturation: float | None = None,
) -> PlaneStack:
    """A stack of planes that are in memory, shape (planes, height, width).

    Raises
    ------
    InputError
        If there are too few planes, two at one position, or not one position each.
    """
    z = np.asarray(z_um, np.float64)
    if planes.ndim != 3 or len(z) != len(planes):
        raise InputError(f"{len(z)} stage positions do not name planes of shape {planes.shape}")
    if len(np.unique(z)) != len(z) or len(z) < FEWEST_PLANES:
        raise InputError(
            f"give at least {FEWEST_PLANES} planes, each at a stage position of its own"
        )
    if saturation is None:
        saturation = _full_scale({}, planes.dtype) if planes.dtype.kind == "u" else math.inf
    order = np.argsort(z)
    return PlaneStack(z[order], planes[order].astype(np.float32), float(pixel_um), saturation)


def _chosen(
    path: str | Path, axes: Sequence[Mapping[str, AxisValue]], wanted: Mapping[str, Any]
) -> list[int]:
    """Frames of the channel and position that were asked for."""
    chosen = list(range(len(axes)))
    for name, value in wanted.items():
        known = sorted({str(place[name]) for place in axes if name in place})
        if value is None:
            if len(known) > 1:
                raise InputError(
                    f"{path} has several values of the axis {name!r} ({', '.join(known[:8])}): choose "
                    f"one with --{name}"
                )
            continue
        if known and str(value) not in known:
            raise InputError(
                f"{path} has no {name} {value!r}; it has {', '.join(known[:8])}: choose one of these"
            )
        chosen = [index for index in chosen if str(axes[index].get(name, value)) == str(value)]
    return chosen


def _place(
    path: str | Path,
    axes: Mapping[str, AxisValue],
    metadata: Mapping[str, Any],
    summary: Mapping[str, Any],
    z_step_um: float | None,
) -> float:
    """Stage position of a frame, in um, to the nanometre."""
    if z_step_um is None:
        for key in _PLACE_KEYS:
            if (said := _number(metadata.get(key))) is not None:
                return round(said, 3)
        steps = (_number(summary.get(key)) for key in _STEP_KEYS)
        z_step_um = next((step for step in steps if step), None)
    # A plain stack's pages are called `time` where nothing says what they are.
    index = axes.get("z", axes.get("time"))
    if z_step_um is None or not isinstance(index, int):
        raise InputError(
            f"{path} does not say at which stage positions its planes were taken: give --z-step-um"
        )
    return round(index * z_step_um, 3)


def _number(said: Any) -> float | None:
    if isinstance(said, bool) or not isinstance(said, (int, float, str)):
        return None
    try:
        number = float(said)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _full_scale(metadata: Mapping[str, Any], dtype: np.dtype[Any]) -> float:
    depth = _number(metadata.get("BitDepth") or metadata.get("Camera-BitDepth"))
    full = float(np.iinfo(dtype).max)
    return min(full, 2.0**depth - 1) if depth and depth >= 8 else full
