"""Expected width of a frame's blur, from the microscope's optics and the distance from focus.

The width follows from a *measured* PSF (a calibration profile), otherwise from the *nominal* aperture.
The distance from focus is stated by the user, or it is the stage's distance from the focus in the
profile.  Each source has an uncertainty, by which it is weighted against the estimate from the frame
(`refocusd.imaging.blur.fused`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from refocusd.imaging.blur import BlurEstimate, BlurSource, PsfShape
from refocusd.imaging.optics import Optics
from refocusd.imaging.psf_shape import shape_of_optics
from refocusd.profiles.microscope_metadata import (
    APERTURES,
    LIGHT_UM,
    MEDIA,
    na_of,
    pixel_um_of,
    plausible_pixel_um,
    within,
)
from refocusd.profiles.profile import Microscope, Profile, PsfSection

_Table = NDArray[np.float64]

#: Standard uncertainty of a measured width on another specimen, relative: its depth and cover glass
#: change the aberrations.
_MEASURED = 0.08
#: The same beyond the distances that were measured.
_EXTRAPOLATED = 0.15
#: The same of a width from the nominal aperture: the scatter of the PSFs of objectives from NA 0.2 to 1.3
#: that are apodised, and aberrated by up to 0.6 Zernike waves.
_NOMINAL = 0.4
#: Uncertainty of a stated distance: the larger of this in um and this relative to the distance.
_STATED_UM, _STATED = 1.0, 0.1
#: The stage position of the focus differs by this much between specimens (standard deviation, um).
_ANOTHER_SPECIMEN_UM = 5.0
#: Standard deviation of a disc, over its radius, as `half_width_sigma` defines it.
DISC_SIGMA = 0.53
#: The same of the Airy pattern, in units of wavelength / NA, and of a square pixel, in pixels.
_AIRY, _PIXEL = 0.22, 12**-0.5
#: Emission wavelength if none is known; it hardly matters out of focus.
_WAVELENGTH_UM = 0.52
#: Refractive indices of immersion media.
_IMMERSIONS = (1.0, 1.333, 1.518)
#: No objective has an NA above this fraction of its immersion's refractive index.
_MOST_SINE = 0.97
#: If the fitted optics miss the planes by more than this, relative to the kernels' energy, the specimen was
#: thick or moved, and deconvolution with the fitted form does harm (at 6 %, a nucleus lost up to 5 dB).
FORM_MISFIT = 0.03
#: A PSF that refocusd measured automatically is used up to this fraction of its z-range beyond its planes.
_AROUND = 0.1
#: Weights of three points that stand for a normal distribution (Gauss-Hermite).
_WEIGHTS = np.array([1, 4, 1]) / 6


@dataclass(frozen=True, slots=True)
class Distance:
    """Distance of a frame from the sharpest plane (stage z minus focus), and its uncertainty, um."""

    um: float
    uncertainty_um: float


def distance_from_focus(
    profile: Profile | None,
    stage_um: float | None,
    stated_um: float = 0.0,
    *,
    counted: bool = False,
) -> Distance | None:
    """Distance of a frame from focus: as stated, or else from its stage position; None if unknown.

    Parameters
    ----------
    profile : Profile or None
    stage_um : float or None
        Position of the focus stage, um.
    stated_um : float
        Distance that the user stated, um; 0 if none.
    counted : bool
        Whether `stage_um` is counted from the first plane of its stack.  Sections of the profile that
        count differently have another zero, and are not used.
    """
    if stated_um:
        return Distance(stated_um, max(_STATED_UM, _STATED * abs(stated_um)))
    if profile is None or stage_um is None:
        return None
    if profile.focus is not None and bool(profile.focus.counted) == counted:
        focus = profile.focus.best_um
        best_um, uncertainty_um = focus.value, focus.uncertainty
    elif (
        profile.psf is not None
        and bool(profile.psf.counted) == counted
        and (table := _table(profile.psf)) is not None
    ):
        best_um = profile.psf.focus_um.value + _sharpest_um(table)
        uncertainty_um = profile.psf.focus_um.uncertainty
    else:
        return None
    return Distance(stage_um - best_um, math.hypot(uncertainty_um, _ANOTHER_SPECIMEN_UM))


def known_blur(
    profile: Profile | None,
    metadata: Mapping[str, Any],
    distance: Distance | None,
    *,
    na: float = 0.0,
    summary: Mapping[str, Any] | None = None,
) -> BlurEstimate | None:
    """The blur of a thin plane at this distance; None if too little is known.

    Parameters
    ----------
    profile : Profile or None
        The profile that applies to the frame.
    metadata : mapping
        Metadata of the acquisition's first frame, for pixel size and aperture.
    distance : Distance or None
        From `distance_from_focus`.
    na : float
        Numerical aperture that the user stated; 0 for that of the profile or the metadata.
    summary : mapping, optional
        Summary metadata of the acquisition.
    """
    nominal = profile.microscope if profile is not None else Microscope()
    pixel_um = pixel_um_of(metadata, summary) or plausible_pixel_um(nominal.pixel_um)
    if distance is None or pixel_um is None:
        return None
    table = _table(profile.psf) if profile is not None and profile.psf is not None else None
    na = na or within(nominal.na, *APERTURES) or na_of(metadata) or 0.0
    if table is not None:
        assert profile is not None
        planes = table[0] - _sharpest_um(table)
        around_um = _AROUND * float(np.ptp(planes))
        inside = planes[0] - around_um <= distance.um <= planes[-1] + around_um
        if profile.learned and not inside:
            return None  # no user has confirmed that its focus is also that of this specimen
        beyond = abs(distance.um) > np.abs(planes).max()
        relative = _EXTRAPOLATED if beyond else _MEASURED
        widths = [_measured_um(table, um) for um in _around(distance)]
    elif na:
        relative = _NOMINAL
        wavelength_um = within(nominal.wavelength_um, *LIGHT_UM) or _WAVELENGTH_UM
        index = immersion_index(na, within(nominal.refractive_index, *MEDIA) or 1.0)
        least = math.hypot(_AIRY * wavelength_um / na, _PIXEL * pixel_um)
        widths = [math.hypot(DISC_SIGMA * um * na / index, least) for um in _around(distance)]
    else:
        return None
    logs = np.log(widths)
    mean = float(_WEIGHTS @ logs)
    uncertainty = math.hypot(relative, math.sqrt(float(_WEIGHTS @ (logs - mean) ** 2)))
    if table is None:
        return BlurEstimate(math.exp(mean) / pixel_um, uncertainty, "nominal")
    assert profile is not None
    assert profile.psf is not None
    shape = _shape_of(profile.psf, distance.um + _sharpest_um(table), pixel_um)
    source: BlurSource = "stack" if profile.learned else "profile"
    return BlurEstimate(math.exp(mean) / pixel_um, uncertainty, source, shape)


def _shape_of(psf: PsfSection, defocus_um: float, pixel_um: float) -> PsfShape | None:
    """The form of a PSF fitted with wave optics, at a distance from its paraxial focus."""
    if psf.model != "wave" or psf.na is None or not psf.wavelength_um:
        return None
    if psf.method == "planes" and not (psf.misfit is not UNSET and psf.misfit <= FORM_MISFIT):
        return None
    optics = Optics(
        psf.na.value,
        psf.wavelength_um,
        psf.refractive_index,
        pixel_um,
        psf.spherical_waves.value if psf.spherical_waves else 0.0,
        psf.apodisation.value if psf.apodisation else 0.0,
    )
    # The form hardly changes within 0.1 um, so that it need not be computed for every plane.
    return _form(optics, round(defocus_um, 1))


@lru_cache(maxsize=256)
def _form(optics: Optics, defocus_um: float) -> PsfShape | None:
    found = shape_of_optics(optics, defocus_um)
    return found.shape if found else None


def _around(distance: Distance) -> NDArray[np.float64]:
    """Three distances that, with `_WEIGHTS`, stand for the normal distribution of this one."""
    return distance.um + math.sqrt(3) * distance.uncertainty_um * np.array([-1.0, 0.0, 1.0])


def _table(psf: PsfSection) -> _Table | None:
    """Distances from the fitted focus, and widths, um, shape (2, n); None if fewer than three."""
    found = [
        (um, sigma)
        for um, sigma in zip(psf.defocus_um, psf.sigma_um, strict=False)
        if math.isfinite(sigma) and sigma > 0
    ]
    return np.array(sorted(found)).T if len(found) > 2 else None


def _sharpest_um(table: _Table) -> float:
    """Distance at which the width is least, from a parabola through its squares at three planes."""
    at = int(table[1].argmin())
    if not 0 < at < table.shape[1] - 1:
        return float(table[0, at])
    z = table[0, at - 1 : at + 2] - table[0, at]
    curve, slope, _ = np.polyfit(z, table[1, at - 1 : at + 2] ** 2, 2)
    return float(table[0, at] - slope / (2 * curve))


def _measured_um(table: _Table, distance_um: float) -> float:
    """Width at a distance from the sharpest plane; beyond the table it is proportional to the distance."""
    sharpest = _sharpest_um(table)
    z, sigma = table[0] - sharpest, table[1]
    end = float(np.clip(distance_um, z[0], z[-1]))
    width = float(np.interp(end, z, sigma))
    return width * max(1.0, abs(distance_um / end)) if end else width


def immersion_index(na: float, stated: float = 1.0) -> float:
    """Refractive index of the immersion: as stated, unless no objective for it has such an NA."""
    fits = [index for index in (stated, *_IMMERSIONS) if na < _MOST_SINE * index]
    return fits[0] if fits else max(stated, _IMMERSIONS[-1])
