"""Fits the focal surface over the field: tilt and curvature from the best z of each tile.

``z = c + a x + b y`` or, curved, ``z = c + a x + b y + q (x² + y²)``; x to the right and
y down from the centre of the field, all in um.  Tiles are weighted by their uncertainty
together with the scatter of the specimen itself (cells do not lie at one height), which
is estimated from the residuals; tiles beyond four robust deviations are left out.  The fit goes from
flat to plane to paraboloid if the Bayesian information criterion favours the step and the F-test
finds it significant (`P_STEP`), because a needless curvature would make the centre less certain.
Neighbouring tiles share specimen and stray light, so their errors are correlated, and the uncertainties
are at least those of a jackknife over blocks of neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from refocusd_calibration.estimates import LinearFit, jackknife, robust_sigma, weighted_fit

Floats = NDArray[np.float64]
Kind = Literal["flat", "plane", "paraboloid"]

#: Fewest tiles for a tilt, and for a curvature.
MIN_TILES = 6
MIN_TILES_CURVED = 9
#: Tiles farther from the surface than this many robust deviations are outliers ...
OUTLIER = 4.0
#: ... but at most this share of all tiles.
OUTLIER_SHARE = 0.25
#: Probability of an unjustified step to the next surface.
P_STEP = 0.01
#: Blocks along each side of the field for the jackknife.
BLOCKS = 4
_TERMS: dict[Kind, int] = {"flat": 1, "plane": 3, "paraboloid": 4}


@dataclass(frozen=True, slots=True)
class FocalSurface:
    """A fitted focal surface.

    Parameters
    ----------
    kind : {"flat", "plane", "paraboloid"}
        The kind that was chosen.
    coefficients : tuple of float
        c, a, b, and for a paraboloid q; those of the plane if flat was chosen.
    uncertainties : tuple of float
        Standard uncertainty of each coefficient.
    centre_um, centre_uncertainty_um : float
        Best z at the centre, averaged over the three kinds by their Akaike weights, because a
        curvature that is too small to be chosen still affects it (Burnham and Anderson 2002,
        Model Selection and Multimodel Inference, section 4.3).
    curvature : (float, float) or None
        q and its uncertainty, whether a paraboloid was chosen or not; None with too few tiles.
    p_plane, p_paraboloid : float
        F-tests: probability of such an improvement if there were no tilt, or no curvature.
    scatter_um : float
        Standard deviation of the specimen's height about the surface.
    used : ndarray of bool
        Tiles that were not outliers.
    """

    kind: Kind
    coefficients: tuple[float, ...]
    uncertainties: tuple[float, ...]
    centre_um: float
    centre_uncertainty_um: float
    curvature: tuple[float, float] | None
    p_plane: float
    p_paraboloid: float
    scatter_um: float
    used: NDArray[np.bool_]

    def figures(self) -> dict[str, float | str]:
        """Figures that decided the kind, as plain data."""
        return {
            "kind": self.kind,
            "p_plane": self.p_plane,
            "p_paraboloid": self.p_paraboloid,
            "scatter_um": self.scatter_um,
            "tiles_used": int(self.used.sum()),
        }


def fit_surface(
    x_um: Floats, y_um: Floats, z_um: Floats, uncertainty_um: Floats
) -> FocalSurface | None:
    """Fit the best z of tiles; None if there are fewer than `MIN_TILES` of them.

    Parameters
    ----------
    x_um, y_um, z_um, uncertainty_um : ndarray of float, shape (tiles,)
    """
    count = len(z_um)
    # Tiles in one row do not determine a tilt in the other direction.
    if count < MIN_TILES or np.linalg.matrix_rank(_design(x_um, y_um, 3)) < 3:
        return None
    most: Kind = "paraboloid" if count >= MIN_TILES_CURVED else "plane"
    design = _design(x_um, y_um, _TERMS[most])
    used = _inliers(design, z_um)
    x, y, z, u = x_um[used], y_um[used], z_um[used], uncertainty_um[used]
    n = len(z)
    design = _design(x, y, _TERMS[most])
    scatter = _scatter(design, z, u)
    weight = 1 / (u**2 + scatter**2)
    fits: dict[Kind, LinearFit] = {
        kind: weighted_fit(design[:, :terms], z, weight)
        for kind, terms in _TERMS.items()
        if terms <= design.shape[1]
    }
    curved = fits.get("paraboloid")
    p_plane = _f_test(fits["flat"], fits["plane"], 2, n - 3)
    p_curved = 1.0 if curved is None else _f_test(fits["plane"], curved, 1, n - 4)

    kind = _kind(fits, n, p_plane, p_curved)
    shown: Kind = "plane" if kind == "flat" else kind
    blocks = _blocks(x, y)
    sigma = {
        name: _sigma(fits[name], design[:, : _TERMS[name]], z, weight, blocks) for name in fits
    }
    centre, centre_uncertainty = _centre(fits, sigma)
    return FocalSurface(
        kind=kind,
        coefficients=tuple(float(value) for value in fits[shown].coefficients),
        uncertainties=tuple(float(value) for value in sigma[shown]),
        centre_um=centre,
        centre_uncertainty_um=centre_uncertainty,
        curvature=None
        if curved is None
        else (float(curved.coefficients[3]), float(sigma["paraboloid"][3])),
        p_plane=p_plane,
        p_paraboloid=p_curved,
        scatter_um=scatter,
        used=used,
    )


def _kind(fits: Mapping[Kind, LinearFit], count: int, p_plane: float, p_curved: float) -> Kind:
    """The surface with the most terms that both criterion and F-test accept."""
    criterion = {name: fit.chi2 + _TERMS[name] * math.log(count) for name, fit in fits.items()}
    kind: Kind = "flat"
    if p_plane < P_STEP and criterion["plane"] < criterion["flat"]:
        kind = "plane"
    if p_curved < P_STEP and criterion["paraboloid"] < min(criterion["plane"], criterion["flat"]):
        kind = "paraboloid"
    return kind


def _centre(fits: Mapping[Kind, LinearFit], sigma: Mapping[Kind, Floats]) -> tuple[float, float]:
    """Best z at the centre and its uncertainty, averaged by Akaike weights."""
    akaike = np.array([fit.chi2 + 2 * _TERMS[name] for name, fit in fits.items()])
    share = np.exp((akaike.min() - akaike) / 2)
    share /= share.sum()
    centres = np.array([fit.coefficients[0] for fit in fits.values()])
    centre = float(share @ centres)
    variances = np.array([sigma[name][0] ** 2 for name in fits]) + (centres - centre) ** 2
    return centre, math.sqrt(float(share @ variances))


def _blocks(x: Floats, y: Floats) -> NDArray[np.int_]:
    """Number of the block of neighbours that each tile belongs to."""

    def band(values: Floats) -> NDArray[np.int_]:
        span = float(np.ptp(values)) or 1.0
        return np.asarray(
            np.minimum((values - values.min()) / span * BLOCKS, BLOCKS - 1), dtype=int
        )

    return np.asarray(band(y) * BLOCKS + band(x))


def _sigma(
    fit: LinearFit, design: Floats, z: Floats, weight: Floats, blocks: NDArray[np.int_]
) -> Floats:
    """Standard uncertainties: those of the fit, or of the jackknife if they are larger."""
    analytic = fit.sigma
    names = np.unique(blocks)
    replicates = []
    for name in names:
        stay = blocks != name
        if np.linalg.matrix_rank(design[stay] / np.abs(design).max(axis=0)) < design.shape[1]:
            return analytic
        replicates.append(weighted_fit(design[stay], z[stay], weight[stay]).coefficients)
    if len(names) < 2 * design.shape[1]:
        return analytic
    return np.maximum(analytic, jackknife(np.array(replicates)))


def _design(x: Floats, y: Floats, terms: int) -> Floats:
    return np.stack([np.ones_like(x), x, y, x**2 + y**2], axis=1)[:, :terms]


def _inliers(design: Floats, z: Floats) -> NDArray[np.bool_]:
    """Tiles that are not outliers, by iteratively re-weighted least squares with Tukey's weights."""
    weight = np.ones(len(z))
    for _ in range(20):
        residual = weighted_fit(design, z, np.maximum(weight, 1e-6)).residual
        spread = robust_sigma(residual)
        if spread <= 0:
            break
        weight = np.maximum(1 - (residual / (6 * spread)) ** 2, 0) ** 2
    far = np.abs(residual) > OUTLIER * max(spread, 1e-9)
    if far.mean() > OUTLIER_SHARE:
        far = np.abs(residual) > np.quantile(np.abs(residual), 1 - OUTLIER_SHARE)
    return ~far


def _scatter(design: Floats, z: Floats, u: Floats) -> float:
    """Standard deviation beyond `u` that makes chi² equal its degrees of freedom."""
    free: int = len(z) - design.shape[1]

    def excess(scatter: float) -> float:
        return weighted_fit(design, z, 1 / (u**2 + scatter**2)).chi2 - free

    high = float(np.ptp(z))
    if free < 1 or excess(0.0) <= 0 or excess(high) >= 0:
        return 0.0 if free < 1 or excess(0.0) <= 0 else high
    root: float = optimize.brentq(excess, 0.0, high, xtol=1e-9 * high)
    return root


def _f_test(less: LinearFit, more: LinearFit, terms: int, free: int) -> float:
    if free < 1 or more.chi2 <= 0:
        return 1.0
    ratio = (less.chi2 - more.chi2) / terms / (more.chi2 / free)
    return float(stats.f.sf(max(ratio, 0.0), terms, free))
