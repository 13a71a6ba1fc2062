"""MetaMorph stacks: planes that follow the pixels of the first one, described by MetaMorph's own tags.

=======  ==================================================================================
tag      contents
=======  ==================================================================================
33629    distance in z and acquisition time of each plane; its count is the number of planes
33628    pixel size and stage positions
=======  ==================================================================================

Source: MetaMorph Stack (STK) image file format, and tifffile (``read_uic2tag``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffPage

from refocusd.errors import InputError
from refocusd.formats.metadata import UM_PER_UNIT, finite_number
from refocusd.formats.tiff.arrangement import MAX_FRAMES, Arrangement, PlacedPage
from refocusd.formats.tiff.strict import StrictTiff
from refocusd.profiles.microscope_metadata import plausible_pixel_um

_CALIBRATION, _PLANES = 33628, 33629
_DAY_MS = 86_400_000


def planes_of(page: TiffPage) -> int:
    """Number of planes of a MetaMorph stack, which has one page; 1 for any other page."""
    return page.tags[_PLANES].count if _PLANES in page.tags else 1


def from_stk(file: StrictTiff, page: TiffPage) -> Arrangement:
    """Frames of a MetaMorph stack: a time series if the planes have no distance and increasing times, else a z-stack.

    Raises
    ------
    InputError
        If it has too many planes.
    """
    planes = planes_of(page)
    if planes > MAX_FRAMES:
        raise file.damaged(f"its tag {_PLANES} promises {planes} planes")
    distances, taken_ms = _of_planes(file, page, planes)
    axis = "time" if not distances[1:].any() and (np.diff(taken_ms) > 0).all() else "z"
    said = page.tags[_CALIBRATION].value if _CALIBRATION in page.tags else {}
    said = said if isinstance(said, dict) else {}
    places = _places(said, planes)
    frames = tuple(
        PlacedPage(0, {axis: n}, float(ms) if ms >= 0 else None, metadata=places[n])
        for n, ms in enumerate(taken_ms - taken_ms[0])
    )
    step = _step_um(distances)
    return Arrangement(
        frames,
        "MetaMorph's tags",
        _pixel_um(said),
        {"z-step_um": step} if step and axis == "z" else {},
        contiguous=True,
    )


def _of_planes(
    file: StrictTiff, page: TiffPage, planes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance in z (um), and time (ms), of each plane; zeros where they were cut off."""
    values = np.zeros((planes, 6), np.int64)
    with suppress(InputError):
        data = file.read_at(page.tags[_PLANES].valueoffset, planes * 24, "the places of planes")
        values = np.frombuffer(data, f"{file.order}u4").reshape(planes, 6).astype(np.int64)
    distances = values[:, 0] / np.maximum(values[:, 1], 1)
    return distances, values[:, 2] * _DAY_MS + values[:, 3]


def _step_um(distances: NDArray[np.float64]) -> float | None:
    """Distance between planes in um; the tag gives it from the plane before, or from the first plane."""
    for steps in (distances[1:], np.diff(distances)):
        step = abs(float(np.median(steps)))
        if step and np.allclose(np.abs(steps), step, rtol=0.01):
            return round(step, 6)
    return None


def _pixel_um(said: Mapping[str, Any]) -> float | None:
    um = UM_PER_UNIT.get(str(said.get("CalibrationUnits", "")).strip("\0 ").lower())
    size = finite_number(said.get("XCalibration"))
    known = um and size and said.get("SpatialCalibration", 1)
    return plausible_pixel_um(um * size) if known and um and size else None


def _places(said: Mapping[str, Any], planes: int) -> list[dict[str, float]]:
    """Stage position of each plane in um, under Micro-Manager's names."""
    found: list[dict[str, float]] = [{} for _ in range(planes)]
    for tag, names in (
        ("StagePosition", ("XPositionUm", "YPositionUm")),
        ("AbsoluteZ", ("ZPositionUm",)),
    ):
        with suppress(TypeError, ValueError):
            values = np.asarray(said.get(tag), np.float64).reshape(planes, len(names))
            if np.isfinite(values).all() and values.any():
                for each, row in zip(found, values, strict=True):
                    each.update(zip(names, map(float, row), strict=True))
    return found
