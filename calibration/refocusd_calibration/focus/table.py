"""Measures all planes of a series: metrics by tile, light, saturation, shifts and repeated frames.

Planes are read one after the other, so that only two of them are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import windows

from refocusd.errors import InputError
from refocusd.frame import Pixels
from refocusd.profiles.hot_pixels import HotPixels
from refocusd_calibration.focus.metrics import METRICS, Grid, find_hot_pixels, measure_frame
from refocusd_calibration.stage.z_sweeps import Sweep, ZSeries, cut_off_at, end_of_scale

Floats = NDArray[np.float64]

#: Planes from which offset and hot pixels are found.
PROBES = 5
#: A tile has content if its noise-free score is positive in at least this many planes.
CONTENT_PLANES = 2
#: Side of the middle of the frame in which shifts are measured, px.
SHIFT_SIDE = 384


@dataclass(frozen=True, slots=True)
class SweepTable:
    """Measurements of one sweep of P planes with T tiles.

    Parameters
    ----------
    direction : int
        1 from below, -1 from above, 0 for neither.
    z_um : ndarray, shape (P,)
        Stage positions, in the order taken.
    time_s : ndarray, shape (P,), or None
    values : dict of str to ndarray, shape (P, T)
        Values of each metric.
    light, saturated : ndarray, shape (P,)
        Mean counts above the offset; share of pixels at the end of the scale.
    shifts_px : ndarray, shape (P - 1, 2)
        Shift of each plane relative to the one before, down and right.
    alike : ndarray, shape (P - 1,)
        Correlation of each plane with the one before, after correction of the shift.
    repeated : int
        Number of planes that equal the one before pixel by pixel.
    """

    direction: int
    z_um: Floats
    time_s: Floats | None
    values: dict[str, Floats]
    light: Floats
    saturated: Floats
    shifts_px: Floats
    alike: Floats
    repeated: int

    def curve(self, metric: str, tiles: NDArray[np.bool_]) -> Floats:
        """The metric's mean over some tiles, shape (P,)."""
        return np.asarray(self.values[metric][:, tiles].mean(axis=1))


@dataclass(frozen=True, slots=True)
class FocusTable:
    """All sweeps of one field.

    Parameters
    ----------
    grid : Grid
    sweeps : tuple of SweepTable
    content : ndarray of bool, shape (tiles,)
        Tiles with structure above the noise.
    offset : float
        Offset of the camera, given or estimated, counts.
    hot : int
        Number of hot pixels, which were replaced.
    """

    grid: Grid
    sweeps: tuple[SweepTable, ...]
    content: NDArray[np.bool_]
    offset: float
    hot: int


def measure_series(
    series: ZSeries,
    *,
    offset: float | None = None,
    hot_pixels: Sequence[tuple[int, int]] = (),
    full_scale: float | None = None,
    on_plane: Callable[[], None] | None = None,
) -> FocusTable:
    """Compute every metric of every tile of every plane.

    Parameters
    ----------
    series : ZSeries
    offset : float, optional
        Offset of the camera, counts; by default the lowest first percentile of some planes.
    hot_pixels : sequence of (y, x)
        Known hot pixels; others are found.
    full_scale : float, optional
        Counts of saturation; by default the end of the camera's scale according to the metadata or the
        pixel type.
    on_plane : callable, optional
        Called after each plane, for a progress bar.

    Raises
    ------
    InputError
        If a frame cannot be read, or no tile has content.
    """
    grid = Grid.over(series.shape)
    probes = _probes(series.sweeps[0])
    if offset is None:
        offset = float(min(np.percentile(pixels, 1) for pixels in probes))
    height, width = series.shape
    found = find_hot_pixels(probes)
    known = [(y, x) for y, x in hot_pixels if 0 <= y < height and 0 <= x < width]
    found[tuple(np.array(known, int).reshape(-1, 2).T)] = True
    hot = HotPixels(np.flatnonzero(found).tolist(), series.shape)
    top = end_of_scale(series.metadata, probes[0].dtype) if full_scale is None else full_scale
    sweeps = tuple(_measure(sweep, grid, offset, hot, top, on_plane) for sweep in series.sweeps)
    scores = np.concatenate([sweep.values["focus_score"] for sweep in sweeps])
    content = (scores > 0).sum(axis=0) >= CONTENT_PLANES
    if not content.any():
        raise InputError(
            "the field is empty: no part of any plane has structure above the noise; move to a "
            "place with specimen, focus roughly, and give it more light or exposure"
        )
    return FocusTable(grid, sweeps, content, offset, int(found.sum()))


