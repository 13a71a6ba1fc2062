"""Evidence from a raw frame alone, and from a raw frame about a refocused one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate
from refocusd.imaging.field_evidence import FieldEvidence, examine_field
from refocusd.imaging.pair_evidence import examine_pair
from refocusd.imaging.tiles import sharp_part, weights_outside
from refocusd.imaging.trust_map import trust_map, trust_shape

pytestmark = pytest.mark.fast

SHAPE = (520, 696)
SIGMA_PX = 8.0


@pytest.fixture(scope="module")
def light() -> NDArray[np.float64]:
    """Give discs of several sizes, up to 800 bright, on a background of zero."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    light = np.zeros(SHAPE)
    for _ in range(70):
        apart = np.hypot(y - rng.uniform(0, SHAPE[0]), x - rng.uniform(0, SHAPE[1]))
        light[apart < rng.uniform(8, 16)] = rng.uniform(300, 800)
    return gaussian_filter(light, 0.8)


def taken(light: NDArray[np.float64], seed: int = 0, read_noise: float = 4.0) -> Pixels:
    rng = np.random.default_rng(seed)
    seen = rng.poisson(np.maximum(light, 0)) + rng.normal(0, read_noise, light.shape) + 100
    return np.clip(np.rint(seen), 0, 65535).astype(np.uint16)


def field_of(raw: Pixels) -> FieldEvidence:
    field = examine_field(raw)
    assert field is not None
    return field


def test_noise_and_contrast_are_in_counts(light: NDArray[np.float64]) -> None:
    field = field_of(taken(np.full(SHAPE, 400.0), read_noise=5.0))
    assert field.noise == pytest.approx(np.sqrt(425), rel=0.05)
    assert field.contrast < 2 * field.noise
    field = field_of(taken(light))
    assert 500 < field.contrast < 900


def test_hot_pixels_and_a_gradient_are_no_structure() -> None:
    rng = np.random.default_rng(1)
    y, x = np.ogrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    raw = taken(500 * (1 + 0.3 * x - 0.2 * y - 0.2 * (x**2 + y**2)))
    raw.flat[rng.integers(0, raw.size, 100)] = 9000
    field = field_of(raw)
    assert field.contrast < 2 * field.noise
    assert 80 < field.hot.sum() <= 100


def test_interpolated_pixels_have_smooth_noise_and_a_cameras_have_not(
    light: NDArray[np.float64],
) -> None:
    raw = taken(gaussian_filter(light, SIGMA_PX))
    assert field_of(raw).smoothness == pytest.approx(1, abs=0.15)
    enlarged = zoom(raw[:130, :174].astype(np.float32), 4, order=1)
    assert field_of(np.rint(enlarged).astype(np.uint16)).smoothness > 2.5


def test_a_frame_too_small_for_evidence_has_none() -> None:
    assert examine_field(np.zeros((31, 400), np.uint16)) is None


@pytest.mark.parametrize("shape", [(32, 32), (32, 4000), (130, 133), (127, 511), (1024, 33)])
def test_any_shape_is_examined(shape: tuple[int, int]) -> None:
    raw = np.random.default_rng(0).integers(0, 4000, shape, dtype=np.uint16)
    pair = examine_pair(field_of(raw), raw, raw, None)
    assert np.isfinite(pair.residuals).all()


@pytest.mark.parametrize("value", [0, 700, 65535])
def test_a_constant_frame_is_examined(value: int) -> None:
    raw = np.full((200, 300), value, np.uint16)
    field = field_of(raw)
    assert field.contrast < 1
    assert np.isfinite(field.looks).all()
    assert np.isfinite(examine_pair(field, raw, raw, None).chi2)


def test_clipped_pixels_are_counted_and_a_single_brightest_one_is_not(
    light: NDArray[np.float64],
) -> None:
    raw = taken(light)
    assert field_of(raw).clipped == 0
    clipped = np.minimum(raw, np.uint16(np.percentile(raw, 90)))
    assert field_of(clipped).clipped == pytest.approx(0.1, abs=0.01)


