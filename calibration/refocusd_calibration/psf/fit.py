"""Fits a law of blur to the observed values, with uncertainties from the replicates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from refocusd.profiles.profile import Measured
from refocusd_calibration.estimates import measured
from refocusd_calibration.psf.laws import BlurLaw, Floats
from refocusd_calibration.psf.observed import AMPLITUDE_SPREAD, Observed, Weighted

Misfit = Callable[[Floats], Floats]

#: Fewest replicates from which their spread can be estimated.
_ENOUGH_REPLICATES = 4


@dataclass(frozen=True, slots=True)
class LawFit:
    """A fitted law.

    Parameters
    ----------
    law : BlurLaw
    values : ndarray of float64, shape (parameters,)
    influence : ndarray of float64, shape (replicates, parameters)
        Contribution of each replicate to the error of the values.
    covariance : ndarray of float64, shape (parameters, parameters)
        Covariance of the values, from the replicates if there are enough.
    replicates_decide : bool
        False if there are too few replicates; the covariance then follows from the weights.
    chi2 : float
        Weighted sum of the squared residuals.
    freedom : int
        Degrees of freedom: values minus parameters, amplitudes and backgrounds.
    residual_rms : float
        Root mean square of the residuals over that of the fitted values, weighted by area.
    shown : Weighted
        The law's values with amplitudes and backgrounds, and the residuals.
    at_bound : tuple of str
        Parameters that ended at a bound and are not reliable.
    """

    law: BlurLaw
    values: Floats
    influence: Floats
    covariance: Floats
    replicates_decide: bool
    chi2: float
    freedom: int
    residual_rms: float
    shown: Weighted
    at_bound: tuple[str, ...]

    @property
    def uncertainty(self) -> Floats:
        """Standard uncertainty of each value."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))

    def measured(self, parameter: str) -> Measured | None:
        """One parameter with its uncertainty; None if the law does not have it."""
        if parameter not in self.law.parameters:
            return None
        place = self.law.parameters.index(parameter)
        return measured(self.values[place], self.uncertainty[place])

    def spread(self, errors: Floats) -> Floats:
        """Standard uncertainty of quantities, from their error in each replicate (first axis)."""
        count = len(errors)
        variance = (errors**2).sum(0) * count / max(1, count - 1)
        return np.asarray(_student(count) * np.sqrt(variance), np.float64)


def fit_law(observed: Observed, law: BlurLaw, starts: Sequence[Floats] = ()) -> LawFit:
    """Fit a law by weighted least squares, eliminating amplitudes and backgrounds at each step.

    The uncertainty is the infinitesimal jackknife over the replicates (beads, or sectors
    of the spectrum).  It includes all variation between them, whether or not this is correlated from
    plane to plane and whether or not the weights are right (White 1982, Econometrica 50:1; Efron
    1982, The Jackknife), and is widened by Student's t for their number.

    Parameters
    ----------
    observed : Observed
    law : BlurLaw
    starts : sequence of ndarray, shape (parameters,)
        Further starting points; the best one is refined.

    Returns
    -------
    LawFit
    """
    low, high = law.bounds()
    scale = np.maximum(0.05 * np.abs(law.start()), 0.02 * (high - low))
    root = 1 / np.sqrt(observed.variances)

    def misfit(values: Floats) -> Floats:
        shown = observed.fitted(observed.shape_of(law, values))
        rest = (shown.residual * root).ravel()
        if observed.method == "planes":
            rest = np.append(rest, (shown.amplitude - 1) / AMPLITUDE_SPREAD)
        return np.asarray(rest, np.float64)

    span = high - low
    within = (low + 1e-6 * span, high - 1e-6 * span)
    begins = [np.clip(start, *within) for start in (law.start(), *starts)]
    values = _least(misfit, begins, low, high, scale)
    rest = misfit(values)
    jacobian = _jacobian(misfit, values, scale, low, high)
    shown = observed.fitted(observed.shape_of(law, values))
    table = observed.values.size
    weighted = observed.unexplained(shown.shape, observed.deviations) * root
    count = len(observed.deviations)
    normal = np.asarray(np.linalg.pinv(jacobian.T @ jacobian), np.float64)
    influence = -(weighted.reshape(count, -1) @ jacobian[:table]) @ normal * observed.spread_factor
    chi2 = float(rest @ rest)
    nuisance = len(observed.z_um) * (2 if observed.method == "beads" else 0)
    freedom = max(1, table - nuisance - len(values))
    enough = count >= _ENOUGH_REPLICATES
    covariance = normal * max(1.0, chi2 / freedom)
    if enough:
        covariance = _student(count) ** 2 * influence.T @ influence * count / (count - 1)
    near = (values - low < 1e-3 * span) | (high - values < 1e-3 * span)
    return LawFit(
        law=law,
        values=values,
        influence=influence,
        covariance=covariance,
        replicates_decide=enough,
        chi2=chi2,
        freedom=freedom,
        residual_rms=_residual_rms(observed, shown),
        shown=shown,
        at_bound=tuple(name for name, bad in zip(law.parameters, near, strict=True) if bool(bad)),
    )


def _residual_rms(observed: Observed, shown: Weighted) -> float:
    """Root mean square of the residuals over that of the fitted values, weighted by area."""
    area = observed.area_um2 if observed.method == "beads" else observed.bins
    fitted = shown.amplitude[:, None] * shown.shape
    return math.sqrt(float((area * shown.residual**2).sum()) / float((area * fitted**2).sum()))


def _least(
    misfit: Misfit, begins: list[Floats], low: Floats, high: Floats, scale: Floats
) -> Floats:
    """The parameters of the smallest misfit that is reached from several starting points."""

    def cost(values: Floats) -> float:
        return float(np.sum(misfit(values) ** 2))

    if len(begins) > 1:
        begins = sorted(begins, key=cost)
        # Each side of focus has its own minimum, so two starting points are followed.
        begins = [_solve(misfit, begin, low, high, scale, 6) for begin in begins[:2]]
        begins.sort(key=cost)
    return _solve(misfit, begins[0], low, high, scale, 40)


def _solve(
    misfit: Misfit, begin: Floats, low: Floats, high: Floats, scale: Floats, evaluations: int
) -> Floats:
    result = optimize.least_squares(
        misfit,
        begin,
        bounds=(low, high),
        x_scale=scale,
        diff_step=np.full(len(begin), 1e-4),
        max_nfev=evaluations,
        xtol=1e-6,
        ftol=1e-6,
    )
    return np.asarray(result.x, np.float64)


def _jacobian(misfit: Misfit, values: Floats, scale: Floats, low: Floats, high: Floats) -> Floats:
    """Central differences."""
    columns = []
    for place, step in enumerate(1e-2 * scale):
        up, down = values.copy(), values.copy()
        up[place] = min(values[place] + step, high[place])
        down[place] = max(values[place] - step, low[place])
        columns.append((misfit(up) - misfit(down)) / (up[place] - down[place]))
    return np.stack(columns, axis=1)


def _student(count: int) -> float:
    """Factor by which a standard uncertainty from `count` replicates is widened."""
    return float(stats.t.ppf(stats.norm.cdf(1.0), max(1, count - 1)))
