"""The simulator compared with real fields, and the statistics used for that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from refocusd_training.data.images import read_image
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.camera import Camera

from benchmarks.simulator.frame_statistics import (
    fit_noise,
    log_spectral_distance,
    photon_transfer,
    radial_spectrum,
    spectrum_bands,
)
from benchmarks.simulator.implied_blur import implied_blur, same_blur
from benchmarks.simulator.plate_model import PLATE_CAMERA, plate_frame
from refocusd.frame import Pixels, checked_pixels
from refocusd.imaging.optics import Optics, defocus_psf

EDGES = spectrum_bands()
FREQUENCY = np.sqrt(EDGES[1:] * EDGES[:-1])
LIGHT = tuple(range(100, 800, 50))


def fields(test_data: Path, name: str) -> list[Pixels]:
    return [checked_pixels(read_image(path)) for path in sorted((test_data / name).iterdir())]


@pytest.fixture(scope="module")
def real(test_data: Path) -> list[Pixels]:
    """Give ten Hoechst fields at z = 00."""
    return fields(test_data, "bbbc006/defocused_z00_w1")


@pytest.fixture(scope="module")
def simulated(test_data: Path) -> list[Pixels]:
    """Give five other fields in focus, defocused by the simulator."""
    rng = np.random.default_rng(0)
    return [plate_frame(image, rng) for image in fields(test_data, "bbbc006/in_focus_w1")]


def spectrum_per_light(images: list[Pixels]) -> NDArray[np.float64]:
    power: NDArray[np.float64] = np.sum([radial_spectrum(image, EDGES) for image in images], axis=0)
    return power / np.float64(sum(float(image.mean()) - PLATE_CAMERA.offset for image in images))


def test_simulated_blur_has_the_real_plates_spectrum(
    real: list[Pixels], simulated: list[Pixels]
) -> None:
    one, two = spectrum_per_light(real), spectrum_per_light(simulated)
    blurred = (FREQUENCY > 0.008) & (FREQUENCY < 0.065)
    assert np.ptp(np.log10(one[blurred])) > 4, "the spectrum falls by more than four decades"
    # RMS below a factor of 2 in power (1.4 in amplitude); real fields differ from their own
    # mean by a factor of 1.5.
    assert log_spectral_distance(one[blurred], two[blurred]) < np.log10(2.0)
    noise = FREQUENCY > 0.1
    assert log_spectral_distance(one[noise], two[noise]) < 0.08
    # Somewhere near the disc's first zero, so that the blur is about right.
    cut = [float(np.interp(-1.5, -np.log10(s / s[5]), -FREQUENCY)) for s in (one, two)]
    assert abs(cut[0]) == pytest.approx(abs(cut[1]), rel=0.15)


def test_simulated_noise_grows_with_light_as_on_the_real_plate(
    real: list[Pixels], simulated: list[Pixels]
) -> None:
    fits = [
        fit_noise(photon_transfer(images), PLATE_CAMERA.offset, LIGHT)
        for images in (real, simulated)
    ]
    assert fits[0].gain == pytest.approx(PLATE_CAMERA.gain, rel=0.05)
    assert fits[1].gain == pytest.approx(fits[0].gain, rel=0.08)
    assert fits[1].dark_variance == pytest.approx(fits[0].dark_variance, abs=1.5)


def test_an_unblurred_frame_would_not_pass(test_data: Path, real: list[Pixels]) -> None:
    sharp = spectrum_per_light(fields(test_data, "bbbc006/in_focus_w1"))
    blurred = (FREQUENCY > 0.008) & (FREQUENCY < 0.065)
    assert log_spectral_distance(spectrum_per_light(real)[blurred], sharp[blurred]) > 1.0


@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_gain_and_read_noise_are_found_again(gain: float) -> None:
    camera = Camera(offset=100.0, gain=gain, read_noise=4.0, hot_fraction=2e-3, bits=16)
    ramp = np.broadcast_to(np.linspace(5.0, 600.0, 512, dtype=np.float32), (512, 512))
    rng = np.random.default_rng(1)
    curve = photon_transfer([camera.expose(ramp, rng) for _ in range(2)])
    fit = fit_noise(curve, 100.0, tuple(range(100, 750, 50)))
    assert fit.gain == pytest.approx(gain, rel=0.06)
    assert fit.dark_variance == pytest.approx((4.0 / gain) ** 2 + 1 / 12, rel=0.5, abs=1.0)


@pytest.mark.parametrize("shape", [(256, 256), (255, 321)])
def test_white_noise_has_its_variance_in_every_band(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).normal(50, 3, shape)
    power = radial_spectrum(noise, spectrum_bands(12, 0.02))
    np.testing.assert_allclose(power[4:], 9.0, rtol=0.15)


@pytest.mark.parametrize("defocus_um", [4.0, 16.0])
def test_the_psf_agrees_with_psfmodels(defocus_um: float) -> None:
    psfmodels = pytest.importorskip("psfmodels")
    optics = Optics(0.45, 0.461, pixel_um=0.645)
    ours = defocus_psf(optics, defocus_um)
    side = ours.shape[0]
    fine = 5
    # No cover slip and one index everywhere: a plain defocus in air.
    microscope = {"NA": optics.na, "tg": 0.0, "tg0": 0.0, "ti0": 2000.0}
    microscope |= dict.fromkeys(("ng", "ng0", "ni", "ni0", "ns"), 1.0)
    theirs = psfmodels.scalar_psf(
        zv=defocus_um,
        nx=side * fine,
        dxy=optics.pixel_um / fine,
        wvl=optics.wavelength_um,
        params=microscope,
        normalize=False,
    )
    pixels = np.reshape(theirs, (side, fine, side, fine)).sum(axis=(1, 3))
    pixels /= pixels.sum()
    assert np.abs(pixels - ours).sum() < 0.03, "one and a half per cent of the light at most"


def test_the_simulated_psf_is_that_which_the_real_plate_implies(
    test_data: Path, real: list[Pixels], simulated: list[Pixels]
) -> None:
    sharp = fields(test_data, "bbbc006/in_focus_w1")
    found = implied_blur(real, sharp)
    # A central peak, and light out to 39 px.
    centre, flank = found.profile(np.array([0.0, 15.0]))
    assert centre > 2 * flank
    assert found.encircled(np.array([39.0]))[0] == pytest.approx(1.0, abs=0.05)
    assert found.encircled(np.array([28.0]))[0] < 0.9
    assert same_blur(found, implied_blur(simulated, sharp))
    # The published aperture, as the plate was first simulated: a disc.
    rng = np.random.default_rng(0)
    former = Defocus(-30.0, softening=0.2)
    discs = [plate_frame(image, rng, former, Optics(0.45, 0.461)) for image in sharp]
    assert not same_blur(found, implied_blur(discs, sharp))
