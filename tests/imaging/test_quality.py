"""Focus score and comparison figures, on simulated and on real images."""

from __future__ import annotations

import math
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from refocusd.errors import InputError
from refocusd.imaging.optics import Optics, defocus_otf
from refocusd.imaging.quality import (
    best_focus,
    compare,
    focus_score,
    pearson,
    psnr,
    register,
    shifted,
    ssim,
)


def nuclei(
    height: int = 384, width: int = 512, seed: int = 1, density: float = 2e-4
) -> NDArray[np.float64]:
    """Textured ellipses, as photons per pixel, without background or noise."""
    rng = np.random.default_rng(seed)
    scene = np.zeros((height, width))
    rows, columns = np.mgrid[:height, :width]
    for _ in range(max(1, int(height * width * density))):
        y, x, a, b = rng.uniform((0, 0, 7, 5), (height, width, 14, 10))
        inside = ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1
        scene[inside] = rng.uniform(200, 600)
    texture = ndimage.gaussian_filter(rng.normal(1, 2.0, scene.shape), 1.5)
    return np.asarray(ndimage.gaussian_filter(scene * np.clip(texture, 0.4, 1.6), 0.7))


def camera(photons: NDArray[Any], seed: int, gain: float = 1.0) -> NDArray[np.uint16]:
    """Counts of a camera with an offset, shot noise and read noise."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(np.clip(photons, 0, None)) * gain
    counts = counts + rng.normal(0, 3, photons.shape) + 110
    return np.asarray(np.clip(np.round(counts), 0, 65535), dtype=np.uint16)


def defocused(photons: NDArray[Any], um: float, optics: Optics) -> NDArray[np.float64]:
    otf = defocus_otf(optics, um, (photons.shape[0], photons.shape[1]))
    spectrum = np.fft.rfft2(photons) if otf.shape != photons.shape else np.fft.fft2(photons)
    if otf.shape != photons.shape:
        return np.fft.irfft2(spectrum * otf, photons.shape)
    return np.fft.ifft2(spectrum * otf).real


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("REFOCUSD_TEST_DATA")
    if not folder:
        pytest.skip("REFOCUSD_TEST_DATA is not set: no real images here")
    return Path(folder)


# -- focus score ---------------------------------------------------------------


@pytest.mark.parametrize("na", [0.3, 0.45, 0.75])
def test_focus_falls_with_every_step_of_defocus_in_spite_of_noise(na: float) -> None:
    scene = nuclei()
    optics = Optics(na=na, wavelength_um=0.5)
    levels = (0, 4, 8, 12, 16, 20, 24, 28, 32)
    scores = [
        focus_score(camera(defocused(scene, um, optics), seed)) for seed, um in enumerate(levels)
    ]
    assert all(sharper > blurred for sharper, blurred in pairwise(scores)), scores
    assert best_focus(scores) == 0


def test_noise_does_not_make_a_blurred_frame_look_sharp() -> None:
    blurred = ndimage.gaussian_filter(nuclei(), 8)
    clean = focus_score(np.round(blurred * 100).astype(np.uint16))
    for dimming in (1.0, 0.1, 0.01):
        noisy = focus_score(camera(blurred * dimming, 3))
        assert noisy < max(2 * clean, 0.1 * focus_score(camera(nuclei(), 3)))


def test_frames_of_noise_alone_are_not_sharp() -> None:
    sharp = focus_score(camera(nuclei(), 0))
    scores = [focus_score(camera(np.zeros((512, 512)), seed)) for seed in range(20)]
    assert sum(score > 0 for score in scores) <= 1
    assert max(scores) < 0.1 * sharp


def test_focus_does_not_depend_on_offset_and_gain_of_the_camera() -> None:
    frame = camera(nuclei(), 5)
    plain = focus_score(frame)
    assert focus_score(frame + np.uint16(1000)) == pytest.approx(plain, rel=1e-3)
    assert focus_score(frame * np.uint16(7)) == pytest.approx(plain, rel=1e-3)


def test_camera_rows_and_hot_pixels_do_not_count_as_structure() -> None:
    rng = np.random.default_rng(2)
    photons = ndimage.gaussian_filter(nuclei(), 4)
    frame = camera(photons, 0)
    rows = frame + np.round(rng.normal(0, 4, (frame.shape[0], 1)) + 20).astype(np.uint16)
    hot = frame.copy()
    hot[rng.integers(0, 384, 40), rng.integers(0, 512, 40)] = 1500
    plain, sharp = focus_score(frame), focus_score(camera(nuclei(), 0))
    assert focus_score(rows) < plain + 0.1 * (sharp - plain)
    assert focus_score(hot) < plain + 0.1 * (sharp - plain)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(16, 16), (17, 31), (512, 512), (2048, 2048), (16, 65536)])
def test_a_constant_frame_has_no_focus(shape: tuple[int, int], dtype: type) -> None:
    assert focus_score(np.full(shape, 200, dtype)) == 0.0


@pytest.mark.parametrize("shape", [(16, 16), (19, 700), (3000, 16), (20, 60000), (1500, 1501)])
def test_focus_is_finite_for_any_shape(shape: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    frame[: shape[0] // 2] = 0
    assert math.isfinite(focus_score(frame))
    assert focus_score(frame) == focus_score(frame.copy())


def test_a_large_frame_is_judged_as_a_small_one_of_the_same_scene() -> None:
    scene = nuclei(1536, 1536)
    sharp, blurred = camera(scene, 1), camera(ndimage.gaussian_filter(scene, 4), 2)
    small = focus_score(sharp[:700, :700])
    assert focus_score(sharp) == pytest.approx(small, rel=0.3)
    assert focus_score(blurred) < 0.4 * focus_score(sharp)


@pytest.mark.parametrize(("side", "limit_ms"), [(512, 3.0), (2048, 8.0)])
def test_focus_costs_little_enough_for_every_live_frame(side: int, limit_ms: float) -> None:
    frame = np.random.default_rng(0).integers(0, 4096, (side, side)).astype(np.uint16)
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        focus_score(frame)
        times.append((time.perf_counter() - begin) * 1e3)
    # The fastest run, to exclude what else the machine does.
    assert min(times) < limit_ms


@pytest.mark.parametrize(
    ("name", "sharpest"),
    [
        ("dfnn_mitochondria_stack.tif", {17, 18, 19}),
        ("isl_phase_contrast_z0-12.tif", {10, 11, 12}),
    ],
)
def test_the_sharpest_plane_of_a_real_stack_is_found(
    data: Path, name: str, sharpest: set[int]
) -> None:
    stack = tifffile.imread(data / "z_stacks" / name)
    assert best_focus([focus_score(plane) for plane in stack]) in sharpest


def test_every_sharp_real_field_scores_above_every_defocused_one(data: Path) -> None:
    sharp = [
        focus_score(np.asarray(Image.open(path)).astype(np.uint16))
        for path in (data / "bbbc006" / "in_focus_w1").glob("*.png")
    ]
    blurred = [
        focus_score(tifffile.imread(path))
        for path in (data / "bbbc006" / "defocused_z00_w1").glob("*.tif")
    ]
    assert len(sharp) == 5
    assert len(blurred) == 10
    assert min(sharp) > 3 * max(blurred)


def test_a_stack_without_planes_has_no_focus() -> None:
    with pytest.raises(InputError, match="no plane"):
        best_focus([])
    assert best_focus([1.0, 3.0, 3.0]) == 1


# -- comparison ----------------------------------------------------------------


def test_psnr_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(100, 1100, (200, 300))
    image = truth + 10
    image[:16] += 5000  # within the border, which does not count
    inner = truth[16:-16, 16:-16]
    span = np.percentile(inner, 99.9) - np.percentile(inner, 0.1)
    assert psnr(image, truth) == pytest.approx(20 * np.log10(span / 10))
    assert psnr(image, truth, border=0) < psnr(image, truth)
    assert psnr(truth, truth) == math.inf


def test_the_affine_fit_forgives_gain_and_offset_only() -> None:
    truth = nuclei()
    assert psnr(truth * 3 + 50, truth) < 20
    assert psnr(truth * 3 + 50, truth, affine=True) > 200
    blurred = ndimage.gaussian_filter(truth, 3)
    assert psnr(blurred, truth, affine=True) >= psnr(blurred, truth)
    assert psnr(blurred, truth, affine=True) < 40


def test_similarity_and_correlation_fall_with_blur() -> None:
    truth = nuclei()
    levels = [ndimage.gaussian_filter(truth, sigma) for sigma in (0, 2, 4, 8)]
    for figure in (ssim, pearson, psnr):
        figures = [figure(level, truth) for level in levels]
        assert all(nearer > farther for nearer, farther in pairwise(figures))
    assert ssim(truth, truth) == pytest.approx(1)
    assert pearson(truth * 2 + 3, truth) == pytest.approx(1)
    assert pearson(np.full_like(truth, 3), truth) == 0


def test_unsigned_counts_do_not_wrap_in_a_comparison() -> None:
    truth = camera(nuclei(), 0)
    image = truth - np.uint16(60)
    assert psnr(image, truth) == pytest.approx(
        psnr(image.astype(np.float64), truth.astype(np.float64))
    )


@pytest.mark.parametrize("shift", [(3.0, -2.0), (0.4, 1.7), (-5.3, 0.25)])
@pytest.mark.parametrize("blur", [0.0, 4.0])
def test_a_shifted_frame_is_registered_to_a_tenth_of_a_pixel(
    shift: tuple[float, float], blur: float
) -> None:
    scene = nuclei(500, 600)
    moved = shifted(ndimage.gaussian_filter(scene, blur), (-shift[0], -shift[1]))
    inner = (slice(50, -50), slice(50, -50))
    found = register(camera(moved[inner], 1), camera(scene[inner], 2))
    assert found == pytest.approx(shift, abs=0.1)


def test_implausible_shifts_are_refused() -> None:
    scene = nuclei()
    assert register(np.roll(scene, 40, axis=0), scene) == (0.0, 0.0)
    assert register(scene, scene) == (0.0, 0.0)
    assert register(np.zeros_like(scene), scene) == (0.0, 0.0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        noise = rng.normal(0, 1, (2, 256, 256))
        dy, dx = register(noise[0], noise[1])
        assert max(abs(dy), abs(dx)) <= 8


def test_compare_registers_and_measures() -> None:
    scene = nuclei(500, 600)
    truth = scene[50:-50, 50:-50]
    moved = shifted(scene, (2.0, -1.5))[50:-50, 50:-50]
    registered, as_is = compare(moved, truth), compare(moved, truth, register=False)
    assert registered.psnr_db > as_is.psnr_db + 10
    assert registered.ssim > as_is.ssim
    assert registered.pearson > as_is.pearson
    assert registered.psnr_affine_db >= registered.psnr_db


@pytest.mark.parametrize("figure", [psnr, ssim, pearson, register, compare])
def test_frames_that_cannot_be_compared_are_an_error(figure: Any) -> None:
    with pytest.raises(InputError, match="shape"):
        figure(np.zeros((64, 64)), np.zeros((64, 65)))


def test_frames_too_small_for_their_border_are_an_error() -> None:
    with pytest.raises(InputError, match="at least 43 px"):
        ssim(np.zeros((40, 64)), np.zeros((40, 64)))
    with pytest.raises(InputError, match="at least 33 px"):
        psnr(np.zeros((32, 64)), np.zeros((32, 64)))
