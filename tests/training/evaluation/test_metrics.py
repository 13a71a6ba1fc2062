"""Figures of a restored frame against the truth: known values, and what they must distinguish."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from refocusd_training.deconvolution import noise_to_signal, richardson_lucy, wiener
from refocusd_training.evaluation.measures.figures import DEFINITIONS, Truth, ms_ssim
from refocusd_training.evaluation.measures.fourier_rings import (
    BETWEEN_NOISY,
    TO_NOISE_FREE,
    ring_correlation,
    ring_resolution_um,
)
from refocusd_training.simulate.blur import Defocus, transfer
from refocusd_training.simulate.depth import blurred_layers
from scipy import ndimage

from refocusd.errors import InputError
from refocusd.imaging.optics import Optics
from refocusd.imaging.quality import psnr

PIXEL_UM = 0.645


@pytest.fixture(scope="module")
def frame(flux: NDArray[np.float32]) -> NDArray[np.float32]:
    """The light in counts, above a background of 100."""
    return np.asarray(100 + 900 * flux[100:356, 100:356], dtype=np.float32)


def test_a_frame_correlates_with_itself_on_every_ring(frame: NDArray[np.float32]) -> None:
    curve = ring_correlation(frame, frame)
    assert curve.shape == (128,)
    assert curve[1:] == pytest.approx(1.0)
    assert ring_resolution_um(frame, frame, PIXEL_UM) == pytest.approx(2 * PIXEL_UM)


def test_ring_correlation_knows_neither_offset_nor_gain(frame: NDArray[np.float32]) -> None:
    assert ring_correlation(3 * frame + 50, frame)[1:] == pytest.approx(1.0)


@pytest.mark.parametrize("period_px", [4.0, 8.0, 16.0])
def test_ring_resolution_is_the_period_up_to_which_frames_agree(period_px: float) -> None:
    side = 256
    truth = np.random.default_rng(0).standard_normal((side, side))
    spectrum = np.fft.fft2(truth)
    other = np.fft.fft2(np.random.default_rng(1).standard_normal((side, side)))
    frequency = np.fft.fftfreq(side)
    agree = np.hypot(frequency[:, None], frequency[None, :]) < 1 / period_px
    mixed = np.fft.ifft2(np.where(agree, spectrum, other)).real
    found = ring_resolution_um(mixed, truth, PIXEL_UM)
    assert found == pytest.approx(period_px * PIXEL_UM, rel=0.1)


def test_unrelated_frames_agree_on_nothing_but_the_coarsest() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 200, 240))
    assert ring_resolution_um(a, b, PIXEL_UM) > 20 * PIXEL_UM


def test_frames_of_different_shapes_have_no_ring_correlation() -> None:
    with pytest.raises(InputError, match="give two of the same shape"):
        ring_correlation(np.zeros((64, 64)), np.zeros((64, 65)))


def test_every_figure_falls_as_a_frame_is_blurred(frame: NDArray[np.float32]) -> None:
    truth = Truth(frame, PIXEL_UM, nuclear=True)
    found = [truth.compare(ndimage.gaussian_filter(frame, sigma)) for sigma in (0, 2, 4, 8)]
    similar = [one.ms_ssim for one in found]
    assert similar[0] == pytest.approx(1.0)
    assert similar == sorted(similar, reverse=True)
    sizes = [one.frc_um for one in found]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 3 * sizes[0]
    assert all(one.flux_ratio == pytest.approx(1.0, abs=0.05) for one in found)
    scores = [one.nuclei.f1 for one in found if one.nuclei is not None]
    assert scores[0] == 1.0
    assert scores[-1] < 0.8


def test_flux_ratio_tells_what_light_was_added(frame: NDArray[np.float32]) -> None:
    truth = Truth(frame, PIXEL_UM, nuclear=False)
    background = float(np.percentile(frame[16:-16, 16:-16], 1))
    brighter = background + 1.2 * (frame - background)
    figures = truth.compare(brighter)
    assert figures.flux_ratio == pytest.approx(1.2, abs=0.01)
    assert figures.nuclei is None


def test_ms_ssim_of_a_small_frame_is_not_a_number() -> None:
    small = np.zeros((100, 300))
    assert math.isnan(ms_ssim(small, small, 1.0))


def test_every_figure_is_defined() -> None:
    assert all(text for text in DEFINITIONS.values())
    assert {"psnr_db", "frc_um", "invented", "lost", "flux_ratio"} <= set(DEFINITIONS)


@pytest.fixture(scope="module")
def exposed(flux: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A truth, and its frame at 8 um with the noise of a dim specimen."""
    optics = Optics(0.45, 0.461)
    cut = flux[100:292, 100:292]
    otf = transfer(optics, Defocus(8.0), cut.shape)
    [raw] = blurred_layers(cut[np.newaxis], otf[np.newaxis])
    rng = np.random.default_rng(3)
    return 60 * cut, rng.poisson(60 * raw).astype(np.float32)


def test_total_variation_keeps_noise_down(
    exposed: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    truth, raw = exposed
    blur = partial(transfer, Optics(0.45, 0.461), Defocus(8.0))
    plain, kept = (
        [psnr(e, truth) for e in richardson_lucy(raw, blur, 40, total_variation=w)]
        for w in (0.0, 0.01)
    )
    assert max(kept) > max(plain)
    assert kept[-1] > plain[-1] + 1.0


def test_wiener_restores_and_needs_its_ratio(
    exposed: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    truth, raw = exposed
    ratios = (1e-5, noise_to_signal(raw), 10.0)
    naive, user, timid = (
        psnr(e, truth, affine=True)
        for e in wiener(raw, partial(transfer, Optics(0.45, 0.461), Defocus(8.0)), ratios)
    )
    assert user > max(naive, timid)
    assert user > psnr(raw, truth, affine=True) + 0.5


def test_noise_to_signal_finds_the_noise_that_was_added(frame: NDArray[np.float32]) -> None:
    rng = np.random.default_rng(4)
    smooth = ndimage.gaussian_filter(frame, 3)
    noisy = smooth + rng.normal(0, 20, frame.shape).astype(np.float32)
    expected = 20**2 / float(smooth.var())
    assert noise_to_signal(noisy) == pytest.approx(expected, rel=0.2)


def test_a_truth_without_noise_is_held_to_more_than_a_second_noisy_frame() -> None:
    """One frame against the truth reaches as far as two frames against each other."""
    rng = np.random.default_rng(5)
    side = 512
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    fall = np.exp(-((frequency / 0.12) ** 2))
    truth = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * fall).real
    first, second = truth + 0.1 * rng.standard_normal((2, side, side))
    between = ring_resolution_um(first, second, PIXEL_UM, threshold=BETWEEN_NOISY)
    to_truth = ring_resolution_um(first, truth, PIXEL_UM, threshold=TO_NOISE_FREE)
    assert to_truth == pytest.approx(between, rel=0.06)
    assert Truth(truth, PIXEL_UM, nuclear=False).compare(first).frc_um == pytest.approx(
        to_truth, rel=0.06
    )
    noisy = Truth(truth, PIXEL_UM, nuclear=False, noisy=True)
    assert noisy.compare(first).frc_um < 0.95 * to_truth
