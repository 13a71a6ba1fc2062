"""Deconvolution with each frame's own blur, without a network."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from refocusd.engines.engine import BlurEngine, EngineDescription, Refocused
from refocusd.errors import EngineError
from refocusd.frame import Pixels
from refocusd.imaging.blur import STACK_SURE, BlurEstimate, estimate_blur, fused
from refocusd.imaging.deconvolve import WholeImage, deconvolve
from refocusd.imaging.hot_pixels import without_hot_pixels
from refocusd.imaging.normalise import CountsRange, check_frame, counts_range

#: A narrower blur is that of the objective itself: the frame is in focus and passes through.
LEAST_BLUR_PX = 1.2
#: A PSF that is too wide makes rings and beads; one that is too narrow does little harm.  The PSF is therefore
#: narrower than the estimate by this many standard uncertainties.  With 1, no plane of the real stacks
#: (``refocusd train evaluate --protocol stacks``) becomes worse than raw by more than 0.1 dB; with 0.5, some do.
GENTLE = 1.0


class DeconvolutionEngine(BlurEngine):
    """Estimates the blur and undoes it; a frame whose blur cannot be estimated passes through.

    Parameters
    ----------
    known : BlurEstimate, optional
        Every frame's blur if it is stated; otherwise it is estimated.
    """

    description = EngineDescription("deconvolution", "f32", "CPU", "deconvolution-1", "", "")

    def __init__(self, known: BlurEstimate | None = None) -> None:
        self._known = known
        self._closed = False

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Load the estimator, and its tables for frames of this shape."""
        ramp = np.arange(shape[0] * shape[1], dtype=np.uint32) % 4096
        estimate_blur(ramp.astype(np.uint16).reshape(shape))

    def refocus(self, raw: Pixels, out: Pixels, blur: BlurEstimate | None = None) -> Refocused:
        """Deconvolve `raw` into `out`."""
        if self._closed:
            raise EngineError("this engine is closed: build another")
        check_frame(raw, out)
        begun = time.perf_counter()
        blur = self._known or blur
        if blur is None or blur.source == "frames":
            alone = estimate_blur(raw)
            blur = fused(blur, alone) if blur and alone else alone
        if blur and blur.source == "stack" and blur.uncertainty > STACK_SURE:
            blur = replace(blur, source="frame", shape=None)
        counts = counts_range(raw)
        clipped = 0
        if blur is None or (sigma := psf_width(blur)) < LEAST_BLUR_PX:
            np.copyto(out, raw)
        else:
            restored = deconvolve(without_hot_pixels(raw), sigma, shape=blur.shape)
            clipped = CountsRange(0.0, 1.0).restore(restored.light, out)
        return Refocused(counts, (time.perf_counter() - begun) * 1e3, clipped, blur)

    def refocus_part(
        self, raw: Pixels, out: Pixels, sigma_px: float, whole: WholeImage
    ) -> Refocused:
        """Deconvolve a part of an image with a Gaussian PSF of width `sigma_px`; see `deconvolve`."""
        check_frame(raw, out)
        begun = time.perf_counter()
        restored = deconvolve(without_hot_pixels(raw), sigma_px, whole=whole)
        clipped = CountsRange(0.0, 1.0).restore(restored.light, out)
        return Refocused(counts_range(raw), (time.perf_counter() - begun) * 1e3, clipped)

    def close(self) -> None:
        """Refuse all further frames."""
        self._closed = True


def psf_width(blur: BlurEstimate) -> float:
    """Standard deviation of the PSF that a frame with this blur is deconvolved with, px."""
    return blur.sigma_px * math.exp(-GENTLE * min(blur.uncertainty, 1.0))
