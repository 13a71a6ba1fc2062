"""Richardson-Lucy at the scale of the blur."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from refocusd.imaging.deconvolve import MOST_ITERATIONS, deconvolve
from refocusd.imaging.quality import psnr

Floats = NDArray[np.float32]


def scene(height: int = 300, width: int = 340) -> Floats:
    """Discs on a background of 100 counts."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    light = np.full((height, width), 100.0, np.float32)
    for _ in range(30):
        top, left, radius = rng.uniform((0, 0, 6), (height, width, 14))
        light[np.hypot(y - top, x - left) < radius] = rng.uniform(400, 1000)
    return light


def seen(light: Floats, sigma_px: float, noise: float, seed: int = 0) -> Floats:
    """The light after a Gaussian blur and a camera."""
    blurred = ndimage.gaussian_filter(light, sigma_px)
    noisy = blurred + np.random.default_rng(seed).normal(0, noise, light.shape)
    return np.asarray(noisy, dtype=np.float32)


@pytest.mark.parametrize("sigma_px", [1.5, 3.0, 5.0, 11.0])
def test_it_comes_nearer_to_the_truth_at_any_width(sigma_px: float) -> None:
    light = scene()
    raw = seen(light, sigma_px, 4.0)
    restored = deconvolve(raw, sigma_px).light
    assert psnr(restored, light) > psnr(raw, light) + 1.0


@pytest.mark.parametrize("factor", [0.6, 0.7, 0.85])
def test_a_width_that_is_too_narrow_is_forgiven(factor: float) -> None:
    light = scene()
    raw = seen(light, 6.0, 4.0)
    restored = deconvolve(raw, 6.0 * factor).light
    assert psnr(restored, light) > psnr(raw, light) + 0.5


@pytest.mark.parametrize("sigma_px", [2.0, 7.3])
def test_flux_is_kept_and_light_is_positive(sigma_px: float) -> None:
    light = scene()
    raw = seen(light, sigma_px, 4.0)
    restored = deconvolve(raw, sigma_px)
    assert restored.light.mean() == pytest.approx(raw.mean(), rel=1e-4)
    assert restored.light.min() > restored.background - 30
    assert np.percentile(restored.light, 5) == pytest.approx(100, abs=15)


def test_noisier_frames_get_fewer_iterations() -> None:
    light = scene()
    done = [deconvolve(seen(light, 6.0, noise), 6.0).iterations for noise in (10.0, 30.0, 100.0)]
    assert done[0] > done[1] > done[2] > 0
    assert done[0] <= MOST_ITERATIONS


def test_noise_alone_stays_as_it_is() -> None:
    noise = np.random.default_rng(0).normal(100, 4, (300, 300)).astype(np.float32)
    done = deconvolve(noise, 6.0)
    assert done.iterations == 0
    np.testing.assert_array_equal(done.light, noise)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (9, 7), (33, 500), (517, 211)])
@pytest.mark.parametrize("sigma_px", [1.2, 4.0, 42.0])
def test_no_shape_and_width_is_too_much(shape: tuple[int, int], sigma_px: float) -> None:
    raw = np.random.default_rng(0).gamma(0.2, 900, shape).astype(np.float32)
    restored = deconvolve(raw, sigma_px).light
    assert restored.shape == shape
    assert np.isfinite(restored).all()


@pytest.mark.parametrize("value", [0.0, 100.0, 65535.0])
def test_a_flat_frame_stays_flat(value: float) -> None:
    flat = np.full((64, 80), value, np.float32)
    np.testing.assert_array_equal(deconvolve(flat, 5.0).light, flat)


def test_a_frame_of_saturated_patches_comes_back_finite() -> None:
    raw = np.where(scene() > 100, 65535, 0).astype(np.float32)
    assert np.isfinite(deconvolve(raw, 8.0).light).all()


def test_borders_are_reflected_not_darkened() -> None:
    """A frame that is bright up to its edges stays so."""
    y = np.arange(200)[:, None]
    bright = (500 + 200 * np.sin(y / 9) + np.zeros((200, 160))).astype(np.float32)
    restored = deconvolve(seen(bright, 4.0, 1.0), 4.0).light
    assert np.abs(restored[:, 0] - restored[:, 80]).max() < 25
