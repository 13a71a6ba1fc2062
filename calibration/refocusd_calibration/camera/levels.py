"""Statistics of one level (frames at one exposure), in one pass over its frames.

The temporal variance of each pixel is computed with Welford's method, after the frames have been
brought to the same brightness: dark frames by subtracting their mean, lit frames by scaling their
signal.  Neither a drifting baseline nor a flickering lamp then counts as noise of the camera.  With
two frames, this is the pair difference of EMVA 1288 (release 4.0, section 6.6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.frame import Pixels
from refocusd_calibration.camera.series import Level

Map = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LevelStatistics:
    """Statistics of the frames at one exposure.

    Parameters
    ----------
    exposure_ms : float
    frames : int
        Number of frames.
    mean : float
        Mean counts over good pixels and all frames.
    mean_error : float
        Standard error of `mean`, from the spread of the frames' means.
    variance : float
        Temporal variance, counts², mean over good pixels.
    pixels : int
        Number of good pixels.
    frame_means : tuple of float
        Mean counts of each frame, in the order taken.
    structure : float
        Correlation of neighbours in the difference of the first and last frame; near 0
        for noise, larger if something moved.
    structure_error : float
        Standard error of `structure` for pure noise.
    histogram : ndarray of int64
        Histogram of the counts of good pixels in all frames.
    mean_map, variance_map : ndarray of float64, shape (height, width)
        Mean (counts) and temporal variance (counts²) of each pixel.
    """

    exposure_ms: float
    frames: int
    mean: float
    mean_error: float
    variance: float
    pixels: int
    frame_means: tuple[float, ...]
    structure: float
    structure_error: float
    histogram: NDArray[np.int64]
    mean_map: Map
    variance_map: Map

    @property
    def largest(self) -> int:
        """The largest count of any good pixel."""
        return int(np.flatnonzero(self.histogram)[-1])

    def share_at_or_above(self, count: float) -> float:
        """Share of good pixels, in all frames, with at least `count` counts."""
        first = max(0, math.ceil(count))
        return float(self.histogram[first:].sum() / self.histogram.sum())


def level_statistics(
    level: Level, *, offset: float | None = None, bad: Mask | None = None
) -> LevelStatistics:
    """Compute the statistics of a level in one pass over its frames.

    Parameters
    ----------
    level : Level
        A level of two or more frames.
    offset : float, optional
        Counts without light; None for dark frames.
    bad : ndarray of bool, shape (height, width), optional
        Pixels that are left out of everything except the maps.

    Raises
    ------
    InputError
        If frames differ in size.
    """
    first = level.reads[0]()
    good = np.ones(first.shape, np.bool_) if bad is None else ~bad
    mean = np.zeros(first.shape, np.float64)
    squares = np.zeros(first.shape, np.float64)
    bins = 256 if first.dtype == np.uint8 else 65536
    histogram = np.zeros(bins, np.int64)
    means: list[float] = []
    ratios: list[float] = []
    frame = first
    for number, frame in enumerate(level.frames(), 1):
        _refuse_other_size(first, frame, level.exposure_ms)
        chosen = frame[good]
        histogram += np.bincount(chosen, minlength=bins)
        means.append(float(chosen.mean(dtype=np.float64)))
        values, ratio = _levelled(frame, means[-1], means[0], offset)
        ratios.append(ratio)
        delta = values - mean
        mean += delta / number
        values -= mean
        values *= delta
        squares += values
    squares /= level.count - 1
    # The variance of shot noise is proportional to the light, that of scaled frames to its square.
    squares /= float(np.mean(ratios))
    average, pixels = float(np.mean(means)), int(good.sum())
    spread = float(np.std(means, ddof=1)) / math.sqrt(level.count)
    variance = float(squares[good].mean())
    chance = math.sqrt(variance / (level.count * pixels))
    ends = ((first, means[0]), (frame, means[-1]))
    one, other = (_levelled(end, end_mean, means[0], offset)[0] for end, end_mean in ends)
    structure, structure_error = pattern_correlation(one, other, bad)
    return LevelStatistics(
        exposure_ms=level.exposure_ms,
        frames=level.count,
        mean=average,
        mean_error=max(spread, chance),
        variance=variance,
        pixels=pixels,
        frame_means=tuple(means),
        structure=structure,
        structure_error=structure_error,
        histogram=histogram,
        mean_map=_brought_to(average, mean, means[0], offset),
        variance_map=squares,
    )


def _brought_to(average: float, mean: Map, first: float, offset: float | None) -> Map:
    """A map with the average brightness of all frames instead of that of the first one."""
    if offset is None:
        return mean + (average - first)
    return (
        offset + (mean - offset) * ((average - offset) / (first - offset))
        if first > offset
        else mean
    )


def _refuse_other_size(first: Pixels, frame: Pixels, exposure_ms: float) -> None:
    if frame.shape != first.shape:
        raise InputError(
            f"frames of {first.shape[1]}×{first.shape[0]} px and of {frame.shape[1]}×"
            f"{frame.shape[0]} px are mixed at {exposure_ms:g} ms: take all with one region"
        )


def _levelled(
    frame: NDArray[np.uint8] | NDArray[np.uint16], mean: float, goal: float, offset: float | None
) -> tuple[Map, float]:
    values = frame.astype(np.float64)
    # A frame with almost no signal cannot be scaled, and is treated as dark.
    if offset is None or min(mean, goal) - offset < 1.0:
        values += goal - mean
        return values, 1.0
    ratio = (goal - offset) / (mean - offset)
    values -= offset
    values *= ratio
    values += offset
    return values, ratio


def pattern_correlation(first: Map, last: Map, bad: Mask | None) -> tuple[float, float]:
    """Correlation of the difference of two frames with itself, shifted by a few pixels.

    Noise has none.  The shift is three 2×2 blocks down and to the right, because pixels of one
    row or one column of a camera share noise, but diagonal neighbours do not.

    Returns
    -------
    (float, float)
        The correlation, and its standard error for pure noise.
    """
    difference = last - first
    if bad is not None:
        difference[bad] = 0.0
    height, width = (side // 2 * 2 for side in difference.shape)
    blocks = difference[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    blocks -= blocks.mean()
    a, b = blocks[:-3, :-3], blocks[3:, 3:]
    norm = math.sqrt(float(np.vdot(a, a)) * float(np.vdot(b, b)))
    return (float(np.vdot(a, b)) / norm if norm > 0 else 0.0), 1 / math.sqrt(a.size)
