"""The kernel without beads, from matched planes of any specimen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from refocusd_calibration.psf.laws import WaveLaw, kernel_sigma_um
from refocusd_calibration.psf.measure import Stated, measure_planes
from refocusd_calibration.psf.stack import PlaneStack
from simulated_psf import in_order, simulate_planes

from refocusd.errors import InputError
from refocusd.imaging.optics import Optics
from refocusd.profiles.profile import Measured

PIXEL = 0.645
WAVELENGTH = 0.52
STATED = Stated(0.45, WAVELENGTH)
Z_NEAR = np.linspace(-16, 16, 9)


def series(electrons: float, spherical: float = 0.0, seed: int = 0, side: int = 192) -> PlaneStack:
    optics = Optics(0.45, WAVELENGTH, 1.0, PIXEL, spherical)
    frames = simulate_planes(
        optics,
        list(Z_NEAR),
        side,
        focus_um=1.3,
        electrons=electrons,
        seed=seed,
        specimen_seed=seed,
    )
    return in_order(list(Z_NEAR), frames, PIXEL)


def truth_um(
    z_um: NDArray[np.float64], na: float, spherical: float, focus_um: float
) -> NDArray[np.float64]:
    law = WaveLaw(
        na, WAVELENGTH, 1.0, PIXEL, focus_um, (-50.0, 50.0), reach_um=10.0, defocus_um=40.0
    )
    return kernel_sigma_um(law, np.array([na, spherical, focus_um]), z_um)


def sigmas_off(found: Measured | None, truth: float) -> float:
    assert found is not None
    return abs(found.value - truth) / found.uncertainty


@pytest.mark.parametrize("electrons", [1000.0, 100.0, 25.0])
def test_optics_are_recovered_over_32_um_of_defocus(electrons: float) -> None:
    z = np.linspace(-32, 32, 13)
    optics = Optics(0.45, WAVELENGTH, 1.0, PIXEL, 0.2)
    frames = simulate_planes(optics, list(z), 256, focus_um=-0.9, electrons=electrons)
    measured = measure_planes(in_order(list(z), frames, PIXEL), None, Stated(0.47, WAVELENGTH))
    section = measured.section
    assert section.method == "planes"
    assert section.model == "wave"
    assert measured.passed
    assert section.na is not None
    assert section.na.value == pytest.approx(0.45, rel=0.05)
    truth = truth_um(measured.observed.z_um, 0.45, 0.2, -0.9)
    np.testing.assert_allclose(section.sigma_um, truth, rtol=0.05)
    np.testing.assert_allclose(section.sigma_model_um, truth, rtol=0.05)


def test_stated_uncertainties_cover_the_truth_at_the_claimed_rate() -> None:
    off: list[float] = []
    for seed in range(12):
        section = measure_planes(series(100.0, 0.2, seed), None, STATED).section
        off += [
            sigmas_off(section.na, 0.45),
            sigmas_off(section.spherical_waves, 0.2),
            sigmas_off(section.focus_um, 1.3),
        ]
    # 68 % and 95 % are nominal, for 36 values that are correlated within a series.
    assert np.mean(np.array(off) < 1) >= 0.5
    assert np.mean(np.array(off) < 2) >= 0.83


def test_the_in_focus_frame_may_be_a_frame_of_its_own() -> None:
    stack = series(300.0)
    optics = Optics(0.45, WAVELENGTH, 1.0, PIXEL)
    apart = simulate_planes(optics, [1.3, 17.3], 192, focus_um=1.3, electrons=300.0, seed=9)
    # The field of `simulate_planes` depends on the range of its planes: cut both alike.
    section = measure_planes(stack, apart[0].astype(np.float32), STATED).section
    assert len(section.defocus_um) == len(Z_NEAR)
    assert section.na is not None
    assert section.na.value == pytest.approx(0.45, rel=0.05)


def test_planes_that_moved_sideways_are_shifted_back() -> None:
    stack = series(300.0)
    moved = stack.pixels.copy()
    moved[2] = np.roll(moved[2], (2, -3), (0, 1))
    section = measure_planes(
        in_order(list(Z_NEAR), moved, PIXEL, saturation=65535), None, STATED
    ).section
    truth = truth_um(np.array(section.defocus_um) + section.focus_um.value, 0.45, 0.0, 1.3)
    np.testing.assert_allclose(section.sigma_um, truth, rtol=0.05)


def test_a_plane_of_another_field_is_refused() -> None:
    stack, other = series(300.0), series(300.0, seed=4)
    mixed = stack.pixels.copy()
    mixed[6] = other.pixels[6]
    with pytest.raises(InputError, match="does not show the field of the in-focus plane"):
        measure_planes(in_order(list(Z_NEAR), mixed, PIXEL, saturation=65535), None, STATED)


def test_real_planes_of_different_fields_are_refused(test_data: Path) -> None:
    folder = test_data / "bbbc006"
    sharp = np.asarray(Image.open(sorted((folder / "in_focus_w1").iterdir())[0])).astype(np.float32)
    far = [tifffile.imread(path) for path in sorted((folder / "defocused_z00_w1").iterdir())[:5]]
    stack = in_order([-32.0, -30.0, -28.0, -26.0, -24.0], np.stack(far), PIXEL)
    with pytest.raises(InputError, match="does not show the field"):
        measure_planes(stack, sharp, Stated(0.45, 0.461))


def test_one_frame_held_for_two_planes_is_refused() -> None:
    stack = series(300.0)
    twice = stack.pixels.copy()
    twice[6] = twice[4]
    with pytest.raises(InputError, match="is identical to the in-focus plane"):
        measure_planes(in_order(list(Z_NEAR), twice, PIXEL, saturation=65535), 4, STATED)


def test_an_index_that_names_no_plane_is_refused() -> None:
    with pytest.raises(InputError, match="there is no plane 9"):
        measure_planes(series(300.0), 9, STATED)


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="one field and camera"):
        measure_planes(series(300.0), np.zeros((100, 100), np.float32), STATED)


def test_an_empty_field_is_refused() -> None:
    empty = np.random.default_rng(0).poisson(200, (9, 192, 192)).astype(np.uint16)
    with pytest.raises(InputError, match=r"only noise|does not show the field"):
        measure_planes(in_order(list(Z_NEAR), empty, PIXEL), 4, STATED)


def test_a_field_that_is_too_small_for_the_blur_is_refused() -> None:
    z = np.linspace(-32, 32, 9)
    optics = Optics(0.45, WAVELENGTH, 1.0, PIXEL)
    frames = simulate_planes(optics, list(z), 100, electrons=500.0)
    with pytest.raises(InputError, match="a larger field"):
        measure_planes(in_order(list(z), frames, PIXEL), None, STATED)