def test_the_truth_explains_raw_and_a_picture_without_half_of_the_objects_does_not(
    light: NDArray[np.float64],
) -> None:
    raw, blur = taken(gaussian_filter(light, SIGMA_PX)), BlurEstimate(SIGMA_PX, 0.2, "frame")
    field = field_of(raw)
    true = examine_pair(field, raw, taken(light, 1), blur)
    assert true.unexplained < 0.01
    assert true.blur_px == pytest.approx(SIGMA_PX, rel=0.15)
    assert true.worst_flux < 0.05
    assert true.chi2 < 2
    without = light.copy()
    without[:, : SHAPE[1] // 2] = 0
    wrong = examine_pair(field, raw, taken(without, 1), blur)
    assert wrong.unexplained > 0.2
    assert wrong.worst_flux > 0.5
    assert wrong.worst_chi2 > 20
    # The map of an untrusted frame is nowhere below the threshold for doubtful frames.
    cells = trust_map(SHAPE, wrong, 0.8, least=0.25)
    assert cells.shape == trust_shape(SHAPE) == (33, 44)
    assert cells.min() == 25
    assert trust_map(SHAPE, true, 0.05).mean() < 10
    columns = wrong.residuals.shape[1] // 2
    assert wrong.residuals[:, : columns - 2].mean() > 10 * wrong.residuals[:, columns + 2 :].mean()


def test_a_width_that_is_wrong_shows_in_the_width_that_explains_raw(
    light: NDArray[np.float64],
) -> None:
    raw = taken(gaussian_filter(light, SIGMA_PX))
    stated = BlurEstimate(2 * SIGMA_PX, 0.2, "frame")
    pair = examine_pair(field_of(raw), raw, taken(light, 1), stated)
    assert pair.blur_px == pytest.approx(SIGMA_PX, rel=0.15)
    assert pair.unexplained_as_stated > 10 * pair.unexplained


def test_without_a_stated_width_it_is_found(light: NDArray[np.float64]) -> None:
    raw = taken(gaussian_filter(light, SIGMA_PX))
    pair = examine_pair(field_of(raw), raw, taken(light, 1), None)
    assert pair.blur_px == pytest.approx(SIGMA_PX, rel=0.15)
    assert pair.stated_px == pair.blur_px


@pytest.mark.parametrize("sigma_px", [2.0, SIGMA_PX])
def test_structure_that_the_blur_does_not_pass_is_what_was_added_to_the_result(
    light: NDArray[np.float64], sigma_px: float
) -> None:
    raw = taken(gaussian_filter(light, sigma_px))
    blur = BlurEstimate(sigma_px, 0.1, "frame")
    results = (taken(gaussian_filter(light, part * sigma_px), 1) for part in (1.0, 0.5, 0.2))
    pairs = [examine_pair(field_of(raw), raw, result, blur) for result in results]
    assert pairs[0].fine < pairs[1].fine < pairs[2].fine
    wave = 30 * np.cos(2 * np.pi * np.arange(SHAPE[1]) * 0.55 / sigma_px)
    waved = np.rint(np.full(SHAPE, 400.0) + wave).astype(np.uint16)
    waved[:40] = 1400
    found = examine_pair(field_of(raw), raw, waved, blur)
    assert found.fine > 1.4 * found.finest
    assert found.fine == pytest.approx(30 / np.sqrt(2) / 1030, rel=0.6)


def test_intervals_are_given_by_their_width_over_the_range(light: NDArray[np.float64]) -> None:
    raw = taken(gaussian_filter(light, SIGMA_PX))
    under = np.full((130, 174), 40.0, np.float32)
    over = under * np.float32(2)
    over[:13] = 5000
    pair = examine_pair(field_of(raw), raw, raw, None, 30.0, np.stack([under, over]))
    span = float(np.ptp(np.percentile(raw, (0.1, 99.9))))
    assert pair.width == pytest.approx(60 / span, rel=0.02)
    assert pair.wide == pytest.approx(0.1)
    assert pair.lopsided > 1
    untold = examine_pair(field_of(raw), raw, raw, None)
    assert (untold.wide, untold.lopsided) == (0, 0)


def test_a_frame_sharp_in_one_half_has_that_half_as_its_sharp_part(
    light: NDArray[np.float64],
) -> None:
    half = SHAPE[1] // 2
    seen = np.where(np.arange(SHAPE[1]) < half, light, gaussian_filter(light, SIGMA_PX))
    field = field_of(taken(seen))
    part = sharp_part(field.focus)
    assert part is not None
    columns = half // field.tile_px
    assert part[:, : columns - 1].mean() > 0.9
    assert part[:, columns + 1 :].mean() < 0.1
    weights = weights_outside(part, field.tile_px, SHAPE)
    assert weights.shape == SHAPE
    assert not weights[:, : (columns - 1) * field.tile_px].any()
    assert weights[:, (columns + 2) * field.tile_px :].mean() > 0.9


@pytest.mark.parametrize("sigma", [0.0, 3.0, SIGMA_PX, 20.0])
def test_a_frame_of_one_focus_has_no_parts(light: NDArray[np.float64], sigma: float) -> None:
    assert sharp_part(field_of(taken(gaussian_filter(light, sigma))).focus) is None


def test_debris_is_no_part_in_focus(light: NDArray[np.float64]) -> None:
    seen = gaussian_filter(light, SIGMA_PX)
    seen[200:212, 300:312] += 5000
    assert sharp_part(field_of(taken(seen)).focus) is None
