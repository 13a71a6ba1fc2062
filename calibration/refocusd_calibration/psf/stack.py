"""Planes of one field at known stage positions, from which the PSF is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.frame import AxisValue
from refocusd_calibration.stage.z_sweeps import (
    Plane,
    cut_off_at,
    end_of_scale,
    known_pixel_um,
    open_series,
)

#: Largest stack, because it is held in memory as a whole: 33 planes of 2048² take 0.6 GB.
MOST_BYTES = 4 << 30


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
        Counts from which a pixel is saturated.
    averaged : int
        Fewest frames that were averaged for a plane.
    channel : str
        Channel according to the frames' axes.
    metadata : mapping
        Metadata of the first frame.
    notes, counted
        See `ZSeries`.
    """

    z_um: NDArray[np.float64]
    pixels: NDArray[np.float32]
    pixel_um: float
    saturation: float
    averaged: int = 1
    channel: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    counted: bool = False

    def around(self, place: NDArray[np.float64], radius: int) -> NDArray[np.float32]:
        """A square around the point (y, x), px, shape (planes, 2 radius + 1, 2 radius + 1)."""
        y, x = np.rint(place).astype(int)
        return self.pixels[:, y - radius : y + radius + 1, x - radius : x + radius + 1]


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
        Overrides the pixel size of the recording.
    z_step_um, channel, position : optional
        See `open_series`.
    saturation : float, optional
        Counts of a saturated pixel; by default the end of the camera's scale (`BitDepth` of the
        metadata) or of the pixel type, or the count at which bright pixels are cut off.

    Raises
    ------
    InputError
        If the pixel size is unknown, or the stack is too large for memory; see also `open_series`.
    """
    with open_series([path], z_step_um=z_step_um, channel=channel, position=position) as series:
        size = known_pixel_um(path, series.pixel_um if pixel_um is None else pixel_um)
        height, width = series.shape
        planes: dict[float, list[Plane]] = {}
        for plane in (plane for sweep in series.sweeps for plane in sweep.planes):
            planes.setdefault(round(plane.z_um, 3), []).append(plane)
        if len(planes) * height * width * 4 > MOST_BYTES:
            raise InputError(
                f"{path} has {len(planes)} planes of {width}×{height}, which is more than fits in "
                "memory: crop the recording, or take fewer planes"
            )
        places = sorted(planes)
        pixels = np.zeros((len(places), height, width), np.float32)
        counts = []
        for total, place in zip(pixels, places, strict=True):
            reads = [read for plane in planes[place] for read in plane.reads]
            for read in reads:
                frame = read()
                total += frame / len(reads)
            counts.append(len(reads))
        full = end_of_scale(series.metadata, frame.dtype)
        full = saturation if saturation is not None else min(full, cut_off_at(pixels))
        return PlaneStack(
            np.array(places),
            pixels,
            size,
            float(full),
            min(counts),
            series.channel,
            dict(series.metadata),
            series.notes,
            series.counted,
        )
