"""Chooses the focus metric that decides, by judging every metric on the same planes.

A metric is *fit to decide* if its curve has one peak in each sweep, the peak lies within the
planes, and it exceeds the noise by `CONTRAST`.  Of these metrics, the one with the smallest
expected uncertainty of best focus decides.  The uncertainty combines the width, height, noise
and planes of a peak (for a parabola, up to a factor, ``u = noise · half_width² / (height ·
distance of planes)``).  With few planes it is itself uncertain, so between nearly equal metrics
(within `EQUAL`) the order of `METRICS` decides; otherwise each measurement might use another
metric.  If none is fit, the one that comes closest decides (peak within the planes, contrast, fewest
peaks), and a check says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd_calibration.focus.metrics import METRICS
from refocusd_calibration.focus.peak import Peak, count_peaks, fit_peak, noise_of

Floats = NDArray[np.float64]

#: A peak counts if its height is at least this many standard deviations of the noise.
CONTRAST = 5.0
#: Metrics whose uncertainty is within this factor of the smallest are equally good.
EQUAL = 2.5


@dataclass(frozen=True, slots=True)
class MetricFigures:
    """Figures of a metric: the worst over all sweeps.

    Parameters
    ----------
    metric : str
    peaks : int
        Number of maxima that stand out, including those at the ends of a sweep.
    inside : bool
        Whether the highest one lies within the planes of every sweep.
    contrast : float
        Height of the peak over the noise.
    width_um : float
        Depth of field by this metric.
    uncertainty_um : float
        Expected uncertainty of best focus from one sweep; infinite without a peak.
    """

    metric: str
    peaks: int
    inside: bool
    contrast: float
    width_um: float
    uncertainty_um: float

    @property
    def fit_to_decide(self) -> bool:
        """Whether there is one peak, within the planes and above the noise."""
        return self.peaks == 1 and self.inside and self.contrast >= CONTRAST


def judge_metric(metric: str, curves: Sequence[tuple[Floats, Floats]]) -> MetricFigures:
    """Figures of one metric.

    Parameters
    ----------
    metric : str
    curves : sequence of (z_um, values)
        The curve of each sweep, in the order of z.
    """
    judged = [_judge(z, y) for z, y in curves]
    return MetricFigures(
        metric,
        peaks=max(peaks for peaks, _, _ in judged),
        inside=all(
            peak is not None and is_inside(peak, z)
            for (_, peak, _), (z, _) in zip(judged, curves, strict=True)
        ),
        contrast=min(contrast for _, _, contrast in judged),
        width_um=max((2 * peak.half_depth_um if peak else math.inf) for _, peak, _ in judged),
        uncertainty_um=max(
            (math.hypot(peak.uncertainty_um, peak.model_um) if peak else math.inf)
            for _, peak, _ in judged
        ),
    )


def is_inside(peak: Peak, z_um: Floats) -> bool:
    """Whether the planes reach beyond the peak by at least one step on both sides."""
    low, high = float(z_um.min()), float(z_um.max())
    step = (high - low) / (len(np.unique(z_um)) - 1)
    return low + step <= peak.z_um <= high - step


def choose_metric(figures: Sequence[MetricFigures]) -> MetricFigures:
    """Choose the metric that decides."""
    fit = [item for item in figures if item.fit_to_decide]
    if not fit:
        return min(
            figures,
            key=lambda item: (
                not item.inside,
                item.contrast < CONTRAST,
                item.peaks,
                item.uncertainty_um,
            ),
        )
    least = min(item.uncertainty_um for item in fit)
    equal = [item for item in fit if item.uncertainty_um <= EQUAL * least]
    return min(equal, key=lambda item: METRICS.index(item.metric))


def _judge(z: Floats, y: Floats) -> tuple[int, Peak | None, float]:
    noise = noise_of(y)
    peaks = count_peaks(y, noise)
    smooth = np.convolve(y, (0.25, 0.5, 0.25), mode="valid")
    span = float(np.ptp(smooth))
    return peaks, fit_peak(z, y), span / noise if noise > 0 else (math.inf if span > 0 else 0.0)
