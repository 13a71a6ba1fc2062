"""Pixel losses, in units of the truth's range.

`refocus_loss` is the loss of the shipped network. The root of each frame's mean squared error
gives every frame a gradient of the same size, whatever its defocus; the squared error would be
dominated by the frames that are 32 µm out of focus. A small part of its logarithm (the loss of
NAFNet, Chen et al. 2022, arXiv:2204.04676) is added for frames in focus, whose errors are small
and which must not get worse. The Charbonnier term (Charbonnier et al., ICIP 1994), an absolute
value that is smooth at zero, preserves edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Root mean squared error below which there is no further gain: 50 dB.
FLOOR = 3e-3
#: Error below which the Charbonnier term is quadratic.
CHARBONNIER = 1e-3
#: Scales of MS-SSIM and their weights (Wang et al. 2003).
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: Side of its Gaussian window, px.
WINDOW = 11


def refocus_loss(refocused: Tensor, truth: Tensor, span: Tensor, logarithm: float) -> Tensor:
    """Mean loss of the frames of a batch.

    Parameters
    ----------
    refocused, truth : Tensor of float32, shape (batch, 1, height, width)
        Network units.
    span : Tensor of float32, shape (batch,)
        Range of each truth in network units, positive.
    logarithm : float
        Weight of the logarithm, whose gradient is larger than that of the root for frames with a
        relative error below twice this weight.

    Returns
    -------
    Tensor
        Scalar.
    """
    error = _relative(refocused, truth, span)
    squared = error.square()
    charbonnier = torch.sqrt(squared + CHARBONNIER**2).mean()
    mean = squared.mean(dim=(1, 2, 3)) + FLOOR**2
    return torch.sqrt(mean).mean() + logarithm * torch.log(mean).mean() + charbonnier


def l1_loss(refocused: Tensor, truth: Tensor, span: Tensor) -> Tensor:
    """Mean absolute error."""
    return _relative(refocused, truth, span).abs().mean()


def charbonnier_loss(refocused: Tensor, truth: Tensor, span: Tensor) -> Tensor:
    """Mean of the absolute error, smooth at zero."""
    return torch.sqrt(_relative(refocused, truth, span).square() + CHARBONNIER**2).mean()


def frequency_loss(refocused: Tensor, truth: Tensor, span: Tensor) -> Tensor:
    """Mean absolute difference of the spectra (Cho et al. 2021, arXiv:2108.05054).

    The transform is orthonormal, so that white errors count as much as in pixels, and low
    frequencies, in which defocus leaves most of the power, no more than high ones.
    """
    spectrum = torch.fft.rfft2(_relative(refocused, truth, span), norm="ortho")
    return torch.view_as_real(spectrum).abs().mean()


def ms_ssim_loss(refocused: Tensor, truth: Tensor, span: Tensor) -> Tensor:
    """One minus the multi-scale structural similarity (Wang et al. 2003).

    Similarities are mapped from -1..1 to 0..1, because their fractional powers would otherwise have
    no gradient.  Frames below 176 px use only as many of the five scales as fit.
    """
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as ms_ssim,
    )

    low = truth.amin(dim=(1, 2, 3), keepdim=True)
    wide = span[:, None, None, None]
    side = min(truth.shape[-2:])
    count = max(n for n in range(1, 6) if n == 1 or side // (n - 1) ** 2 >= WINDOW)
    weights = SCALES[:count]
    similarity: Tensor = ms_ssim(
        (refocused - low) / wide,
        (truth - low) / wide,
        data_range=1.0,
        betas=tuple(weight / sum(weights) for weight in weights),
        normalize="simple",
    )
    return 1 - similarity


def _relative(refocused: Tensor, truth: Tensor, span: Tensor) -> Tensor:
    return (refocused - truth) / span[:, None, None, None]
