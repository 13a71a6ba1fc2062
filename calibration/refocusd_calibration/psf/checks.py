"""Conditions that a measured PSF must meet to be valid."""

from __future__ import annotations

import math

import numpy as np

from refocusd.profiles.profile import Check, PsfSection
from refocusd_calibration.measurement import check
from refocusd_calibration.psf.fit import LawFit
from refocusd_calibration.psf.laws import kernel_sigma_um
from refocusd_calibration.psf.observed import Observed
from refocusd_calibration.psf.spectra import MARGIN_SHARE
from refocusd_calibration.psf.width import Widths, sign_of_defocus

#: Largest misfit beyond noise, relative to the kernels' energy.
_MISFIT = {"beads": 0.15, "planes": 0.3}
#: Largest relative difference from the nominal NA; more means another objective, or a wrong pixel size or z step.
_NA_APART = 0.15
#: The same for an apodised pupil, whose edge is hard to determine.
_APODISED_APART = 0.3
#: Relative difference from the stated pixel size that is accepted whatever its uncertainty.
_PIXEL_APART = 0.03
#: Fewest planes on each side of focus.
_PLANES_A_SIDE = 2
#: Fewest beads that show how beads differ.
FEWEST_BEADS = 5
#: Kernels must widen by this factor over the series, otherwise they do not show a law.
_WIDENING = 1.3
#: A larger change of brightness over the series is due to bleaching or a drifting lamp.
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
    """Checks of a measurement, and remarks that do not affect them."""
    checks = [_focus(observed, section), _widening(widths), _misfit(observed, fit)]
    if section.method == "beads":
        detail = f"{section.beads} beads were averaged; at least {FEWEST_BEADS} are needed to see how they differ"
        checks.append(check("beads", section.beads >= FEWEST_BEADS, detail))
    if fit.at_bound:
        detail = f"{', '.join(fit.at_bound)} ended at a limit of the fit"
        advice = "check the pixel size, the z step and the wavelength"
        checks.append(check("fit within bounds", False, detail, advice))
    if section.na is not None and stated_na is not None:
        effective = _effective_na(section)
        apart = effective / stated_na - 1
        limit = _APODISED_APART if section.apodisation else _NA_APART
        detail = (
            f"fitted {section.na.value:.4f} ± {section.na.uncertainty:.4f}"
            f"{'' if effective == section.na.value else f' (effective {effective:.3f})'}, stated "
            f"{stated_na:g} ({100 * apart:+.1f} %)"
        )
        advice = "check pixel size, z step, wavelength and refractive index"
        checks.append(check("numerical aperture", abs(apart) <= limit, detail, advice))
    if section.pixel_um is not None:
        checks.append(_pixel(observed, section))
    there, advice = _room_um(observed, field_um)
    checks.append(
        check(
            "room for the widest kernel",
            _needed_um(widths) <= there,
            f"the widest kernel reaches {_needed_um(widths):.1f} um, there is room for {there:.1f} um",
            f"{advice}, or a smaller range of z",
        )
    )
    _, detail = sign_of_defocus(observed, fit, section.asymmetry)
    checks.append(check("sign of defocus", True, detail))
    return checks, _notes(observed, fit, fits_in=_needed_um(widths) <= there)


def _effective_na(section: PsfSection) -> float:
    """The NA of the uniform pupil with the same width (second moment of intensity) as the apodised one."""
    assert section.na is not None
    fall = 2 * section.apodisation.value if section.apodisation else 0.0
    if abs(fall) < 1e-3:
        return section.na.value
    square = 1 / fall - 1 / math.expm1(fall)
    return section.na.value * math.sqrt(2 * square)


def _focus(observed: Observed, section: PsfSection) -> Check:
    focus = section.focus_um
    below = int((observed.z_um < focus.value).sum())
    above = int((observed.z_um > focus.value).sum())
    return check(
        "focus within the series",
        min(below, above) >= _PLANES_A_SIDE,
        f"z = {focus.value:.3f} ± {focus.uncertainty:.3f} um, {below} planes below, {above} above",
        "move the series so that the focus is in its middle",
    )


def _widening(widths: Widths) -> Check:
    good = widths.sigma_um[np.isfinite(widths.sigma_um)]
    ratio = float(good.max() / good.min()) if good.size else math.nan
    return check(
        "range of defocus",
        ratio >= _WIDENING,
        f"the widest kernel is {ratio:.2f} times the narrowest",
        "take a wider range of z, or check that the stage moves",
    )


def excess_misfit(observed: Observed, fit: LawFit) -> float:
    """Root of the misfit beyond noise, relative to the root of the kernels' weighted energy."""
    # Values are weighted by their certainty; for planes, high frequencies are noise.
    weight = 1 / observed.variances
    level = (weight * observed.values).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    contrast = observed.values - (level if observed.method == "beads" else 0.0)
    return math.sqrt(max(0.0, fit.chi2 - fit.freedom) / float((weight * contrast**2).sum()))


def _misfit(observed: Observed, fit: LawFit) -> Check:
    excess, limit = excess_misfit(observed, fit), _MISFIT[observed.method]
    return check(
        "law describes the kernels",
        excess <= limit,
        f"the {fit.law.name} law leaves {100 * excess:.1f} % beyond noise (limit {100 * limit:g} %)",
        "look at the kernels for aberrations, clumped beads or a moving stage",
    )


def _pixel(observed: Observed, section: PsfSection) -> Check:
    assert section.pixel_um is not None
    found, stated = section.pixel_um, observed.pixel_um
    return check(
        "pixel size",
        abs(found.value - stated) <= max(_PIXEL_APART * stated, 3 * found.uncertainty),
        f"fitted {found.value:.4f} ± {found.uncertainty:.4f} um, stated {stated:g} um",
        "check the pixel size, or the scale of the stage",
    )


def _needed_um(widths: Widths) -> float:
    """Radius of the widest kernel: a disc of radius R has sigma 0.522 R."""
    return float(np.nanmax(widths.model_um)) / 0.522


def _room_um(observed: Observed, field_um: float | None) -> tuple[float, str]:
    """Largest possible radius of a kernel, and how to increase it."""
    if field_um is None:
        return float(observed.radius_um.max()), "give --radius-um"
    return 1.2 * MARGIN_SHARE * field_um, "take a larger field"


def _notes(observed: Observed, fit: LawFit, *, fits_in: bool) -> list[str]:
    grid = np.linspace(observed.z_um.min(), observed.z_um.max(), 401)
    narrowest = float(grid[int(np.nanargmin(kernel_sigma_um(fit.law, fit.values, grid)))])
    notes = [f"the kernel is narrowest at z = {narrowest:.2f} um"]
    amplitude = fit.shown.amplitude
    change = float(np.ptp(amplitude) / np.median(amplitude))
    if change <= _FLUX:
        return notes
    # Time differs between the ends of the series, but defocus is similar at both.
    highest = float(amplitude.max())
    if max(amplitude[0], amplitude[-1]) < (1 - _FLUX / 2) * highest:
        why = (
            "the microscope rejects light that is out of focus, as a confocal microscope does"
            if fits_in
            else "light leaves the radius that is measured"
        )
        lowest = 100 * float(amplitude.min()) / highest
        notes.append(f"brightness falls to {lowest:.0f} % on both sides of focus: {why}")
    else:
        notes.append(
            f"brightness changes by {100 * change:.0f} % from one end of the series to the other: "
            "bleaching, or a lamp that drifts"
        )
    return notes
