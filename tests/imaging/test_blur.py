"""The width of a frame's blur, from the frame alone and with prior knowledge."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from refocusd.frame import Pixels
from refocusd.imaging.blur import (
    FEATURES,
    MIN_SIDE_PX,
    BlurEstimate,
    blur_features,
    estimate_blur,
    fused,
    half_width_sigma,
)


@pytest.fixture(scope="module")
def test_data() -> Path:
    """Give the folder of real images, or skip."""
    folder = os.environ.get("REFOCUSD_TEST_DATA")
    if not folder:
        pytest.skip("REFOCUSD_TEST_DATA is not set: no real images to test with")
    return Path(folder)


def nuclei(sigma_px: float, seed: int = 0, photons: float = 2000.0) -> Pixels:
    """Textured nuclei after a Gaussian blur and a camera."""
    rng = np.random.default_rng(seed)
    light = np.zeros((400, 480), np.float32)
    y, x = np.mgrid[:400, :480]
    for _ in range(60):
        top, left, a, b = rng.uniform((0, 0, 9, 7), (400, 480, 16, 12))
        light[((y - top) / a) ** 2 + ((x - left) / b) ** 2 < 1] = rng.uniform(0.3, 1)
    light *= np.clip(ndimage.gaussian_filter(rng.normal(1, 2, light.shape), 1.5), 0.4, 1.6)
    seen = ndimage.gaussian_filter(light, sigma_px) * photons + 20
    counts = rng.poisson(seen) + rng.normal(100, 3, seen.shape)
    return np.asarray(np.clip(np.rint(counts), 0, 65535), dtype=np.uint16)


@pytest.mark.parametrize("sigma_px", [2.0, 4.0, 8.0, 16.0])
def test_a_known_blur_is_found(sigma_px: float) -> None:
    found = [estimate_blur(nuclei(sigma_px, seed)) for seed in range(3)]
    widths = [one.sigma_px for one in found if one is not None]
    assert len(widths) == 3
    assert np.median(widths) == pytest.approx(sigma_px, rel=0.4)


def test_more_blur_is_distinguished_from_less() -> None:
    found = [estimate_blur(nuclei(sigma)) for sigma in (0.7, 1.5, 3.0, 6.0, 12.0, 24.0)]
    widths = [one.sigma_px for one in found if one is not None]
    assert len(widths) == 6
    assert all(narrow < wide for narrow, wide in pairwise(widths))


def test_gain_and_offset_of_the_camera_do_not_matter() -> None:
    raw = nuclei(5.0)
    one, louder = blur_features(raw), blur_features((raw * 4 + 1000).astype(np.uint16))
    assert one is not None
    assert louder is not None
    np.testing.assert_allclose(one, louder, atol=0.02)


def test_hot_pixels_are_no_sign_of_focus() -> None:
    raw = nuclei(8.0)
    clean = estimate_blur(raw)
    rng = np.random.default_rng(1)
    # Two adjacent ones would not be isolated: keep them apart.
    raw[rng.integers(2, 100, 30) * 4 - 2, rng.integers(2, 120, 30) * 4 - 2] = 4000
    with_hot = estimate_blur(raw)
    assert clean is not None
    assert with_hot is not None
    assert with_hot.sigma_px == pytest.approx(clean.sigma_px, rel=0.1)


def test_clipped_pixels_are_no_sign_of_focus() -> None:
    raw = nuclei(8.0)
    clipped = np.minimum(raw, np.uint16(np.percentile(raw, 95)))
    found = estimate_blur(clipped)
    assert found is not None
    assert found.sigma_px > 4


@pytest.mark.parametrize(
    "raw",
    [
        np.full((64, 64), 100, np.uint16),
        np.zeros((64, 64), np.uint8),
        np.full((64, 64), 65535, np.uint16),
        np.random.default_rng(0).normal(100, 4, (256, 256)).round().astype(np.uint16),
        np.full((MIN_SIDE_PX - 1, 500), 7, np.uint16),
        np.zeros((1, 1), np.uint16),
    ],
    ids=["flat", "empty", "saturated", "noise", "narrow", "one pixel"],
)
def test_a_frame_without_structure_tells_nothing(raw: Pixels) -> None:
    assert estimate_blur(raw) is None


def test_any_shape_has_the_same_features() -> None:
    scene = np.tile(nuclei(3.0), (3, 3))
    for shape in ((32, 40), (33, 97), (520, 696), (1200, 900)):
        found = blur_features(np.ascontiguousarray(scene[: shape[0], : shape[1]]))
        assert found is not None
        assert found.shape == (FEATURES,)
        assert np.isfinite(found).all()


def test_a_gaussian_is_as_wide_as_it_is() -> None:
    offsets = np.arange(-40, 41)
    line = np.exp(-(offsets**2) / 2 / 5.0**2)
    psf: NDArray[np.float64] = np.outer(line, line) / line.sum() ** 2
    assert half_width_sigma(psf) == pytest.approx(5.0, rel=1e-3)


def test_the_surer_of_two_widths_leads_and_a_contradicted_one_is_dropped() -> None:
    alone = BlurEstimate(8.0, 0.2, "frame")
    measured = fused(BlurEstimate(10.0, 0.1, "profile"), alone)
    assert measured.source == "profile"
    assert measured.sigma_px == pytest.approx(10 ** (4 / 5) * 8 ** (1 / 5))
    assert measured.uncertainty < 0.1
    nominal = fused(BlurEstimate(10.0, 0.4, "nominal"), alone)
    assert nominal.source == "frame"
    assert 8 < nominal.sigma_px < 9
    assert fused(BlurEstimate(30.0, 0.1, "profile"), alone) == alone


def test_a_real_stack_is_widest_far_from_focus_and_narrowest_in_it(test_data: Path) -> None:
    stack = tifffile.imread(test_data / "z_stacks" / "neubias_dna_widefield_confocal.tif")[:, 1]
    found = [estimate_blur(np.ascontiguousarray(plane)) for plane in stack[::4]]
    widths = [one.sigma_px for one in found if one is not None]
    assert len(widths) == len(found)
    least = int(np.argmin(widths))
    assert 4 <= least <= 6
    assert all(far > near * 0.95 for far, near in pairwise(widths[: least + 1]))
    assert all(far > near * 0.95 for near, far in pairwise(widths[least:]))
    assert min(widths[0], widths[-1]) > 5 > 1.2 > widths[least]


def test_real_fields_in_focus_and_far_from_it_are_distinguished(test_data: Path) -> None:
    def widths(folder: str) -> list[float]:
        paths = sorted((test_data / "bbbc006" / folder).iterdir())
        found = [estimate_blur(np.asarray(Image.open(path))) for path in paths]
        return [one.sigma_px for one in found if one is not None]

    assert np.median(widths("in_focus_w1")) < 1.3
    assert min(widths("defocused_z00_w1")) > 7
