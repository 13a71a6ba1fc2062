"""What a measured PSF must meet to be believed."""

from __future__ import annotations

import math

import numpy as np

from refocusd.profiles.profile import Check, PsfSection
from refocusd_calibration.psf.fit import LawFit
from refocusd_calibration.psf.laws import kernel_sigma_um
from refocusd_calibration.psf.observed import Observed
from refocusd_calibration.psf.spectra import MARGIN_SHARE
from refocusd_calibration.psf.width import Widths, sign_of_defocus

__all__ = ["excess_misfit", "psf_checks"]

#: Largest misfit, relative to the kernels' energy, beyond what noise explains.
_MISFIT = {"beads": 0.15, "planes": 0.3}
#: An NA further from the nominal one is another objective, or a wrong pixel or z step.
_NA_APART = 0.15
#: A pixel size further from the stated one is wrong, whatever the uncertainty.
_PIXEL_APART = 0.03
#: Fewer planes on a side of focus do not show it.
_PLANES_A_SIDE = 2
#: Fewer beads do not tell how beads differ.
_BEADS = 5
#: Kernels must widen by this over the series, or there is no law to be seen.
_WIDENING = 1.3
#: Brightness that changes more over the series is bleaching, or a lamp that drifts.
_FLUX = 0.25


def psf_checks(
    observed: Observed,
    fit: LawFit,
    widths: Widths,
    section: PsfSection,
    *,
    stated_na: float | None,
    field_um: float | None,
) -> tuple[list[Check], list[str]]:
    """Checks of a measurement, and remarks that do not decide."""
    checks = [_focus(observed, section), _widening(widths), _misfit(observed, fit)]
    if section.method == "beads":
        checks.append(
            Check(
                name="beads",
                passed=section.beads >= _BEADS,
                detail=f"{section.beads} beads averaged; at least {_BEADS} tell how they differ",
            )
        )
    if fit.at_bound:
        checks.append(
            Check(
                name="fit within bounds",
                passed=False,
                detail=f"{', '.join(fit.at_bound)} ended at a limit of the fit: check the pixel size, "
                "the z step and the wavelength",
            )
        )
    if section.na is not None and stated_na is not None:
        apart = section.na.value / stated_na - 1
        checks.append(
            Check(
                name="numerical aperture",
                passed=abs(apart) <= _NA_APART,
                detail=f"fitted {section.na.value:.4f} ± {section.na.uncertainty:.4f}, stated "
                f"{stated_na:g} ({100 * apart:+.1f} %)"
                + (
                    ""
                    if abs(apart) <= _NA_APART
                    else ": check pixel size, z step, wavelength and refractive index"
                ),
            )
        )
    if section.pixel_um is not None:
        checks.append(_pixel(observed, section))
    checks.append(_room(observed, widths, field_um))
    _, detail = sign_of_defocus(observed, fit, section.asymmetry)
    checks.append(Check(name="sign of defocus", passed=True, detail=detail))
    return checks, _notes(observed, fit)


def _focus(observed: Observed, section: PsfSection) -> Check:
    focus = section.focus_um
    below = int((observed.z_um < focus.value).sum())
    above = int((observed.z_um > focus.value).sum())
    passed = min(below, above) >= _PLANES_A_SIDE
    detail = (
        f"z = {focus.value:.3f} ± {focus.uncertainty:.3f} um, {below} planes below, {above} above"
    )
    if not passed:
        detail += ": move the series so that the focus is in its middle"
    return Check(name="focus within the series", passed=passed, detail=detail)


def _widening(widths: Widths) -> Check:
    good = widths.sigma_um[np.isfinite(widths.sigma_um)]
    ratio = float(good.max() / good.min()) if good.size else math.nan
    passed = bool(ratio >= _WIDENING)
    detail = f"the widest kernel is {ratio:.2f} times the narrowest"
    if not passed:
        detail += ": take a wider range of z, or look whether the stage moves"
    return Check(name="range of defocus", passed=passed, detail=detail)


def excess_misfit(observed: Observed, fit: LawFit) -> float:
    """What the law leaves beyond noise, as a share of the kernels' weighted energy's root."""
    # Values count by their certainty: of planes, high frequencies are noise.
    weight = 1 / observed.variances
    level = (weight * observed.values).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    contrast = observed.values - (level if observed.method == "beads" else 0.0)
    return math.sqrt(max(0.0, fit.chi2 - fit.freedom) / float((weight * contrast**2).sum()))


def _misfit(observed: Observed, fit: LawFit) -> Check:
    excess = excess_misfit(observed, fit)
    limit = _MISFIT[observed.method]
    detail = (
        f"the {fit.law.name} law leaves {100 * excess:.1f} % beyond noise (limit {100 * limit:g} %)"
    )
    if excess > limit:
        detail += ": look at the kernels for aberrations, clumped beads or a moving stage"
    return Check(name="law describes the kernels", passed=excess <= limit, detail=detail)


def _pixel(observed: Observed, section: PsfSection) -> Check:
    assert section.pixel_um is not None
    found, stated = section.pixel_um, observed.pixel_um
    apart = abs(found.value - stated)
    passed = apart <= max(_PIXEL_APART * stated, 3 * found.uncertainty)
    detail = f"fitted {found.value:.4f} ± {found.uncertainty:.4f} um, stated {stated:g} um"
    if not passed:
        detail += ": check the pixel size, or the scale of the stage"
    return Check(name="pixel size", passed=passed, detail=detail)


def _room(observed: Observed, widths: Widths, field_um: float | None) -> Check:
    # A disc of radius R has sigma 0.522 R.
    needed = float(np.nanmax(widths.model_um)) / 0.522
    if field_um is None:
        there, advice = float(observed.radius_um.max()), "give --radius-um"
    else:
        there, advice = 1.2 * MARGIN_SHARE * field_um, "take a larger field"
    passed = needed <= there
    detail = f"the widest kernel reaches {needed:.1f} um, there is room for {there:.1f} um"
    if not passed:
        detail += f": {advice}, or a smaller range of z"
    return Check(name="room for the widest kernel", passed=passed, detail=detail)


def _notes(observed: Observed, fit: LawFit) -> list[str]:
    grid = np.linspace(observed.z_um.min(), observed.z_um.max(), 401)
    narrowest = float(grid[int(np.nanargmin(kernel_sigma_um(fit.law, fit.values, grid)))])
    notes = [f"the kernel is narrowest at z = {narrowest:.2f} um"]
    amplitude = fit.shown.amplitude
    spread = float(np.ptp(amplitude) / np.median(amplitude))
    if spread > _FLUX:
        notes.append(
            f"brightness changes by {100 * spread:.0f} % over the series: bleaching, a lamp that drifts, "
            "or light lost outside the radius"
        )
    return notes
