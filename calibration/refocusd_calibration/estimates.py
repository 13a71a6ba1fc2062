"""Weighted fits and uncertainties for all measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from refocusd.profiles.profile import Measured

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearFit:
    """A linear least-squares fit.

    Parameters
    ----------
    coefficients : ndarray of float64, shape (terms,)
    covariance : ndarray of float64, shape (terms, terms)
        Of the coefficients, if the weights are inverse variances.
    residual : ndarray of float64, shape (values,)
        Observed minus fitted.
    chi2 : float
        Weighted sum of the squared residuals.
    """

    coefficients: Floats
    covariance: Floats
    residual: Floats
    chi2: float

    @property
    def sigma(self) -> Floats:
        """Standard uncertainty of each coefficient."""
        return np.sqrt(np.diag(self.covariance))


def weighted_fit(design: Floats, values: Floats, weights: Floats) -> LinearFit:
    """Fit ``design @ coefficients`` to values by weighted least squares.

    Parameters
    ----------
    design : ndarray of float64, shape (values, terms)
        The columns may differ by orders of magnitude.
    values, weights : ndarray of float64, shape (values,)
    """
    scale = np.abs(design).max(axis=0)
    scale[scale == 0] = 1
    scaled = design / scale
    covariance = np.linalg.inv(scaled.T @ (scaled * weights[:, None]))
    coefficients = covariance @ (scaled.T @ (weights * values))
    residual = values - scaled @ coefficients
    chi2 = float((weights * residual**2).sum())
    return LinearFit(coefficients / scale, covariance / np.outer(scale, scale), residual, chi2)


def robust_sigma(values: NDArray[Any]) -> float:
    """Standard deviation of normal values, from the median absolute deviation."""
    return float(stats.median_abs_deviation(values, axis=None, scale="normal"))


def jackknife(replicates: Floats) -> Floats:
    """Standard uncertainty from leave-one-group-out replicates along the first axis (Efron 1982)."""
    count = len(replicates)
    return np.asarray(np.sqrt((count - 1) * np.var(replicates, axis=0)))


def measured(value: float, uncertainty: float, scale: float = 1.0) -> Measured:
    """A number and its standard uncertainty, both multiplied by `scale`."""
    return Measured(value=float(value) * scale, uncertainty=float(uncertainty) * math.fabs(scale))
