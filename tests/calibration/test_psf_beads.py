"""The kernel from beads: the truth is recovered, and what cannot be measured is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from refocusd_calibration.psf.beads import find_beads
from refocusd_calibration.psf.laws import WaveLaw, kernel_sigma_um
from refocusd_calibration.psf.measure import PsfMeasurement, Stated, measure_beads
from refocusd_calibration.psf.stack import PlaneStack, read_planes
from simulated_psf import in_order, scattered, simulate_beads

from refocusd.errors import ConfigError, InputError
from refocusd.imaging.optics import Optics
from refocusd.profiles.profile import Measured

PIXEL = 0.645
WAVELENGTH = 0.52
STATED = Stated(0.45, WAVELENGTH)
Z_FAR = np.linspace(-32, 32, 17)
Z_NEAR = np.linspace(-16, 16, 9)


def near_series(
    electrons: float, spherical: float = 0.0, seed: int = 0, na: float = 0.45
) -> PlaneStack:
    """Ten beads within 16 um of focus, which is at 1.3 um."""
    optics = Optics(na, WAVELENGTH, 1.0, PIXEL, spherical)
    places = scattered(10, 256, 50, 26, np.random.default_rng(seed))
    frames = simulate_beads(
        optics, list(Z_NEAR), places, 256, focus_um=1.3, electrons=electrons, seed=seed
    )
    return in_order(list(Z_NEAR), frames, PIXEL)


def truth_um(
    z_um: NDArray[np.float64], na: float, spherical: float, focus_um: float
) -> NDArray[np.float64]:
    """Widths of the true kernels, in the profile's definition."""
    law = WaveLaw(
        na, WAVELENGTH, 1.0, PIXEL, focus_um, (-50.0, 50.0), reach_um=10.0, defocus_um=40.0
    )
    return kernel_sigma_um(law, np.array([na, spherical, focus_um]), z_um)


def sigmas_off(found: Measured | None, truth: float) -> float:
    assert found is not None
    return abs(found.value - truth) / found.uncertainty


def check(measured: PsfMeasurement, name: str) -> bool:
    return next(item.passed for item in measured.checks if item.name == name)


@pytest.mark.parametrize("electrons", [100000.0, 3000.0])
@pytest.mark.parametrize(("na", "spherical"), [(0.45, 0.0), (0.3, 0.3)])
def test_optics_are_recovered_over_32_um_of_defocus(
    electrons: float, na: float, spherical: float
) -> None:
    places = scattered(10, 360, 85, 45, np.random.default_rng(3))
    optics = Optics(na, WAVELENGTH, 1.0, PIXEL, spherical)
    frames = simulate_beads(optics, list(Z_FAR), places, 360, focus_um=-0.7, electrons=electrons)
    # The nominal NA is wrong: it is a start value, not a result.
    measured = measure_beads(in_order(list(Z_FAR), frames, PIXEL), Stated(na * 1.06, WAVELENGTH))
    section = measured.section
    assert section.model == "wave"
    assert measured.passed
    assert section.na is not None
    assert section.na.value == pytest.approx(na, rel=0.05)
    assert section.spherical_waves is not None
    assert section.spherical_waves.value == pytest.approx(spherical, abs=0.06)
    assert section.focus_um.value == pytest.approx(-0.7, abs=0.6)
    truth = truth_um(measured.observed.z_um, na, spherical, -0.7)
    np.testing.assert_allclose(section.sigma_um, truth, rtol=0.05)
    np.testing.assert_allclose(section.sigma_model_um, truth, rtol=0.05)


def test_stated_uncertainties_cover_the_truth_at_the_claimed_rate() -> None:
    off: list[float] = []
    widths: list[float] = []
    for seed in range(10):
        measured = measure_beads(near_series(3000.0, 0.2, seed), STATED)
        section = measured.section
        off += [
            sigmas_off(section.na, 0.45),
            sigmas_off(section.spherical_waves, 0.2),
            sigmas_off(section.focus_um, 1.3),
        ]
        truth = truth_um(measured.observed.z_um, 0.45, 0.2, 1.3)
        apart = np.abs(np.array(section.sigma_um) - truth)
        widths += list(apart / np.array(section.sigma_uncertainty_um))
    # 68 % and 95 % are nominal, for 30 and 90 values that are correlated within a series.
    assert np.mean(np.array(off) < 1) >= 0.5
    assert np.mean(np.array(off) < 2) >= 0.85
    assert np.mean(np.array(widths) < 1) >= 0.55
    assert np.mean(np.array(widths) < 2) >= 0.87


