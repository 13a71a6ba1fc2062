"""Frames are reduced according to their blur, and enlarged again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from refocusd.imaging.blur import BlurEstimate, fused
from refocusd.imaging.quality import psnr
from refocusd.imaging.reduction import Reduction


def test_a_blurred_frame_survives_being_reduced() -> None:
    rng = np.random.default_rng(0)
    frame = gaussian_filter(rng.random((400, 520)).astype(np.float32), 12.0)
    scale = Reduction.to_blur(frame.shape, 12.0, 3.0)
    assert scale.factor == pytest.approx(4.0, rel=0.05)
    small = scale.reduced(frame)
    assert small.shape == scale.small
    assert psnr(scale.enlarged(small), frame) > 45


def test_sums_are_kept_on_the_way_down() -> None:
    frame = np.random.default_rng(1).random((101, 67)).astype(np.float32)
    small = Reduction.to_blur(frame.shape, 9.0, 3.0).reduced(frame)
    assert float(small.mean()) == pytest.approx(float(frame.mean()), rel=1e-5)


def test_nothing_is_enlarged() -> None:
    frame = np.random.default_rng(2).random((50, 60)).astype(np.float32)
    scale = Reduction.to_blur(frame.shape, 1.0, 3.0)
    assert scale.small == scale.whole
    assert scale.reduced(frame) is frame
    assert scale.enlarged(frame) is frame


def test_two_estimates_are_weighted_by_their_uncertainties() -> None:
    both = fused(BlurEstimate(10.0, 0.1, "frames"), BlurEstimate(12.0, 0.3, "frame"))
    assert 10.0 < both.sigma_px < 10.5
    assert both.uncertainty < 0.1
    assert both.source == "frames"


def test_a_frame_that_contradicts_those_before_it_counts_alone() -> None:
    alone = BlurEstimate(4.0, 0.1, "frame")
    assert fused(BlurEstimate(10.0, 0.1, "frames"), alone) == alone
