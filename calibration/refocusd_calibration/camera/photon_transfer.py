"""The photon-transfer curve: gain, read noise, saturation and linearity (EMVA 1288).

For a linear camera, the temporal variance is a linear function of the mean,
``variance = v0 + K * mean``, because shot noise is the only noise that grows with the light
(Janesick, Photon Transfer, 2007; EMVA 1288 release 4.0, section 6).  K is in counts per electron, and
v0 is the variance of read noise and rounding.  Dark frames lie on the same line, including their dark
current, whose electrons have shot noise like any others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from refocusd.profiles.profile import Measured
from refocusd_calibration.camera.levels import LevelStatistics
from refocusd_calibration.camera.series import BITS
from refocusd_calibration.estimates import measured, robust_sigma, weighted_fit

#: Variance of rounding to whole counts.
QUANTISATION = 1 / 12
#: The line is fitted up to this share of saturation (EMVA 1288: 70 %).
FITTED_SHARE = 0.7
#: ... and without levels that have more than this share of pixels near saturation.
NEAR_SHARE = 1e-4
NEAR = 0.95
#: Iterations of re-weighting; after the third, nothing relevant changes.
ROUNDS = 6

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line ``y = intercept + slope * x`` with its uncertainties (k = 1).

    Parameters
    ----------
    intercept, slope : Measured
    covariance : float
        Of intercept and slope.
    """

    intercept: Measured
    slope: Measured
    covariance: float

    def at(self, x: Floats) -> Floats:
        """The line's y at each x."""
        return np.asarray(self.intercept.value + self.slope.value * x)


@dataclass(frozen=True, slots=True)
class Saturation:
    """Saturation of the pixels.

    Parameters
    ----------
    counts : float
        The level at which pixels stop rising; the end of the scale if no frame reaches it.
    reached : bool
        Whether the series reaches it.
    uncertainty : float
        Standard uncertainty of `counts`.
    """

    counts: float
    reached: bool
    uncertainty: float


def weighted_line(x: Floats, y: Floats, variances: Floats) -> Line:
    """Fit a straight line by weighted least squares.

    If the residuals are larger than the stated variances explain, the uncertainties
    are widened by the Birge ratio.
    """
    fit = weighted_fit(np.stack([np.ones_like(x), x], axis=1), y, 1 / variances)
    freedom = len(x) - 2
    wider = math.sqrt(max(1.0, fit.chi2 / freedom)) if freedom > 0 else 1.0
    intercept, slope = (
        measured(*pair) for pair in zip(fit.coefficients, wider * fit.sigma, strict=True)
    )
    return Line(intercept, slope, float(fit.covariance[0, 1]) * wider**2)


def fit_transfer(levels: Sequence[LevelStatistics], offset: float) -> Line:
    """Fit the photon-transfer line to dark and lit levels.

    The weights come from the fitted line, not from the measured variances; otherwise low readings
    would count more, which biases the slope downwards.  The variance of a level's variance is that
    of a normal distribution, ``2 v^2 / (N - 1)`` for each pixel, plus the excess of the Poisson
    distribution; the error of the mean contributes through the slope.

    Parameters
    ----------
    levels : sequence of LevelStatistics
        Two or more levels of different brightness.
    offset : float
        Counts without light.

    Returns
    -------
    Line
        Variance in counts² against mean counts above the offset.
    """
    x = np.array([level.mean - offset for level in levels])
    y = np.array([level.variance for level in levels])
    frames = np.array([level.frames for level in levels], np.float64)
    pixels = np.array([level.pixels for level in levels], np.float64)
    predicted = np.maximum(y, QUANTISATION)
    slope, floor = 0.0, float(y.min())
    line: Line | None = None
    for _ in range(ROUNDS):
        shot = np.maximum(predicted - floor, 0.0)
        of_variance = 2 * predicted**2 / (frames - 1) + slope**2 * shot / frames
        of_mean = slope**2 * predicted / frames
        line = weighted_line(x, y, (of_variance + of_mean) / pixels)
        slope, floor = max(line.slope.value, 0.0), max(line.intercept.value, 0.0)
        predicted = np.maximum(line.at(x), QUANTISATION)
    assert line is not None
    return line


def dark_line(levels: Sequence[LevelStatistics]) -> tuple[Measured, Measured | None]:
    """Offset without exposure, counts, and dark signal, counts per millisecond.

    With only one exposure, the dark signal is None, and the offset is the mean of that exposure.
    """
    if len(levels) == 1:
        return measured(levels[0].mean, levels[0].mean_error), None
    x = np.array([level.exposure_ms for level in levels])
    y = np.array([level.mean for level in levels])
    line = weighted_line(x, y, np.array([max(level.mean_error, 1e-9) ** 2 for level in levels]))
    return line.intercept, line.slope