def test_the_aperture_need_not_be_known() -> None:
    measured = measure_beads(near_series(20000.0), Stated(None, WAVELENGTH))
    assert sigmas_off(measured.section.na, 0.45) < 4
    assert measured.section.na is not None
    assert measured.section.na.value == pytest.approx(0.45, rel=0.01)


def test_a_wrong_pixel_size_is_found() -> None:
    series = near_series(50000.0)
    wrong = in_order(list(series.z_um), series.pixels, 0.58, saturation=65535)
    measured = measure_beads(wrong, STATED)
    assert not check(measured, "pixel size")
    assert measured.section.pixel_um is not None
    assert measured.section.pixel_um.value == pytest.approx(PIXEL, rel=0.02)
    assert check(measure_beads(series, STATED), "pixel size")


def test_the_sign_of_defocus_is_observable_with_spherical_aberration_only() -> None:
    def said(spherical: float) -> tuple[str, Measured]:
        measured = measure_beads(near_series(30000.0, spherical), STATED)
        assert measured.section.asymmetry is not None
        detail = next(c.detail for c in measured.checks if c.name == "sign of defocus")
        return detail, measured.section.asymmetry

    plain, none = said(0.0)
    assert plain.startswith("not observable")
    assert abs(none.value) < 4 * none.uncertainty
    for spherical in (0.5, -0.5):
        aberrated, some = said(spherical)
        assert aberrated.startswith("observable")
        # Positive aberration widens the kernels below focus.
        assert np.sign(some.value) == -np.sign(spherical)
        assert abs(some.value) > 10 * some.uncertainty


def test_a_gaussian_blur_is_distinguished_from_wave_optics() -> None:
    rng = np.random.default_rng(5)
    places = scattered(10, 256, 50, 30, rng)
    rows, columns = np.indices((256, 256))
    frames = []
    for z in Z_NEAR:
        variance = 0.8**2 + (0.25 * (z - 1.0)) ** 2
        light = np.zeros((256, 256))
        for y, x in places * PIXEL:
            far = (rows * PIXEL - y) ** 2 + (columns * PIXEL - x) ** 2
            light += 2e4 * PIXEL**2 * np.exp(-far / (2 * variance)) / (2 * np.pi * variance)
        frames.append(rng.poisson(light + 10))
    series = in_order(list(Z_NEAR), np.array(frames).astype(np.uint16), PIXEL)
    section = measure_beads(series, STATED).section
    assert section.model == "gaussian"
    assert section.na is None
    assert sigmas_off(section.blur_focus_um, 0.8) < 3
    assert sigmas_off(section.blur_um_per_um, 0.25) < 3
    assert sigmas_off(section.focus_um, 1.0) < 3


def test_a_stage_that_wobbles_sideways_does_not_widen_the_kernel() -> None:
    series = near_series(30000.0)
    moved = series.pixels.copy()
    for plane, shift in ((2, (1, 0)), (6, (-1, 1)), (7, (0, -1))):
        moved[plane] = np.roll(moved[plane], shift, (0, 1))
    wobbling = in_order(list(series.z_um), moved, PIXEL, saturation=65535)
    section = measure_beads(wobbling, STATED).section
    assert section.na is not None
    assert section.na.value == pytest.approx(0.45, rel=0.01)
    truth = truth_um(series.z_um, 0.45, 0.0, 1.3)
    np.testing.assert_allclose(section.sigma_um, truth, rtol=0.05)


def test_without_the_wavelength_the_simple_laws_are_fitted() -> None:
    measured = measure_beads(near_series(20000.0), Stated(0.45))
    assert measured.section.model in ("gaussian", "disc")
    assert any("--wavelength-um" in note for note in measured.notes)


def test_a_real_bead_is_measured_and_its_aberrations_are_not_hidden(test_data: Path) -> None:
    """A light sheet's PSF: its light fades away from focus, and one bead is too few."""
    planes = tifffile.imread(test_data / "psf" / "pycudadecon_psf.tif")[18:43]
    z = 0.1 * (np.arange(18, 43) - 30)
    measured = measure_beads(in_order(list(z), planes, 0.1), Stated(1.1, 0.525, 1.33), reach_um=2.6)
    section = measured.section
    assert section.model == "wave"
    assert section.na is not None
    assert section.na.value == pytest.approx(1.05, abs=0.1)
    narrowest = z[int(np.argmin(section.sigma_um))]
    assert narrowest == pytest.approx(0.0, abs=0.15)
    assert 0.11 < min(section.sigma_um) < 0.17
    assert not check(measured, "beads")
    assert any("brightness" in note for note in measured.notes)


