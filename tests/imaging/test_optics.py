"""The defocus of a microscope: energy, known radii, symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft

from refocusd.errors import ConfigError
from refocusd.imaging.optics import Optics, defocus_otf, defocus_psf, geometric_radius_um

TWENTY = Optics(0.45, 0.461)


def rms_radius_px(optics: Optics, defocus_um: float) -> float:
    psf = defocus_psf(optics, defocus_um)
    half = psf.shape[0] // 2
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
    return float(np.sqrt((psf * (rows**2 + columns**2)).sum()))


@pytest.mark.parametrize("defocus_um", [0.0, 0.7, 8.0, -32.0])
def test_flux_is_kept_at_every_defocus(defocus_um: float) -> None:
    psf = defocus_psf(TWENTY, defocus_um)
    assert psf.sum() == pytest.approx(1.0, abs=1e-5)
    assert psf.min() >= 0
    otf = defocus_otf(TWENTY, defocus_um, (96, 130))
    assert otf.shape == (96, 66)
    assert otf[0, 0] == pytest.approx(1.0)
    assert np.abs(otf).max() <= 1.0 + 1e-6


@pytest.mark.parametrize("na", [0.3, 0.45, 0.6])
@pytest.mark.parametrize("defocus_um", [20.0, 32.0])
def test_far_from_focus_the_psf_is_the_disc_of_geometry(na: float, defocus_um: float) -> None:
    optics = Optics(na, 0.461)
    # An even disc of radius R has an rms radius of R / sqrt(2); a pupil lit evenly in
    # frequency is dimmer towards the disc's edge, increasingly so with higher NA.
    disc = geometric_radius_um(optics, defocus_um) / optics.pixel_um / math.sqrt(2)
    assert 0.88 * disc < rms_radius_px(optics, defocus_um) < 1.03 * disc


def test_the_defocus_that_the_plate_shows_has_its_radius() -> None:
    # BBBC006 at 32 um: tan(asin(0.45)) * 32 um / 0.645 um = 25 px.
    assert geometric_radius_um(TWENTY, 32.0) / 0.645 == pytest.approx(25.0, abs=0.1)


def test_in_focus_the_optical_cut_off_holds() -> None:
    # Fine pixels resolve the cut-off 2 NA / wavelength, beyond which nothing passes.
    fine = Optics(0.45, 0.461, pixel_um=0.1)
    otf = defocus_otf(fine, 0.0, (256, 256))
    frequency = np.hypot(
        scipy.fft.fftfreq(256, 0.1)[:, None], scipy.fft.rfftfreq(256, 0.1)[None, :]
    )
    cut_off = 2 * 0.45 / 0.461
    assert np.abs(otf[frequency > 1.06 * cut_off]).max() < 2e-3
    # Halfway, a perfect circular pupil passes 0.39; the camera pixel reduces it a little.
    assert otf[np.abs(frequency - cut_off / 2) < 0.02].mean() == pytest.approx(0.38, abs=0.03)


def test_sides_of_focus_differ_only_with_spherical_aberration() -> None:
    np.testing.assert_allclose(defocus_psf(TWENTY, 12.0), defocus_psf(TWENTY, -12.0), atol=1e-7)
    aberrated = Optics(0.45, 0.461, spherical_waves=0.4)
    difference = defocus_psf(aberrated, 12.0) - defocus_psf(aberrated, -12.0)
    assert np.abs(difference).max() > 1e-4


def test_multiplying_the_spectrum_is_convolving_with_the_psf() -> None:
    plane = np.zeros((80, 90), np.float32)
    plane[40, 45] = 1.0
    blurred = scipy.fft.irfft2(
        scipy.fft.rfft2(plane) * defocus_otf(TWENTY, 8.0, plane.shape), s=plane.shape
    )
    psf = defocus_psf(TWENTY, 8.0)
    half = psf.shape[0] // 2
    window = blurred[40 - half : 41 + half, 45 - half : 46 + half]
    np.testing.assert_allclose(window, psf, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"na": 1.2, "wavelength_um": 0.5}, "immersion"),
        ({"na": 0.0, "wavelength_um": 0.5}, "NA"),
        ({"na": 0.4, "wavelength_um": -0.5}, "wavelength_um"),
        ({"na": 0.4, "wavelength_um": 0.5, "pixel_um": math.nan}, "pixel_um"),
    ],
)
def test_optics_that_cannot_be_are_refused(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Optics(**arguments)


def test_a_defocus_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="finite"):
        defocus_psf(TWENTY, math.nan)
