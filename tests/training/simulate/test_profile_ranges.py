"""Training for one microscope: a calibration profile in place of the ranges."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from refocusd_training.commands import register
from refocusd_training.config import TrainingConfig, load_config, write_config
from refocusd_training.data.config import DataConfig
from refocusd_training.data.samples import SampleStream
from refocusd_training.loop.folder import ranges_of_run
from refocusd_training.networks import NetworkConfig
from refocusd_training.simulate.ranges import (
    DEFAULT_RANGES,
    draw_camera,
    draw_optics,
    measured,
    ranges_of,
)
from tiny_training import train

from refocusd.errors import ConfigError, InputError
from refocusd.profiles.profile import (
    CameraSection,
    Measured,
    Microscope,
    Profile,
    PsfSection,
    load_profile,
    save_profile,
)

TINY = TrainingConfig(
    steps=2,
    batch=2,
    size=96,
    warm_up=1,
    decay=1,
    checkpoint_every=1,
    threads=1,
    network=NetworkConfig(widths=(8, 16, 16), blocks=(1, 1, 1), half=8, fine=4),
    data=DataConfig(bank=2),
)


def value(number: float, uncertainty: float) -> Measured:
    return Measured(value=number, uncertainty=uncertainty)


CAMERA = CameraSection(
    offset_counts=value(400.0, 2.0),
    gain_e_per_count=value(0.22, 0.004),
    read_noise_e=value(1.4, 0.05),
    saturation_counts=4095.0,
    hot_pixels=[(3, 5), (40, 41)],
    hot_pixel_count=2,
    shape=(96, 96),
)
PSF = PsfSection(
    method="beads",
    model="wave",
    focus_um=value(0.0, 0.1),
    na=value(0.78, 0.01),
    pixel_um=value(0.325, 0.001),
    spherical_waves=value(0.3, 0.05),
    wavelength_um=0.52,
)
PROFILE = Profile(
    created="2026-01-01T00:00:00+00:00",
    version="1",
    microscope=Microscope(camera="Zyla", na=0.8, pixel_um=0.33, wavelength_um=0.461),
    camera=CAMERA,
    psf=PSF,
)


def without(**changes: Any) -> Profile:
    return msgspec.structs.replace(PROFILE, **changes)


def test_what_was_measured_replaces_the_ranges_within_its_uncertainty() -> None:
    found = ranges_of(PROFILE)
    assert found.na == pytest.approx((0.76, 0.80))
    assert found.pixel_um == pytest.approx((0.323, 0.327))
    assert found.spherical_waves == pytest.approx((0.2, 0.4))
    assert found.wavelength_um == (0.52, 0.52)
    assert found.offset == pytest.approx((396.0, 404.0))
    assert found.gain == pytest.approx((0.212, 0.228))
    assert found.read_noise == pytest.approx((1.3, 1.5))
    assert found.hot_fraction == pytest.approx((2 / 96**2, 2 / 96**2))
    assert (found.hot_share, found.bits) == (1.0, 12)


def test_what_was_not_measured_keeps_its_range() -> None:
    found = ranges_of(without(psf=None, camera=None))
    assert found == replace(
        DEFAULT_RANGES, na=(0.8, 0.8), pixel_um=(0.33, 0.33), wavelength_um=(0.461, 0.461)
    )
    assert ranges_of(without(psf=None, camera=None, microscope=Microscope())) == DEFAULT_RANGES


def test_frames_are_drawn_within_the_profile() -> None:
    found = ranges_of(PROFILE)
    rng = np.random.default_rng(1)
    for _ in range(100):
        optics, camera = draw_optics(rng, found), draw_camera(rng, found)
        assert 0.76 <= optics.na <= 0.80
        assert 0.2 <= optics.spherical_waves <= 0.4
        assert 0.212 <= camera.gain <= 0.228
        assert 396 <= camera.offset <= 404
        assert camera.bits == 12


def test_an_aperture_that_cannot_be_is_refused() -> None:
    wide = msgspec.structs.replace(PSF, na=value(0.98, 0.05))
    with pytest.raises(ConfigError, match=r"NA of up to 1.08 and a refractive index of 1,"):
        ranges_of(without(psf=wide))


def test_a_stream_for_a_microscope_shows_its_noise() -> None:
    ranges = replace(ranges_of(PROFILE), hot_share=0.0)
    dark = np.full((128, 128), 1e-6, np.float32)
    ours = SampleStream([dark], size=96, batch=4, bank=1, seed=5, ranges=ranges)
    theirs = SampleStream([dark], size=96, batch=4, bank=1, seed=5)
    one, other = (next(islice(iter(s), 1)) for s in (ours, theirs))
    assert one.raw.shape == other.raw.shape
    assert not np.array_equal(one.raw, other.raw)
    again = SampleStream([dark], size=96, batch=4, bank=1, seed=5, ranges=ranges)
    np.testing.assert_array_equal(next(iter(again)).raw, one.raw)


@pytest.mark.parametrize("saturation", [4095.0, 255.0])
def test_a_simulated_camera_has_the_measured_offset_and_noise(saturation: float) -> None:
    from refocusd_training.simulate.scene import expose_scene

    camera = msgspec.structs.replace(CAMERA, saturation_counts=saturation)
    if saturation == 255.0:
        camera = msgspec.structs.replace(
            camera,
            offset_counts=value(20.0, 0.1),
            gain_e_per_count=value(4.0, 0.1),
            read_noise_e=value(8.0, 0.1),
        )
    _, simulated = measured(without(camera=camera), (64, 64))
    empty = np.zeros((64, 64), np.float32)
    rng = np.random.default_rng(2)
    raw = expose_scene(
        empty, empty, replace(simulated, hot_fraction=0.0), peak=100.0, haze=0.0, rng=rng
    )
    assert raw.raw.dtype == (np.uint8 if saturation == 255.0 else np.uint16)
    assert raw.raw.mean() == pytest.approx(camera.offset_counts.value, abs=0.3)
    noise = camera.read_noise_e.value / camera.gain_e_per_count.value
    assert raw.raw.std() == pytest.approx(np.hypot(noise, 12**-0.5), rel=0.05)


def test_hot_pixels_lie_where_they_were_found() -> None:
    optics, camera = measured(PROFILE, (96, 96))
    assert optics.na == pytest.approx(0.78)
    raw = camera.expose(np.full((96, 96), 800.0, np.float32), np.random.default_rng(4))
    assert camera.hot_fraction == 0
    background = np.median(raw)
    assert all(raw[y, x] > background for y, x in CAMERA.hot_pixels)
    # In another, unknown region of the chip.
    _, elsewhere = measured(PROFILE, (64, 64))
    assert elsewhere.hot_pixels == ()
    assert elsewhere.hot_fraction == pytest.approx(2 / 96**2)


def test_the_command_simulates_the_microscope_of_a_profile(
    tmp_path: Path, flux: NDArray[np.float32]
) -> None:
    save_profile(PROFILE, tmp_path / "zyla.json")
    tifffile.imwrite(tmp_path / "sharp.tif", (flux[:96, :96] * 200).clip(0, 255).astype(np.uint8))
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    made = {}
    for name, more in {"plain": [], "measured": ["--profile", str(tmp_path / "zyla.json")]}.items():
        output = tmp_path / f"{name}.tif"
        command = ["train", "simulate", str(tmp_path / "sharp.tif"), "--defocus-um", "0"]
        parsed = parser.parse_args([*command, "--output", str(output), *more])
        assert parsed.command(parsed) == 0
        made[name] = tifffile.imread(output)
    assert 90 < np.percentile(made["plain"], 1) < 130
    assert 390 < np.percentile(made["measured"], 1) < 440


def test_a_configuration_names_the_profile_beside_it(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('profile = "zyla.json"\n', encoding="utf-8")
    config = load_config(tmp_path / "run.toml")
    assert Path(config.profile) == tmp_path / "zyla.json"
    (tmp_path / "again").mkdir()
    write_config(config, tmp_path / "again" / "run.toml")
    # Written as an absolute path, as the tests' folder is.
    assert Path(load_config(tmp_path / "again" / "run.toml").profile) == tmp_path / "zyla.json"
    (tmp_path / "run.toml").write_text("profile = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Expected `str`, got `int` - at `\$.profile`"):
        load_config(tmp_path / "run.toml")


def test_a_run_keeps_the_profile_that_it_was_trained_for(
    tmp_path: Path, flux: NDArray[np.float32]
) -> None:
    save_profile(PROFILE, tmp_path / "zyla.json")
    config = replace(TINY, profile=str(tmp_path / "zyla.json"))
    record = train(config, [flux], tmp_path / "run")
    assert record.profile == PROFILE.id()
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["profile"]
    assert load_profile(tmp_path / "run" / "profile.json") == PROFILE
    assert ranges_of_run(tmp_path / "run") == (ranges_of(PROFILE), PROFILE.id())
    (tmp_path / "zyla.json").unlink()
    longer = replace(config, steps=3)
    assert train(longer, [flux], tmp_path / "run", resume=True).steps == 3
    with pytest.raises(InputError, match="cannot be read"):
        train(config, [flux], tmp_path / "other")
    assert not (tmp_path / "other").exists()
