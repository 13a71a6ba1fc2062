"""The simulator draws any fluorescence microscope: optics, uneven light, debris, clipping."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
from refocusd_training.config import TrainingConfig, write_config
from refocusd_training.data.config import DataConfig
from refocusd_training.data.samples import SampleStream
from refocusd_training.loop.folder import ranges_of_run
from refocusd_training.simulate.blur import Defocus, best_focus_um, transfer
from refocusd_training.simulate.camera import Camera
from refocusd_training.simulate.imperfections import uneven, with_debris
from refocusd_training.simulate.ranges import (
    DEFAULT_RANGES,
    MOST_DEFOCUS_UM,
    WIDE_RANGES,
    draw_defocus,
    draw_optics,
    draw_peak,
)
from refocusd_training.simulate.scene import expose_scene
from refocusd_training.simulate.structures import puncta

from refocusd.errors import ConfigError
from refocusd.imaging.optics import Optics, defocus_psf, geometric_radius_um


def test_every_drawn_microscope_is_possible_and_blurs_by_what_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    radii, immersions = [], set()
    for _ in range(300):
        optics = draw_optics(rng, WIDE_RANGES)
        immersions.add(optics.refractive_index)
        assert optics.na < optics.refractive_index
        defocus = draw_defocus(rng, WIDE_RANGES, optics)
        assert abs(defocus.um) <= MOST_DEFOCUS_UM
        assert defocus.thickness_um <= max(abs(defocus.um), 4.0)
        if defocus.um:
            radii.append(geometric_radius_um(optics, defocus.um) / optics.pixel_um)
    assert immersions == {1.0, 1.333, 1.518}
    assert max(radii) <= 50.001
    assert min(radii) < 2
    # Blurs are distributed evenly in the logarithm.
    assert 4 < np.median(radii) < 12


@pytest.mark.parametrize("waves", [-0.8, 3.0])
def test_the_best_focus_of_an_aberrated_pupil_is_sharper_than_that_of_its_axis(
    waves: float,
) -> None:
    optics = Optics(0.5, 0.5, pixel_um=0.3, spherical_waves=waves)
    best = best_focus_um(optics)
    axis, middle, beyond = (float(defocus_psf(optics, um).max()) for um in (0, best, 2 * best))
    assert middle > 1.5 * max(axis, beyond)


def test_astigmatism_makes_the_disc_an_ellipse() -> None:
    optics, shape = Optics(0.45, 0.461), (128, 128)
    offsets = scipy.fft.fftfreq(128, 1 / 128)

    def variances(defocus: Defocus) -> tuple[float, float]:
        psf = scipy.fft.irfft2(transfer(optics, defocus, shape), s=shape)
        return float(psf.sum(axis=1) @ offsets**2), float(psf.sum(axis=0) @ offsets**2)

    down, across = variances(Defocus(16.0, stretch=0.1))
    round_down, round_across = variances(Defocus(16.0))
    assert round_down == pytest.approx(round_across, rel=0.01)
    assert across / down == pytest.approx((1.1 / 0.9) ** 2, rel=0.1)
    turned_down, turned_across = variances(Defocus(16.0, stretch=0.1, angle=np.pi / 2))
    assert turned_down / turned_across == pytest.approx((1.1 / 0.9) ** 2, rel=0.1)


def test_uneven_light_is_never_negative_and_corners_lose_most() -> None:
    for seed in range(20):
        haze, shading = uneven(np.random.default_rng(seed), 96, 0.05, 1.0)
        assert haze.shape == shading.shape == (96, 96)
        assert haze.min() > 0
        assert 0.3 <= shading.min() < shading.max() <= 1
        assert np.ptp(haze) > 0
        corners = min(shading[0, 0], shading[0, -1], shading[-1, 0], shading[-1, -1])
        assert corners == shading.min()
    haze, shading = uneven(np.random.default_rng(0), 96, 0.05, 0.0)
    assert np.ptp(haze) == np.ptp(shading) == 0


def test_debris_is_brighter_than_the_specimen_and_small() -> None:
    flux = np.full((80, 120), 0.2, np.float32)
    for seed in range(30):
        dirty = with_debris(np.random.default_rng(seed), flux)
        assert dirty.max() > 0.5
        assert dirty.min() == pytest.approx(0.2)
        assert np.mean(dirty > 0.7) < 0.2
    assert flux.max() == pytest.approx(0.2)


@pytest.mark.parametrize("bits", [8, 10])
def test_a_camera_of_fewer_bits_shows_the_same_light_with_fewer_counts(bits: int) -> None:
    light = np.full((64, 64), 0.5, np.float32)
    frames = [
        expose_scene(
            light,
            light,
            Camera(160.0, 1.0, 2.0, bits=b),
            peak=1600.0,
            haze=0.0,
            rng=np.random.default_rng(0),
        )
        for b in (12, bits)
    ]
    share = 2.0 ** (bits - 12)
    assert frames[1].truth.mean() == pytest.approx(share * frames[0].truth.mean())
    assert frames[1].raw.mean() == pytest.approx(share * frames[0].raw.mean(), rel=0.02)


def test_a_run_draws_any_microscope_if_its_configuration_says_so(tmp_path: Path) -> None:
    for optics, ranges in (("any", WIDE_RANGES), ("20x", DEFAULT_RANGES)):
        data = DataConfig(optics=optics)  # type: ignore[arg-type]
        write_config(TrainingConfig(data=data), tmp_path / "config.toml")
        assert ranges_of_run(tmp_path) == (ranges, None)
    with pytest.raises(ConfigError, match="optics = '40x': it must be one of 20x, any"):
        DataConfig(optics="40x")  # type: ignore[arg-type]


def test_some_frames_are_overexposed() -> None:
    rng = np.random.default_rng(0)
    peaks = np.array([draw_peak(rng, WIDE_RANGES) for _ in range(400)])
    assert 0.05 < np.mean(peaks > 4095) < 0.2


def test_a_stream_of_any_microscope_is_finite_and_the_same_again() -> None:
    specimens = [puncta(np.random.default_rng(i), (200, 200)) for i in range(2)]

    def batches() -> list[object]:
        stream = SampleStream(specimens, size=64, batch=3, bank=3, seed=1, ranges=WIDE_RANGES)
        return [(b.raw, b.truth, b.span) for b in itertools.islice(stream, 2)]

    one, two = batches(), batches()
    np.testing.assert_equal(one, two)
    for arrays in one:
        assert all(np.isfinite(array).all() for array in arrays)  # type: ignore[attr-defined]
