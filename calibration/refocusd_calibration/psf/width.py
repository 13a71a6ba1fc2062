"""Measures the width of each kernel, and how it differs between the two sides of focus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy.special import j0

from refocusd.profiles.profile import Measured
from refocusd_calibration.estimates import measured
from refocusd_calibration.psf.fit import LawFit
from refocusd_calibration.psf.laws import WIDTH_LEVEL, Floats, WaveLaw, kernel_sigma_um
from refocusd_calibration.psf.observed import Observed

#: Relative error of laws and sampling; part of a width's uncertainty.
_FLOOR = 0.003
#: A sign is observable above this many standard uncertainties ...
_SURE = 3.0
#: ... and if kernels of equal width on opposite sides differ by this much in contrast.
_CONTRAST = 0.03


@dataclass(frozen=True, slots=True)
class Widths:
    """Widths of the kernels as `laws.kernel_sigma_um` defines them.

    Parameters
    ----------
    sigma_um, model_um, uncertainty_um : ndarray of float64, shape (planes,)
        Measured width, width of the fitted law, and standard uncertainty of the measured width.
    errors_um : ndarray of float64, shape (replicates, planes)
        Contribution of each replicate to the error of the measured widths.
    """

    sigma_um: Floats
    model_um: Floats
    uncertainty_um: Floats
    errors_um: Floats


def kernel_widths(observed: Observed, fit: LawFit) -> Widths:
    """Measure each kernel's width.

    The transfer function is that of the law plus that of the residual, so the law contributes only
    what was not observed (for beads, the tails outside the radius; for planes, the in-focus kernel).

    Parameters
    ----------
    observed : Observed
    fit : LawFit
        Fit of any law that describes the kernels fairly well.
    """
    model = kernel_sigma_um(fit.law, fit.values, observed.z_um)
    errors = observed.unexplained(fit.shown.shape, observed.deviations)
    errors = errors * observed.spread_factor
    count, planes = errors.shape[:2]
    sigma, spread = model.copy(), np.zeros((count, planes))
    formal = np.zeros(planes)
    for plane in np.flatnonzero(np.isfinite(model)):
        centre = 1 / (2 * np.pi * model[plane])
        frequency = centre * np.geomspace(0.4, 2.5, 81)
        bridge = _to_transfer(observed, fit, int(plane), frequency)
        law = fit.law.transfer(fit.values, observed.z_um[plane : plane + 1], frequency)[0]
        whole = law + bridge @ fit.shown.residual[plane]
        below = np.flatnonzero(whole < WIDTH_LEVEL)
        if not below.size or below[0] == 0:
            continue
        high = int(below[0])
        slope = (whole[high] - whole[high - 1]) / (frequency[high] - frequency[high - 1])
        crossing = frequency[high] + (WIDTH_LEVEL - whole[high]) / slope
        sigma[plane] = 1 / (2 * np.pi * crossing)
        # d sigma = sigma / (f dH/df) dH, with the slope of the law, which is free of noise.
        law_slope = np.gradient(law, frequency)[high]
        gain = sigma[plane] / (crossing * law_slope) * bridge[high]
        spread[:, plane] = errors[:, plane] @ gain
        formal[plane] = float(np.sqrt((gain**2) @ observed.variances[plane]))
    uncertainty = fit.spread(spread) if fit.replicates_decide else formal
    uncertainty = np.hypot(uncertainty, _FLOOR * np.nan_to_num(sigma))
    return Widths(sigma, model, uncertainty, spread)


def _to_transfer(observed: Observed, fit: LawFit, plane: int, frequency: Floats) -> Floats:
    """Matrix from a plane's residuals to the transfer function, (frequencies, bins)."""
    if observed.method == "beads":
        waves = j0(2 * np.pi * np.outer(frequency, observed.bins))
        return np.asarray(waves * observed.area_um2 / fit.shown.amplitude[plane], np.float64)
    # A weighted mean of rings near the crossing, because one ring has few modes.
    centre = frequency[len(frequency) // 2]
    near = np.abs(np.log(observed.bins / centre)) < np.log(1.5)
    weight = np.where(near, 1 / observed.variances[plane], 0.0)
    if not near.any():
        return np.zeros((len(frequency), len(observed.bins)))
    reference = np.array([observed.reference(fit.values)])
    below = fit.law.transfer(fit.values, reference, observed.bins)[0]
    row = weight / weight.sum() * below / max(float(fit.shown.amplitude[plane]), 0.1)
    return np.broadcast_to(row, (len(frequency), len(row))).copy()


def asymmetry(observed: Observed, fit: LawFit, widths: Widths) -> Measured | None:
    """Relative difference in width between the sides of focus, mean over equal distances.

    It is the mean of ``2 (above - below) / (above + below)`` from a quarter of the largest distance that
    both sides have up to this distance.  The uncertainty includes that of the focus position.

    Returns
    -------
    Measured or None
        None if one side has fewer than two planes.
    """
    focus = float(fit.values[-1])
    good = np.isfinite(widths.sigma_um)
    z = observed.z_um[good]
    end = min(float(z.max(initial=focus)) - focus, focus - float(z.min(initial=focus)))
    distances = np.linspace(0.25 * end, end, 25)
    if end <= 0 or (z > focus).sum() < 2 or (z < focus).sum() < 2:
        return None

    def of(sigma: Floats, at: float) -> float:
        above = np.interp(at + distances, z, sigma)
        below = np.interp(at - distances, z, sigma)
        return float(np.mean(2 * (above - below) / (above + below)))

    sigma = widths.sigma_um[good]
    value = of(sigma, focus)
    gradient = optimize.approx_fprime(sigma, of, 1e-6 * sigma, focus)
    step = 1e-3 * end
    by_focus = (of(sigma, focus + step) - of(sigma, focus - step)) / (2 * step)
    if fit.replicates_decide:
        errors = widths.errors_um[:, good] @ gradient + by_focus * fit.influence[:, -1]
        uncertainty = float(fit.spread(errors[:, None])[0])
    else:
        parts = gradient * widths.uncertainty_um[good]
        uncertainty = float(np.hypot(np.linalg.norm(parts), by_focus * fit.uncertainty[-1]))
    return measured(value, uncertainty)


def sign_of_defocus(
    observed: Observed, fit: LawFit, difference: Measured | None
) -> tuple[bool, str]:
    """Whether a single frame shows on which side of focus it is, and why.

    A frame does not show its distance from focus.  It therefore matters whether kernels of equal
    width, not at equal distances, differ between the two sides.

    Returns
    -------
    bool
    str
        The reason in words.
    """
    if difference is None:
        return False, "not known: the series covers only one side of focus"
    text = f"asymmetry of width {difference.value:+.3f} ± {difference.uncertainty:.3f}"
    waves = fit.measured("spherical_waves")
    if not isinstance(fit.law, WaveLaw) or waves is None:
        return False, f"not observable: the {fit.law.name} law is equal on both sides; {text}"
    contrast = _contrast(observed, fit)
    text = (
        f"spherical aberration {waves.value:+.3f} ± {waves.uncertainty:.3f} waves, {text}; equally "
        f"wide kernels of both sides differ by up to {contrast:.3f} in contrast"
    )
    sure = abs(waves.value) > _SURE * waves.uncertainty and contrast > _CONTRAST
    return sure, ("observable: " if sure else "not observable: ") + text


def _contrast(observed: Observed, fit: LawFit) -> float:
    """Largest difference of the transfer functions of the two sides at equal width, at half the range."""
    focus = float(fit.values[-1])
    end = min(float(observed.z_um.max()) - focus, focus - float(observed.z_um.min()))
    above = np.array([focus + 0.5 * end])
    below = focus - np.linspace(0.1, 1.0, 60) * end
    widths = kernel_sigma_um(fit.law, fit.values, below)
    wanted = float(kernel_sigma_um(fit.law, fit.values, above)[0])
    equal = below[int(np.nanargmin(np.abs(widths - wanted)))]
    frequency = np.linspace(0.02, 1.0, 200) * 1.2 / wanted
    pair = fit.law.transfer(fit.values, np.array([above[0], equal]), frequency)
    return float(np.abs(pair[0] - pair[1]).max())
