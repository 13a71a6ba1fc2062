"""The simulator: camera statistics, flux, and what evaluation withholds from training."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from refocusd_training.commands import register
from refocusd_training.simulate import ranges
from refocusd_training.simulate.blur import Defocus, transfer
from refocusd_training.simulate.camera import Camera
from refocusd_training.simulate.depth import blurred_layers
from refocusd_training.simulate.ranges import HELD_OUT, HELD_OUT_DEEP, TRAINED_DEPTH_UM, Setting
from refocusd_training.simulate.scene import simulate_frame
from refocusd_training.simulate.specimen import flux_of, window

from refocusd.errors import InputError
from refocusd.imaging.optics import Optics
from refocusd.imaging.quality import focus_score

TWENTY = Optics(0.45, 0.461)


@pytest.mark.parametrize("gain", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("signal", [20.0, 400.0])
def test_the_camera_obeys_the_law_of_mean_and_variance(gain: float, signal: float) -> None:
    camera = Camera(offset=100.0, gain=gain, read_noise=5.0, bits=16)
    light = np.full((400, 400), signal, np.float32)
    counts = camera.expose(light, np.random.default_rng(1)).astype(np.float64)
    variance = signal / gain + (5.0 / gain) ** 2 + 1 / 12  # the last term: rounding to counts
    assert counts.mean() == pytest.approx(100.0 + signal, abs=5 * np.sqrt(variance) / 400)
    assert counts.var() == pytest.approx(variance, rel=0.03)


def test_counts_saturate_at_the_cameras_full_scale() -> None:
    rng = np.random.default_rng(0)
    light = np.full((32, 32), 1e5, np.float32)
    assert Camera(bits=12).expose(light, rng).max() == 4095
    eight = Camera(bits=8).expose(light, rng)
    assert eight.dtype == np.uint8
    assert eight.max() == 255


def test_hot_pixels_come_as_often_as_asked() -> None:
    camera = Camera(offset=0.0, gain=10.0, read_noise=0.0, hot_fraction=0.01, bits=16)
    counts = camera.expose(np.full((300, 300), 1000.0, np.float32), np.random.default_rng(2))
    # Shot noise is 10 counts; an eighth of the hot pixels stay within 3 sigma of it.
    assert np.mean(counts > 1040) == pytest.approx(0.01 * np.exp(-40 / 260), rel=0.2)


def test_blur_moves_light_and_makes_none(flux: NDArray[np.float32]) -> None:
    otf = transfer(TWENTY, Defocus(16.0, thickness_um=3.0, softening=0.2), flux.shape)
    (out,) = blurred_layers(flux[np.newaxis], otf[np.newaxis])
    assert out.sum() == pytest.approx(float(flux.sum()), rel=1e-3)
    assert out.std() < 0.8 * flux.std()


def test_a_frame_and_its_truth_share_the_counts_scale(flux: NDArray[np.float32]) -> None:
    setting = Setting("plain", TWENTY, Camera(110.0, 2.0, 3.0), 900.0)
    scene = simulate_frame(flux, setting, Defocus(0.0), np.random.default_rng(3))
    residual = scene.raw - scene.truth
    # In focus, the frame is the truth plus noise: no bias, and the noise's variance.
    assert abs(float(residual.mean())) < 0.5
    expected = (scene.truth - 110.0).mean() / 2.0 + (3.0 / 2.0) ** 2
    assert float(residual.var()) == pytest.approx(float(expected), rel=0.05)


def test_windows_cover_images_smaller_than_themselves() -> None:
    flux = flux_of(np.arange(40 * 50, dtype=np.uint8).reshape(40, 50))
    cut = window(flux, 128, 0.8, np.random.default_rng(0))
    assert cut.shape == (128, 128)
    assert cut.max() <= flux.max() + 1e-6


def test_a_constant_image_is_no_specimen() -> None:
    with pytest.raises(InputError, match="constant"):
        flux_of(np.full((64, 64), 7, np.uint8))


def test_training_never_draws_a_held_out_microscope() -> None:
    rng = np.random.default_rng(5)
    optics = [ranges.draw_optics(rng) for _ in range(500)]
    cameras = [ranges.draw_camera(rng) for _ in range(500)]
    for setting in HELD_OUT:
        o, c = setting.optics, setting.camera
        assert not any(
            abs(o.na - d.na) < 0.04
            and abs(o.wavelength_um - d.wavelength_um) < 0.03
            and abs(o.spherical_waves - d.spherical_waves) < 0.2
            for d in optics
        ), setting.name
        assert not min(d.gain for d in cameras) <= c.gain <= max(d.gain for d in cameras)


def test_evaluation_has_specimens_deeper_than_training_draws() -> None:
    assert all(setting.depth_um > TRAINED_DEPTH_UM[1] for setting in HELD_OUT_DEEP)
    assert all(setting.layers > 1 for setting in HELD_OUT_DEEP)
    cameras = [ranges.draw_camera(np.random.default_rng(i)).gain for i in range(200)]
    assert not any(min(cameras) <= s.camera.gain <= max(cameras) for s in HELD_OUT_DEEP)


def test_depth_changes_the_in_focus_frame_and_keeps_its_light(flux: NDArray[np.float32]) -> None:
    deep = HELD_OUT_DEEP[0]
    plane = replace(deep, layers=1, depth_um=0.0)
    part = flux[:200, :200]
    thin, thick = (
        simulate_frame(part, setting, Defocus(0.0), np.random.default_rng(4)).truth
        for setting in (plane, deep)
    )
    assert thick.mean() == pytest.approx(float(thin.mean()), rel=0.02)
    assert np.abs(np.diff(thick, axis=0)).mean() < 0.95 * np.abs(np.diff(thin, axis=0)).mean()


def test_a_tenth_or_more_of_training_is_in_focus_and_both_sides_occur() -> None:
    rng = np.random.default_rng(6)
    drawn = np.array([ranges.draw_defocus(rng).um for _ in range(2000)])
    assert 0.10 < np.mean(drawn == 0) < 0.18
    assert 0.45 < np.mean(drawn[drawn != 0] > 0) < 0.55
    assert 34 < np.abs(drawn).max() <= 36


def test_the_command_simulates_depth_and_refuses_nonsense(
    sample: NDArray[np.uint8], tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    tifffile.imwrite(tmp_path / "sharp.tif", sample[:200, :200])

    def simulated(name: str, *flags: str) -> NDArray[np.uint16]:
        target = tmp_path / f"{name}.tif"
        command = ["train", "simulate", str(tmp_path / "sharp.tif"), "--defocus-um", "0"]
        arguments = parser.parse_args([*command, "--output", str(target), *flags])
        assert arguments.command(arguments) == 0
        return np.asarray(tifffile.imread(target))

    thin = simulated("thin")
    deep = simulated("deep", "--layers", "4", "--depth-um", "60")
    assert focus_score(deep) < 0.9 * focus_score(thin)
    with pytest.raises(InputError, match="1 to 16 layers"):
        simulated("none", "--layers", "0")