def read_noise(line: Line) -> tuple[Measured, bool]:
    """Read noise in electrons, and whether it exceeds the rounding.

    Dark noise below 0.24 counts is hidden by the rounding (EMVA 1288 release 4.0, section 6.7).
    The upper limit is then 0.4 counts, which the value and its uncertainty express.
    """
    slope, variance = line.slope.value, line.intercept.value - QUANTISATION
    if line.intercept.value < 0.24**2 or variance <= 0:
        return measured(0.2 / slope, 0.2 / slope / math.sqrt(3)), False
    counts = math.sqrt(variance)
    # Relative variances of the root of v0 and of K, and their covariance.
    relative = (
        (line.intercept.uncertainty / (2 * variance)) ** 2
        + (line.slope.uncertainty / slope) ** 2
        - line.covariance / (variance * slope)
    )
    value = counts / slope
    return measured(value, value * math.sqrt(max(relative, 0.0))), True


def find_saturation(
    lit: Sequence[LevelStatistics], offset: float, bits: int | None, largest_count: int
) -> Saturation:
    """Find saturation: a value at which pixels pile up, or a collapse of the variance.

    Parameters
    ----------
    lit : sequence of LevelStatistics
    offset : float
        Counts without light.
    bits : int or None
        Bits of the counts if known; otherwise the fewest that can hold the largest count.
    largest_count : int
        Largest value of the pixel type.
    """
    brightest = max(lit, key=lambda level: level.mean)
    top = max(level.largest for level in lit)
    if _piles_up(brightest):
        return Saturation(float(brightest.largest), reached=True, uncertainty=0.5 / math.sqrt(3))
    lower = [level for level in lit if level.mean - offset <= 0.5 * (brightest.mean - offset)]
    if len(lower) >= 2:
        plateau = _plateau(brightest, fit_transfer(lower, offset), offset)
        if plateau is not None:
            return plateau
    bits = bits or next((b for b in BITS if top < 2**b), 16)
    end = min(2**bits - 1, largest_count)
    return Saturation(float(max(end, top)), reached=False, uncertainty=0.0)


def _plateau(level: LevelStatistics, line: Line, offset: float) -> Saturation | None:
    """Saturation by full wells, whose pixels have almost no noise for their brightness; None without them."""
    # A few frames determine a pixel's variance poorly, so that of its neighbourhood is used.
    variance = ndimage.uniform_filter(level.variance_map, 5, mode="nearest")
    full = variance < 0.5 * line.at(level.mean_map - offset)
    if full.mean() < 0.05:
        return None
    counts = level.mean_map[full]
    # Doubled, because pixels beside the full ones that are not quite full are lower.
    error = math.hypot(0.5, 2 * robust_sigma(counts) / math.sqrt(counts.size / 25))
    return Saturation(float(np.median(counts)), reached=True, uncertainty=error)


def _piles_up(level: LevelStatistics) -> bool:
    counts = np.flatnonzero(level.histogram)
    at_top = int(level.histogram[counts[-1]])
    below = int(level.histogram[counts[-2]]) if len(counts) > 1 else 0
    # The tail of the noise gets thinner towards the top; saturation does the opposite.
    return at_top > 2 * below and at_top > 0.005 * int(level.histogram.sum())


def fitted_levels(
    lit: Sequence[LevelStatistics], offset: float, saturation: Saturation
) -> list[LevelStatistics]:
    """Levels below 70 % of saturation, with almost no pixel near saturation."""
    span = saturation.counts - offset
    return [
        level
        for level in lit
        if level.mean - offset <= FITTED_SHARE * span
        and level.share_at_or_above(offset + NEAR * span) <= NEAR_SHARE
    ]


def linearity_error_percent(
    lit: Sequence[LevelStatistics], offset: float, saturation: Saturation
) -> float | None:
    """Largest deviation of the mean, as a function of exposure, from a straight line, percent.

    The range is 5 to 95 % of saturation (up to the brightest level if saturation is not reached), and the
    line minimises relative deviations (EMVA 1288 release 4.0, section 6.6).  None if there are
    fewer than four exposures in this range.
    """
    top = saturation.counts - offset
    if not saturation.reached:
        top = max(level.mean - offset for level in lit) / 0.95
    used = [
        level
        for level in lit
        if 0.05 * top <= level.mean - offset <= 0.95 * top
        and level.share_at_or_above(saturation.counts) <= NEAR_SHARE
    ]
    if len(used) < 4:
        return None
    x = np.array([level.exposure_ms for level in used])
    y = np.array([level.mean - offset for level in used])
    line = weighted_line(x, y, y**2)
    fitted = line.at(x)
    return float(100 * np.max(np.abs(y - fitted) / np.abs(fitted)))
