"""Maps with one value for each pixel (offset, variance, gain, flat field), and defective pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from refocusd_calibration.camera.levels import LevelStatistics, level_statistics
from refocusd_calibration.camera.photon_transfer import Line
from refocusd_calibration.camera.series import Level
from refocusd_calibration.estimates import robust_sigma

Map = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Fewest frames for a map of the offset, and of the variance (uncertainty 14 % for each pixel).
OFFSET_FRAMES = 8
VARIANCE_FRAMES = 100
#: Fewest degrees of freedom of lit frames for a map of the gain (uncertainty 6 % for each pixel).
GAIN_FREEDOM = 500


@dataclass(frozen=True, slots=True)
class FlatField:
    """The relative response of each pixel to the light of the flat series.

    Parameters
    ----------
    flat : ndarray of float64, shape (height, width)
        Relative response, mean 1.
    smooth : ndarray, same shape
        Its large-scale part: the shading of the illumination.
    noise : float
        Standard error of a pixel of `flat`.
    prnu : float
        Standard deviation of flat / smooth over good pixels, without noise.
    """

    flat: Map
    smooth: Map
    noise: float
    prnu: float

    @property
    def is_smoothed(self) -> bool:
        """Whether there are too few frames to distinguish the pixels' responses from noise."""
        return self.noise > 0.5 * self.prnu

    @property
    def stored(self) -> Map:
        """The better correction: the flat itself, or its smooth part if the flat would add noise."""
        return self.smooth if self.is_smoothed else self.flat


def hot_pixels(dark: LevelStatistics) -> Mask:
    """Pixels whose dark signal stands out at the longest exposure; bool, shape (height, width).

    The excess must be above six robust standard deviations of the pixels' means and above twice the
    noise of a frame; less is harmless.
    """
    excess = dark.mean_map - np.median(dark.mean_map)
    noise = math.sqrt(float(np.median(dark.variance_map)))
    limit = max(6 * robust_sigma(excess), 6 * noise / math.sqrt(dark.frames), 2 * noise, 1.0)
    return np.asarray(excess > limit)


def noisy_pixels(dark: LevelStatistics) -> Mask:
    """Pixels with more than ten times the usual variance, beyond chance; none with fewer than 16 frames."""
    if dark.frames < 16:
        return np.zeros(dark.variance_map.shape, np.bool_)
    freedom = dark.frames - 1
    by_chance = stats.chi2.isf(1e-9, freedom) / freedom
    return np.asarray(dark.variance_map > max(10.0, by_chance) * np.median(dark.variance_map))


def dead_pixels(field: FlatField) -> Mask:
    """Pixels whose response is less than half or more than one and a half times their neighbours'."""
    relative = field.flat / field.smooth
    return np.asarray(np.abs(relative - 1) > max(0.5, 6 * field.noise))


def dsnu_counts(dark: LevelStatistics, bad: Mask) -> float:
    """Standard deviation of the good pixels' dark means, counts, without the noise of the means."""
    spread = float(np.var(dark.mean_map[~bad], ddof=1))
    return math.sqrt(max(spread - dark.variance / dark.frames, 0.0))


def smoothed(values: Map, bad: Mask, sigma: float) -> Map:
    """Gaussian mean of the good pixels around each one."""
    weights = ndimage.gaussian_filter((~bad).astype(np.float64), sigma, mode="nearest")
    sums = ndimage.gaussian_filter(np.where(bad, 0.0, values), sigma, mode="nearest")
    return np.asarray(sums / np.maximum(weights, 1e-9))


def _read_again(
    levels: Sequence[Level], means: Sequence[LevelStatistics], offset: float, bad: Mask
) -> Iterator[LevelStatistics]:
    """Statistics, with maps, of the levels whose exposures occur in `means`."""
    chosen = {level.exposure_ms for level in means}
    for level in levels:
        if level.exposure_ms in chosen:
            yield level_statistics(level, offset=offset, bad=bad)


def flat_field(
    levels: Sequence[Level],
    means: Sequence[LevelStatistics],
    dark: LevelStatistics,
    offset: float,
    bad: Mask,
) -> FlatField:
    """Average the brightest fitted levels, each divided by its mean.

    Parameters
    ----------
    levels : sequence of Level
        All lit levels; their frames are read again.
    means : sequence of LevelStatistics
        Statistics of the levels to which the photon-transfer line was fitted.
    dark : LevelStatistics
        Its mean map is subtracted.
    offset : float
        Counts without light.
    bad : ndarray of bool, shape (height, width)
    """
    brightest = max(level.mean for level in means) - offset
    bright = [level for level in means if level.mean - offset >= 0.4 * brightest]
    total = np.zeros(bad.shape, np.float64)
    frames, noise = 0, 0.0
    dark_signal = dark.mean_map - dark.mean
    for found in _read_again(levels, bright, offset, bad):
        signal = found.mean - offset
        total += found.frames * (found.mean_map - offset - dark_signal) / signal
        noise += found.frames * found.variance / signal**2
        frames += found.frames
    flat = total / frames
    noise = math.sqrt(noise) / frames
    noise = math.hypot(noise, math.sqrt(dark.variance / dark.frames) / brightest)
    flat /= float(flat[~bad].mean())
    sigma = max(3.0, min(bad.shape) / 48)
    smooth = smoothed(flat, bad, sigma)
    relative = (flat / smooth)[~bad]
    # The spread is taken from percentiles, because a speck of dust is not the pixels' response.
    low, high = np.percentile(relative, (15.865, 84.135))
    prnu = math.sqrt(max(((high - low) / 2) ** 2 - noise**2, 0.0))
    flat = np.where(bad, smooth, flat)
    return FlatField(flat=flat / flat.mean(), smooth=smooth / smooth.mean(), noise=noise, prnu=prnu)


def gain_map(
    levels: Sequence[Level],
    means: Sequence[LevelStatistics],
    dark: LevelStatistics,
    line: Line,
    offset: float,
    bad: Mask,
) -> Map | None:
    """Electrons per count of each pixel; None if there are too few frames.

    The gain is the inverse slope of each pixel's variance against its mean, through its own dark
    point, by least squares with the weights of the common line (Huang et al. 2013, Nat. Methods
    10:653, supplementary note).
    """
    if sum(level.frames - 1 for level in means) < GAIN_FREEDOM or dark.frames < VARIANCE_FRAMES:
        return None
    above = np.zeros(bad.shape, np.float64)
    below = np.zeros(bad.shape, np.float64)
    for found in _read_again(levels, means, offset, bad):
        weight = (found.frames - 1) / float(line.at(np.array([found.mean - offset]))[0]) ** 2
        signal = found.mean_map - dark.mean_map
        above += weight * signal * (found.variance_map - dark.variance_map)
        below += weight * signal**2
    slope = above / np.maximum(below, 1e-12)
    usable = ~bad & (slope > 0.1 * line.slope.value)
    gains = np.full(bad.shape, 1 / line.slope.value)
    gains[usable] = 1 / slope[usable]
    return gains
