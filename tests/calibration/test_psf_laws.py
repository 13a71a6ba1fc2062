"""The laws of blur, compared with closed forms and with the optics that the product uses."""

from __future__ import annotations

import numpy as np
import pytest
from refocusd_calibration.psf.laws import (
    BlurLaw,
    DiscLaw,
    Floats,
    GaussianLaw,
    WaveLaw,
    kernel_sigma_um,
)
from refocusd_calibration.psf.measure import Stated
from scipy.special import j0, roots_legendre

from refocusd.errors import ConfigError
from refocusd.imaging.optics import Optics, defocus_psf

pytestmark = pytest.mark.fast

SPAN = (-40.0, 40.0)


def wave(pixel_um: float = 1e-3) -> WaveLaw:
    return WaveLaw(0.45, 0.5, 1.0, pixel_um, 0.0, SPAN, reach_um=20.0, defocus_um=32.0)


def test_in_focus_the_wave_law_is_the_diffraction_limited_transfer_function() -> None:
    frequency = np.linspace(0.05, 1.7, 30)
    nu = frequency * 0.5 / (2 * 0.45)
    truth = 2 / np.pi * (np.arccos(nu) - nu * np.sqrt(1 - nu**2))
    found = wave().transfer(np.array([0.45, 0.0, 0.0]), np.zeros(1), frequency)[0]
    np.testing.assert_allclose(found, truth, atol=1e-3)


@pytest.mark.parametrize("spherical", [0.0, 0.4])
@pytest.mark.parametrize("z", [-24.0, 6.0, 32.0])
def test_the_wave_law_agrees_with_the_kernel_on_the_grid(z: float, spherical: float) -> None:
    pixel = 0.15
    grid = defocus_psf(Optics(0.45, 0.5, 1.0, pixel, spherical), z).astype(np.float64)
    half = grid.shape[0] // 2
    x = np.arange(-half, half + 1) * pixel
    frequency = np.linspace(0.01, 0.4, 25)
    truth = np.cos(2 * np.pi * np.outer(frequency, x)) @ grid.sum(0)
    found = wave(pixel).transfer(np.array([0.45, spherical, 0.0]), np.array([z]), frequency)[0]
    np.testing.assert_allclose(found, truth, atol=0.012)


@pytest.mark.parametrize("apodisation", [0.4, 1.2])
def test_an_apodised_pupil_is_that_of_the_grid(apodisation: float) -> None:
    pixel = 0.15
    grid = defocus_psf(Optics(0.45, 0.5, 1.0, pixel, apodisation=apodisation), 12.0).astype(float)
    half = grid.shape[0] // 2
    x = np.arange(-half, half + 1) * pixel
    frequency = np.linspace(0.01, 0.4, 25)
    truth = np.cos(2 * np.pi * np.outer(frequency, x)) @ grid.sum(0)
    law = WaveLaw(
        0.45, 0.5, 1.0, pixel, 0.0, SPAN, reach_um=20.0, defocus_um=32.0, free=("apodisation",)
    )
    found = law.transfer(np.array([0.45, 0.0, apodisation, 0.0]), np.array([12.0]), frequency)[0]
    np.testing.assert_allclose(found, truth, atol=0.012)


@pytest.mark.parametrize(
    ("law", "values"),
    [
        (GaussianLaw(0.0, 0.5, 0.2, SPAN), [0.5, 0.2, 0.0]),
        (DiscLaw(0.0, 0.5, 0.5, SPAN), [0.5, 0.5, 0.0]),
        (wave(0.3), [0.45, 0.2, 0.0]),
    ],
)
def test_kernels_have_unit_flux_and_the_transfer_function_that_is_claimed(
    law: BlurLaw, values: list[float]
) -> None:
    radius, weight = roots_legendre(900)
    radius, weight = 14 * (radius + 1), 14 * weight
    z = np.array([3.0, -9.0])
    kernel = law.kernel(np.array(values), z, radius)
    ring = 2 * np.pi * radius * weight
    # Diffraction puts about one per cent of the light beyond any radius.
    np.testing.assert_allclose(kernel @ ring, 1.0, atol=0.02)
    frequency = np.array([0.05, 0.1])
    found = kernel @ (ring[:, None] * j0(2 * np.pi * np.outer(radius, frequency)))
    np.testing.assert_allclose(found, law.transfer(np.array(values), z, frequency), atol=0.02)


def test_the_width_of_a_gaussian_is_its_sigma_and_of_a_disc_522_thousandths_of_its_radius() -> None:
    z = np.array([0.0, 4.0, 20.0])
    gaussian = kernel_sigma_um(GaussianLaw(0.0, 0.5, 0.2, SPAN), np.array([0.5, 0.2, 0.0]), z)
    np.testing.assert_allclose(gaussian, np.hypot(0.5, 0.2 * z), rtol=1e-3)
    disc = kernel_sigma_um(DiscLaw(0.0, 1e-3, 0.5, SPAN), np.array([1e-3, 0.5, 0.0]), z[1:])
    np.testing.assert_allclose(disc, 0.522 * 0.5 * z[1:], rtol=2e-3)


def test_without_aberration_both_sides_of_focus_are_equal_and_with_it_they_are_not() -> None:
    def widths(spherical: float) -> Floats:
        values = np.array([0.45, spherical, 0.0])
        return kernel_sigma_um(wave(), values, np.array([-12.0, 12.0]))

    plain, aberrated = widths(0.0), widths(0.5)
    assert plain[0] == pytest.approx(plain[1], rel=1e-6)
    assert aberrated[0] > 1.2 * aberrated[1]


def test_an_aperture_above_the_refractive_index_is_refused() -> None:
    with pytest.raises(ConfigError, match="immersion medium's --refractive-index"):
        Stated(na=1.2, refractive_index=1.0)
