"""Isolated bright pixels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from refocusd.demo.specimen import Specimen
from refocusd.frame import Pixels
from refocusd.imaging.blur import estimate_blur
from refocusd.imaging.hot_pixels import Mending, without_hot_pixels


def frame(defocus_um: float) -> Pixels:
    return Specimen().frame("DAPI", defocus_um, 10.0, np.random.default_rng(0))


def with_hot_pixels(raw: Pixels, count: int = 60) -> tuple[Pixels, NDArray[np.bool_]]:
    rng = np.random.default_rng(1)
    hot = np.zeros(raw.shape, bool)
    hot[rng.integers(3, raw.shape[0] - 3, count), rng.integers(3, raw.shape[1] - 3, count)] = True
    spoilt = raw.copy()
    spoilt[hot] = 4000
    return spoilt, hot


def mended(raw: Pixels) -> Pixels:
    return Mending.of(raw).part(raw, (slice(0, raw.shape[0]), slice(0, raw.shape[1])))


def test_hot_pixels_are_replaced_and_nothing_else_is() -> None:
    raw = frame(16.0)
    spoilt, hot = with_hot_pixels(raw)
    clean = without_hot_pixels(spoilt)
    np.testing.assert_array_equal(clean[~hot], raw[~hot])
    # Except pairs, which may be light.
    assert (np.abs(clean - raw)[hot] > 200).sum() <= 2


@pytest.mark.parametrize("defocus_um", [0.0, 16.0])
def test_counts_are_mended_the_same_and_a_frame_without_hot_pixels_is_not_copied(
    defocus_um: float,
) -> None:
    spoilt, _ = with_hot_pixels(frame(defocus_um))
    np.testing.assert_array_equal(mended(spoilt), np.rint(without_hot_pixels(spoilt)))
    clean = mended(spoilt)
    assert np.shares_memory(mended(clean), clean)
    small = spoilt[:4]
    assert np.shares_memory(mended(small), small)


def test_the_last_rows_are_looked_at() -> None:
    """Frames are processed in bands of rows."""
    for height in (66, 67, 68, 69):
        raw = np.random.default_rng(0).poisson(40, (height, 50)).astype(np.uint16)
        raw[height - 3, 20] = raw[34, 20] = 5000
        assert mended(raw).max() < 100


@pytest.mark.parametrize("counts", [3, 30, 300, 30000])
def test_noise_is_no_hot_pixel(counts: int) -> None:
    raw = np.random.default_rng(0).poisson(counts, (1000, 1000)).astype(np.uint16)
    assert (without_hot_pixels(raw) != raw).sum() <= 1


def test_a_point_that_a_lens_has_made_is_kept() -> None:
    y, x = np.mgrid[-20:21, -20:21]
    point = 100 + 3000 * np.exp(-(y**2 + x**2) / 2 / 0.7**2)
    raw = np.random.default_rng(0).poisson(point).astype(np.uint16)
    np.testing.assert_array_equal(without_hot_pixels(raw), raw)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_hot_pixel_at_the_end_of_the_scale_is_found(dtype: type[np.uint8]) -> None:
    raw = np.random.default_rng(0).poisson(40, (64, 64)).astype(dtype)
    raw[30, 30] = np.iinfo(dtype).max
    assert without_hot_pixels(raw)[30, 30] < 100


def test_hot_pixels_do_not_pass_for_focus() -> None:
    raw = frame(16.0)
    spoilt, _ = with_hot_pixels(raw)
    clean, other = estimate_blur(raw), estimate_blur(spoilt)
    assert clean is not None
    assert other is not None
    assert other.sigma_px == pytest.approx(clean.sigma_px, rel=0.1)
