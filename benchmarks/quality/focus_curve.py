"""Distance of a frame from focus, from its focus metric and a profile's focus curve.

The *ratio* is a frame's focus metric divided by that of the same field in focus; it is 1 in
focus and falls on both sides.  The curve measured at calibration gives the distance from focus
for each ratio, without a sign.  It holds for the specimen that it was measured on, and roughly
for others of similar structure, but not for another microscope.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from refocusd.errors import InputError
from refocusd.profiles.profile import FocusSection, Measured

Floats = NDArray[np.float64]

#: Number of distances at which the curve is sampled.
SAMPLES = 33


@dataclass(frozen=True, slots=True)
class FocusCurve:
    """Ratio of a focus metric to its value in focus, as a function of distance from focus.

    Parameters
    ----------
    metric : str
    distance_um : ndarray, shape (samples,)
        From 0 to the largest distance that has planes on both sides.
    ratio : ndarray, shape (samples,)
        Mean of both sides; never rises, and is 1 at 0.
    spread : ndarray, shape (samples,)
        Standard uncertainty of `ratio`: half the difference between the sides,
        combined with the deviation of their mean from the falling curve.
    focus_uncertainty_um : float
        Uncertainty of the zero of `distance_um`.
    """

    metric: str
    distance_um: Floats
    ratio: Floats
    spread: Floats
    focus_uncertainty_um: float

    @classmethod
    def of(cls, section: FocusSection, metric: str | None = None) -> Self:
        """The curve of one metric of a profile; by default the profile's own metric.

        The daemon measures ``focus_score`` in each frame.

        Raises
        ------
        InputError
            If the profile has no curve of this metric, its curve has no planes on both sides
            of focus or is zero in focus.
        """
        metric = metric or section.metric
        if metric not in section.curves:
            raise InputError(
                f"the profile has no curve of {metric!r}, only of {', '.join(section.curves)}: "
                "calibrate focus again"
            )
        z = np.array(section.z_um)
        y = np.array(section.curves[metric])
        focus = section.best_by_metric_um.get(metric, section.best_um)
        away = z - focus.value
        reach = min(float(away.max(initial=0.0)), float(-away.min(initial=0.0)))
        if reach <= 0 or len(z) < 5:
            raise InputError(
                "the profile's through-focus series has no planes on both sides of focus: calibrate "
                "focus again with focus amid the range"
            )
        distance = np.linspace(0, reach, SAMPLES)
        sides = [_side(side * away, y, distance) for side in (1.0, -1.0)]
        mean = (sides[0] + sides[1]) / 2
        # The nearest curve that never rises, by least squares (Barlow et al. 1972).
        falling = np.asarray(isotonic_regression(mean, increasing=False).x, np.float64)
        top = float(falling[0])
        if top <= 0:
            raise InputError(f"{metric} is zero in focus: take another metric")
        noise = np.sqrt((sides[0] - sides[1]) ** 2 / 4 + (mean - falling) ** 2)
        return cls(metric, distance, falling / top, noise / top, focus.uncertainty)

    def ratio_at(self, defocus_um: float) -> float:
        """Expected ratio at a distance from focus; beyond the range, the ratio at its end."""
        return float(np.interp(abs(defocus_um), self.distance_um, self.ratio))

    def distance_at(self, ratio: float) -> Measured | None:
        """Distance from focus, um, at which a frame has this ratio.

        Returns
        -------
        Measured or None
            0 for a ratio of 1 or more; None for a ratio below all measured ones, that is,
            for a frame farther away than `distance_um` reaches.

        Raises
        ------
        InputError
            If the ratio is not a finite number.
        """
        if not math.isfinite(ratio):
            raise InputError(f"a ratio of {ratio} is none: a frame's metric over that in focus")
        if ratio < self.ratio[-1]:
            return None
        # Where the isotonic fit is flat, equal ratios are given one distance.
        value = float(np.interp(-ratio, -self.ratio, self.distance_um))
        spread = float(np.interp(value, self.distance_um, self.spread))
        near = float(np.interp(-min(1.0, ratio + spread), -self.ratio, self.distance_um))
        far = float(np.interp(-(ratio - spread), -self.ratio, self.distance_um))
        return Measured(
            value=value,
            uncertainty=math.hypot((far - near) / 2, self.focus_uncertainty_um),
        )


def _side(away: Floats, y: Floats, distance: Floats) -> Floats:
    """One side of the curve at the given distances; planes at the same place are averaged."""
    order = np.argsort(away, kind="stable")
    x, values = away[order], y[order]
    places, starts = np.unique(np.round(x, 4), return_index=True)
    means = np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))
    return np.asarray(np.interp(distance, places, means))
