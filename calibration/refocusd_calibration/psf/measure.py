"""Measures the defocus kernel as a function of the distance from focus, from beads or matched planes.

| step | beads | planes |
|---|---|---|
| observation | `beads`, `average`: radial profiles | `spectra`: ratios of spectra |
| choice of the law | `fit`: wave optics, Gaussian, disc; by BIC | the same |
| widths on both sides of focus | `width` | the same |
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from refocusd.errors import ConfigError, InputError
from refocusd.profiles.profile import Measured, PsfSection
from refocusd_calibration.estimates import measured, weighted_fit
from refocusd_calibration.measurement import Measurement
from refocusd_calibration.psf.average import average_beads
from refocusd_calibration.psf.beads import Beads, find_beads, sharpest_plane, sharpness
from refocusd_calibration.psf.checks import FEWEST_BEADS, excess_misfit, psf_checks
from refocusd_calibration.psf.fit import LawFit, fit_law
from refocusd_calibration.psf.laws import DiscLaw, Floats, GaussianLaw, WaveLaw
from refocusd_calibration.psf.observed import Observed
from refocusd_calibration.psf.spectra import SpectraRatios
from refocusd_calibration.psf.stack import PlaneStack
from refocusd_calibration.psf.width import Widths, asymmetry, kernel_widths

#: Relative error of the radial laws, which neglect that pixels are square and, for planes, that the
#: camera undersamples the in-focus plane.  Part of the uncertainty of the NA.
_NA_FLOOR = {"beads": 0.001, "planes": 0.003}
#: Largest relative uncertainty of a fitted pixel size.
_PIXEL_KNOWN = 0.02
#: Misfit beyond noise up to which a law describes the kernels; the pixel size is then fitted, but no
#: other parameter is added.
_CLEAN = 0.05
#: Misfit of planes (chi² per degree of freedom) up to which the plain wave law describes them.
_PLAIN_CHI2 = 1.5
#: A bead smaller than this, px, blurs like a point.
_LARGE_BEAD_PX = 4.0
#: Iterations of correcting a ratio of spectra with the law fitted to it.
_REFINEMENTS = 2


@dataclass(frozen=True, slots=True)
class Stated:
    """Values stated by the user for the objective and the beads.

    Parameters
    ----------
    na : float or None
        Nominal numerical aperture, at which the fit starts and with which its result is compared.
    wavelength_um : float or None
        Emission wavelength; without it, the wave law is not fitted.
    refractive_index : float
        Refractive index of the immersion.
    bead_um : float
        Diameter of the beads.

    Raises
    ------
    ConfigError
        If the NA is not below the refractive index.
    """

    na: float | None = None
    wavelength_um: float | None = None
    refractive_index: float = 1.0
    bead_um: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an aperture that no objective can have."""
        if self.na is not None and not 0 < self.na < self.refractive_index:
            raise ConfigError(
                f"NA {self.na:g} is not possible in a medium with a refractive index of "
                f"{self.refractive_index:g}: give the immersion medium's --refractive-index"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PsfMeasurement(Measurement):
    """A measured point spread function.

    Parameters
    ----------
    section : PsfSection
    observed : Observed
    fits : dict of str to LawFit
        Fits by the name of the law.
    widths : Widths
    """

    section: PsfSection
    observed: Observed
    fits: dict[str, LawFit]
    widths: Widths


def measure_beads(
    stack: PlaneStack, stated: Stated, *, reach_um: float | None = None
) -> PsfMeasurement:
    """Measure the kernel from a series of single beads through focus.

    Parameters
    ----------
    stack : PlaneStack
    stated : Stated
    reach_um : float, optional
        Radius of the widest kernel; by default determined from the NA or the beads.

    Raises
    ------
    ConfigError, InputError
        If the series cannot be used; the message says why and what to do.
    """
    beads = _beads(stack, stated, reach_um)
    observed = average_beads(stack, beads)
    sharpest = float(stack.z_um[beads.plane])
    reach = beads.radius_px * stack.pixel_um
    fits = _fit_laws(observed, stated, sharpest, reach)
    best = _best(observed, fits.values()).law.name
    note = f"{len(beads.centres)} of {beads.found} beads within {reach:.1f} um; "
    note += f"left out: {beads.left_out}"
    return _measurement(observed, stated, fits, best, [note], beads=len(beads.centres))


def _beads(stack: PlaneStack, stated: Stated, reach_um: float | None) -> Beads:
    if reach_um is not None or stated.na is None:
        return find_beads(stack, reach_um=reach_um)
    by_na = find_beads(stack, reach_um=_reach(stack, stated), at_least=0)
    if len(by_na.centres) >= FEWEST_BEADS:
        return by_na
    # The nominal cone of light is the widest possible one: apodised or aberrated kernels, and those
    # of a microscope that rejects defocused light, are narrower.
    try:
        found = find_beads(stack, at_least=0)
    except InputError:
        found = by_na
    best = found if len(found.centres) > len(by_na.centres) else by_na
    return best if len(best.centres) else find_beads(stack, reach_um=_reach(stack, stated))


def measure_planes(
    stack: PlaneStack,
    in_focus: int | NDArray[np.float32] | None,
    stated: Stated,
) -> PsfMeasurement:
    """Measure the kernel from defocused planes of any thin specimen and an in-focus one.

    Parameters
    ----------
    stack : PlaneStack
    in_focus : int, ndarray of float32 of shape (height, width), or None
        Index of the in-focus plane in the series, in order of z, or a frame taken
        separately, at focus; None: the sharpest plane.
    stated : Stated

    Raises
    ------
    ConfigError, InputError
        If the planes cannot be used; the message says why and what to do.
    """
    reference: float | None = None
    if isinstance(in_focus, np.ndarray):
        frame, near = in_focus, _sharpest_um(stack)
    else:
        index = sharpest_plane(stack) if in_focus is None else in_focus
        if not 0 <= index < len(stack.z_um):
            raise InputError(
                f"there is no plane {index} among the {len(stack.z_um)} planes; count from 0 in "
                "order of z"
            )
        frame, near = stack.pixels[index], float(stack.z_um[index])
        reference = near
    cut_off = None
    if stated.na is not None and stated.wavelength_um is not None:
        cut_off = 2 * stated.na / stated.wavelength_um
    spectra = SpectraRatios(stack, frame, reference_um=reference, cut_off=cut_off)
    observed = spectra.observed()
    reach = 0.5 * min(frame.shape) * stack.pixel_um
    fits = _fit_laws(observed, stated, near, reach)
    best = _best(observed, fits.values()).law.name
    table, fits[best] = _refined(spectra, observed, fits[best])
    if (plain := fits.get("wave")) and fits[best].chi2 > _PLAIN_CHI2 * fits[best].freedom:
        # Ratios are certain to a few thousandths: a misfit that is small against the kernels' energy can
        # still be a wrong form.  A wrong stated pixel size must be reported, not compensated.
        apodised = _refined(spectra, observed, _apodised(observed, stated, plain, reach))
        scaled = _refined(spectra, observed, _scaled(observed, stated, plain))
        if apodised[1].chi2 < min(fits[best].chi2, scaled[1].chi2):
            best = "wave"
            table, fits[best] = apodised
    observed = table
    return _measurement(observed, stated, fits, best, [], field_um=2 * reach)


def _refined(spectra: SpectraRatios, observed: Observed, fit: LawFit) -> tuple[Observed, LawFit]:
    """The ratios, corrected with a fitted law, and the law fitted to them."""
    for _ in range(_REFINEMENTS):
        observed = spectra.observed(fit.law, fit.values)
        fit = fit_law(observed, fit.law, [fit.values])
    return observed, _with_floor(observed, fit)


def _reach(stack: PlaneStack, stated: Stated) -> float:
    assert stated.na is not None
    sharpest = float(stack.z_um[sharpest_plane(stack)])
    defocus = float(np.abs(stack.z_um - sharpest).max())
    disc = math.tan(math.asin(stated.na / stated.refractive_index)) * defocus
    # A quarter more for aberrations, plus diffraction rings and some background.
    return 1.25 * disc + 2 * (stated.wavelength_um or 0.6) / stated.na + 3 * stack.pixel_um


def _sharpest_um(stack: PlaneStack) -> float:
    """Stage position of the sharpest plane; used if the in-focus frame was taken separately."""
    return float(stack.z_um[int(np.argmax(sharpness(stack)))])


def _fit_laws(
    observed: Observed, stated: Stated, sharpest: float, reach_um: float
) -> dict[str, LawFit]:
    span = (float(observed.z_um.min()), float(observed.z_um.max()))
    planes = observed.method == "planes"
    blur = observed.pixel_um / math.sqrt(12)
    if stated.na is not None and stated.wavelength_um is not None:
        blur = math.hypot(blur, 0.21 * stated.wavelength_um / stated.na)
    first = max(blur, 0.4 * observed.pixel_um)
    starts = [sharpest + share * (span[1] - span[0]) for share in (-0.05, 0.05)]
    fits: dict[str, LawFit] = {}
    for kind, slope in ((GaussianLaw, 0.2), (DiscLaw, 0.4)):
        law = kind(sharpest, first, slope, span, hold_focus_blur=planes)
        more = [np.array([*law.start()[:-1], focus]) for focus in starts]
        fits[law.name] = fit_law(observed, law, more)
    if stated.wavelength_um is not None:
        fits["wave"] = _fit_wave(observed, stated, sharpest, reach_um, fits["disc"])
    return fits


def _fit_wave(
    observed: Observed, stated: Stated, sharpest: float, reach_um: float, disc: LawFit
) -> LawFit:
    """The wave law with the number of parameters that the BIC selects."""
    index = stated.refractive_index
    slope = float(disc.values[disc.law.parameters.index("disc_um_per_um")])
    by_rays = index * math.sin(math.atan(slope))
    na = stated.na if stated.na is not None else min(max(by_rays, 0.03), 0.97 * index)
    # Spherical aberration moves the sharpest plane, so both are searched together.
    step = float(np.ptp(observed.z_um)) / (len(observed.z_um) - 1)
    reach_um = min(reach_um, _cone_um(observed, stated, na, sharpest))
    depth = max((stated.wavelength_um or 0.5) * index / na**2, 0.5 * step)
    starts = [
        np.array([na, waves, sharpest + shift * depth])
        for waves in (-0.6, -0.3, 0.0, 0.3, 0.6)
        for shift in (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
    ]
    starts.append(np.array([na, 0.0, float(disc.values[-1])]))
    law = _wave_law(observed, stated, na, sharpest, reach_um)
    fits = [fit_law(observed, law, starts)]
    if observed.method == "beads" and excess_misfit(observed, fits[0]) > _CLEAN:
        bead = _core_um(observed, sharpest)
        large = not stated.bead_um and bead > _LARGE_BEAD_PX * observed.pixel_um
        # A wrong stated pixel size must be reported, not compensated by other parameters.
        if large or excess_misfit(observed, _scaled(observed, stated, fits[0])) > _CLEAN:
            free = ("apodisation", "bead_um") if large else ("apodisation",)
            first = {"apodisation": 0.3, "bead_um": bead} if large else {}
            law = _wave_law(observed, stated, na, sharpest, reach_um, free=free, start=first)
            waves, focus = fits[0].values[1:]
            starts = [_changed(law, na=fits[0].values[0], spherical_waves=waves, focus_um=focus)]
            starts += [
                _changed(law, na=share * na, spherical_waves=waves)
                for waves in (-0.5, 0.0, 0.5)
                for share in (0.7, 0.9)
            ]
            fits.append(fit_law(observed, law, starts))
    return _with_floor(observed, _best(observed, fits))


def _apodised(observed: Observed, stated: Stated, plain: LawFit, reach_um: float) -> LawFit:
    """Fit the wave law again, with the pupil's apodisation free."""
    na, waves, focus = (float(value) for value in plain.values)
    law = _wave_law(observed, stated, na, focus, reach_um, free=("apodisation",))
    starts = [_changed(law, spherical_waves=waves)]
    starts += [
        _changed(law, na=1.1 * na, spherical_waves=waves + more, apodisation=0.4)
        for more in (-1.0, -0.4, 0.4, 1.0)
    ]
    return fit_law(observed, law, starts)


def _cone_um(observed: Observed, stated: Stated, na: float, focus_um: float) -> float:
    """Radius that contains the light of the farthest plane, including diffraction rings."""
    assert stated.wavelength_um is not None
    farthest = float(np.abs(observed.z_um - focus_um).max())
    disc = math.tan(math.asin(na / stated.refractive_index)) * farthest
    return max(
        1.25 * disc + 12 * stated.wavelength_um / na, float(observed.radius_um.max(initial=0))
    )


def _wave_law(
    observed: Observed,
    stated: Stated,
    na: float,
    focus_um: float,
    reach_um: float,
    *,
    free: Collection[str] = (),
    start: Mapping[str, float] | None = None,
) -> WaveLaw:
    assert stated.wavelength_um is not None
    return WaveLaw(
        na,
        stated.wavelength_um,
        stated.refractive_index,
        observed.pixel_um,
        focus_um,
        (float(observed.z_um.min()), float(observed.z_um.max())),
        reach_um=reach_um,
        defocus_um=float(np.abs(observed.z_um - focus_um).max()) * 1.1,
        bead_um=stated.bead_um,
        free=free,
        start=start,
    )


def _changed(law: WaveLaw, **values: float) -> Floats:
    """The parameters at which a law's fit starts, with some of them changed."""
    start = law.start()
    for name, value in values.items():
        start[law.parameters.index(name)] = value
    return start


def _core_um(observed: Observed, sharpest: float) -> float:
    """Full width at half maximum of the sharpest kernel, um; 0 if it does not fall that far."""
    core = observed.values[int(np.argmin(np.abs(observed.z_um - sharpest)))]
    below = np.flatnonzero(core < 0.5 * core.max())
    return 2 * float(observed.bins[below[0]]) if below.size else 0.0


def _with_floor(observed: Observed, fit: LawFit) -> LawFit:
    if fit.law.name != "wave":
        return fit
    floor = np.zeros_like(fit.values)
    floor[0] = _NA_FLOOR[observed.method] * fit.values[0]
    return replace(fit, covariance=fit.covariance + np.diag(floor**2))


def _best(observed: Observed, fits: Iterable[LawFit]) -> LawFit:
    """The fit with the lowest Bayesian information criterion (Schwarz 1978), scaled to the best misfit."""
    fits = list(fits)
    scale = max(1.0, min(fit.chi2 / fit.freedom for fit in fits))
    count = math.log(observed.values.size)
    return min(fits, key=lambda fit: fit.chi2 / scale + count * len(fit.values))


def _measurement(
    observed: Observed,
    stated: Stated,
    fits: dict[str, LawFit],
    best: str,
    notes: Sequence[str],
    *,
    beads: int = 0,
    field_um: float | None = None,
) -> PsfMeasurement:
    fit = fits[best]
    widths = kernel_widths(observed, fit)
    difference = asymmetry(observed, fit, widths)
    scale = _pixel_scale(observed, fit, stated) if isinstance(fit.law, WaveLaw) else None
    focus = fit.measured("focus_um")
    assert focus is not None
    defocus = observed.z_um - focus.value
    blur, slope = _gaussian_law(fits["gaussian"] if best == "gaussian" else None, defocus, widths)
    section = PsfSection(
        method=observed.method,
        model=best,  # type: ignore[arg-type]
        focus_um=focus,
        na=fit.measured("na"),
        spherical_waves=fit.measured("spherical_waves"),
        pixel_um=scale and measured(scale.value, scale.uncertainty, observed.pixel_um),
        refractive_index=stated.refractive_index,
        wavelength_um=stated.wavelength_um,
        defocus_um=defocus.tolist(),
        sigma_um=widths.sigma_um.tolist(),
        sigma_uncertainty_um=widths.uncertainty_um.tolist(),
        sigma_model_um=widths.model_um.tolist(),
        blur_um_per_um=slope,
        blur_focus_um=blur,
        asymmetry=difference,
        residual_rms=fit.residual_rms,
        beads=beads,
        apodisation=fit.measured("apodisation") or msgspec.UNSET,
        bead_um=fit.measured("bead_um") or msgspec.UNSET,
        misfit=round(excess_misfit(observed, fit), 4),
    )
    checks, more = psf_checks(
        observed, fit, widths, section, stated_na=stated.na, field_um=field_um
    )
    laws = ", ".join(
        f"{name} {found.chi2 / found.freedom:.3g}" for name, found in sorted(fits.items())
    )
    said = [*notes, *more, f"misfit (chi² per degree of freedom): {laws}"]
    if stated.wavelength_um is None:
        said.append(
            "wave optics was not fitted, because the wavelength is unknown: give --wavelength-um"
        )
    return PsfMeasurement(
        section=section,
        checks=tuple(checks),
        notes=tuple(said),
        observed=observed,
        fits=fits,
        widths=widths,
    )


def _scaled(observed: Observed, stated: Stated, fit: LawFit) -> LawFit:
    """Fit the plain wave law again, with the pixel size free."""
    na, waves, focus = (float(value) for value in fit.values)
    reach_um = _cone_um(observed, stated, na, focus)
    start = {"spherical_waves": waves}
    law = _wave_law(observed, stated, na, focus, reach_um, free=("pixel_scale",), start=start)
    return fit_law(observed, law)


def _pixel_scale(observed: Observed, fit: LawFit, stated: Stated) -> Measured | None:
    """Pixel size relative to the stated one, if disc and diffraction together determine it."""
    if len(fit.values) > 3:
        # Apodisation and the size of a bead are too easily mistaken for a scale.
        return None
    fit = _scaled(observed, stated, fit)
    found = fit.measured("pixel_scale")
    # Aberrations that the law does not include would be mistaken for a scale.
    clean = fit.replicates_decide and excess_misfit(observed, fit) <= _CLEAN
    if found is None or not clean:
        return None
    floor = 2 * _NA_FLOOR[observed.method]
    found = msgspec.structs.replace(found, uncertainty=math.hypot(found.uncertainty, floor))
    return found if found.uncertainty < _PIXEL_KNOWN else None


def _gaussian_law(
    fit: LawFit | None, defocus: Floats, widths: Widths
) -> tuple[Measured | None, Measured | None]:
    """Blur in focus and per um of defocus: from the fit, or from the widths by weighted least squares."""
    if fit is not None and fit.measured("blur_focus_um") is not None:
        return fit.measured("blur_focus_um"), fit.measured("blur_um_per_um")
    good = np.isfinite(widths.sigma_um)
    if good.sum() < 4:
        return None, None
    variance = widths.sigma_um[good] ** 2
    # With relative weights, because a law that is off by a few per cent everywhere is the most useful.
    design = np.stack([np.ones_like(variance), defocus[good] ** 2], axis=1)
    found = weighted_fit(design, variance, variance**-2)
    spread = found.sigma * math.sqrt(found.chi2 / (len(variance) - 2))
    blur, slope = np.sqrt(np.maximum(found.coefficients, 0))
    if slope == 0:
        return None, None
    per_um = measured(slope, spread[1] / (2 * slope))
    return (measured(blur, spread[0] / (2 * blur)) if blur > 0 else None), per_um