def _probes(sweep: Sweep) -> list[Pixels]:
    places = np.unique(np.linspace(0, len(sweep.planes) - 1, PROBES).round().astype(int))
    return [sweep.planes[int(place)].reads[0]() for place in places]


def _measure(
    sweep: Sweep,
    grid: Grid,
    offset: float,
    hot: HotPixels,
    top: float,
    on_plane: Callable[[], None] | None,
) -> SweepTable:
    rows: dict[str, list[Floats]] = {name: [] for name in METRICS}
    light, saturated, shifts, alike = [], [], [], []
    before: Pixels | None = None
    repeated = 0
    for plane in sweep.planes:
        frames = [read() for read in plane.reads]
        if any(frame.shape != grid.shape for frame in frames):
            raise InputError(
                f"{plane.name} differs in size from the first plane: record the series again"
            )
        mended = [hot.repaired(frame) for frame in frames]
        measured = [measure_frame(frame, grid, offset) for frame in mended]
        for name in METRICS:
            rows[name].append(np.mean([values[name] for values, _ in measured], axis=0))
        light.append(float(np.mean([amount for _, amount in measured])))
        saturated.append(
            float(np.mean([(frame >= min(top, cut_off_at(frame))).mean() for frame in frames]))
        )
        if before is not None:
            repeated += int(np.array_equal(before, mended[0]))
            shift, likeness = compare_planes(mended[0], before)
            shifts.append(shift)
            alike.append(likeness)
        before = mended[0]
        if on_plane is not None:
            on_plane()
    times = [plane.time_s for plane in sweep.planes]
    known = [time for time in times if time is not None]
    return SweepTable(
        sweep.direction,
        sweep.z_um,
        np.array(known) if len(known) == len(times) else None,
        {name: np.array(values) for name, values in rows.items()},
        np.array(light),
        np.array(saturated),
        np.array(shifts).reshape(-1, 2),
        np.array(alike),
        repeated,
    )


def compare_planes(after: Pixels, before: Pixels) -> tuple[tuple[float, float], float]:
    """Shift of a plane relative to the one before, px down and right, and their correlation.

    The cross-correlation of the middle of the frame is not whitened, because whitening would amplify
    frequencies at which a defocused plane has only noise.  A tenth of a pixel is accurate enough here.

    Returns
    -------
    (float, float)
        (0, 0) if either plane is constant.
    float
        Correlation after correction of the shift, 0 to 1.
    """
    from skimage import registration

    middle = tuple(
        slice(max(0, (side - SHIFT_SIDE) // 2), (side + SHIFT_SIDE) // 2) for side in after.shape
    )
    # Without a window, the edges, which do not move, would keep the peak at zero.
    window = np.outer(*(windows.tukey(side, 0.25) for side in after[middle].shape))
    looks = [
        (plane[middle] - np.float32(plane[middle].mean())) * window.astype(np.float32)
        for plane in (after, before)
    ]
    if not all(look.any() for look in looks):
        return (0.0, 0.0), 0.0
    correlate: Any = registration.phase_cross_correlation
    shift, error, _ = correlate(*looks, upsample_factor=10, normalization=None)
    return (float(shift[0]), float(shift[1])), math.sqrt(max(0.0, 1 - float(error) ** 2))