def test_beads_of_a_20x_objective_are_described_by_an_apodised_pupil(test_data: Path) -> None:
    """20x/0.75, 5 um steps, beads of 16 um; the file's pixel size of 1 um is a placeholder."""
    path = test_data / "z_stacks" / "faim_beads_E07_s2_w1.tif"
    measured = measure_beads(read_planes(path, pixel_um=1.3668), Stated(0.75, 0.52))
    section = measured.section
    assert measured.passed, [item.detail for item in measured.checks if not item.passed]
    assert section.beads >= 5
    assert section.model == "wave"
    assert section.na is not None
    assert section.na.value == pytest.approx(0.75, rel=0.12)
    assert section.apodisation
    assert 0.1 < section.apodisation.value < 2
    assert section.bead_um
    assert section.bead_um.value == pytest.approx(16, abs=2)
    chi2 = {law: fit.chi2 / fit.freedom for law, fit in measured.fits.items()}
    assert chi2["wave"] < 0.5 * chi2["gaussian"]
    assert any("rejects light that is out of focus" in note for note in measured.notes)


def test_beads_with_a_bright_rim_are_found_once_each(test_data: Path) -> None:
    path = test_data / "z_stacks" / "faim_beads_E08_s1_w2.tif"
    stack = read_planes(path, pixel_um=1.3668)
    beads = find_beads(stack, reach_um=42)
    # Some of the 21 patches of light are several touching beads.
    assert beads.found < 30
    assert len(beads.centres) >= 6


def noise(planes: int = 9) -> NDArray[np.uint16]:
    return np.random.default_rng(0).normal(100, 5, (planes, 200, 200)).astype(np.uint16)


def test_fields_without_beads_are_refused() -> None:
    with pytest.raises(InputError, match=r"equally sharp|no beads|the first|the last"):
        measure_beads(in_order(list(Z_NEAR), noise(), PIXEL), STATED)


def test_a_stage_that_did_not_move_is_refused() -> None:
    frame = near_series(20000.0).pixels[4].astype(np.uint16)
    same = np.stack([frame] * 9)
    with pytest.raises(InputError, match="stage did not move"):
        measure_beads(in_order(list(Z_NEAR), same, PIXEL), STATED)


def test_saturated_beads_are_refused() -> None:
    series = near_series(20000.0)
    clipped = np.minimum(series.pixels, 1000).astype(np.uint16)
    with pytest.raises(InputError, match=r"saturated.*Expose shorter"):
        measure_beads(in_order(list(Z_NEAR), clipped, PIXEL, saturation=1000), STATED)


def crowded(count: int, apart_px: float) -> PlaneStack:
    places = scattered(count, 256, apart_px, 4, np.random.default_rng(0))
    frames = simulate_beads(Optics(0.45, WAVELENGTH, 1.0, PIXEL), list(Z_NEAR), places, 256)
    return in_order(list(Z_NEAR), frames, PIXEL)


def test_the_light_of_neighbouring_beads_is_subtracted() -> None:
    """Kernels reach 23 px, and few of these beads have that much room around them."""
    measured = measure_beads(crowded(60, 14), STATED)
    section = measured.section
    assert measured.passed
    assert section.beads >= 20
    assert section.na is not None
    assert section.na.value == pytest.approx(0.45, rel=0.01)
    truth = truth_um(measured.observed.z_um, 0.45, 0.0, 0.0)
    np.testing.assert_allclose(section.sigma_model_um, truth, rtol=0.02)


def test_crowded_beads_are_refused() -> None:
    with pytest.raises(InputError, match=r"too near to another.*Dilute"):
        measure_beads(crowded(300, 6), STATED)


def test_a_focus_outside_the_series_is_refused() -> None:
    series = near_series(20000.0)
    half = in_order(list(Z_NEAR[4:]), series.pixels[4:], PIXEL, saturation=65535)
    with pytest.raises(InputError, match="focus lies outside the series"):
        measure_beads(half, STATED)


def test_too_few_planes_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "beads.tif", noise(3), photometric="minisblack")
    with pytest.raises(InputError, match="at least 5 planes"):
        read_planes(tmp_path / "beads.tif", pixel_um=PIXEL, z_step_um=1.0)


def test_a_kernel_that_does_not_fit_the_radius_is_flagged() -> None:
    measured = measure_beads(near_series(20000.0), STATED, reach_um=5.0)
    assert not check(measured, "room for the widest kernel")


def test_an_impossible_aperture_is_refused() -> None:
    with pytest.raises(ConfigError, match="--refractive-index"):
        measure_beads(near_series(20000.0), Stated(1.2, WAVELENGTH))
