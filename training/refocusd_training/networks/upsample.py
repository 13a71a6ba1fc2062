"""Upsampling by two without grid artefacts, for both families of networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def icnr_(weight: Tensor, scale: int = 2) -> None:
    """Initialise a convolution before a pixel shuffle to nearest-neighbour up-sampling.

    ICNR: Aitken et al. 2017, arXiv:1707.02937.

    Parameters
    ----------
    weight : Tensor, shape (out * scale**2, in, kh, kw)
        Changed in place: the ``scale**2`` kernels of one output channel are equal.
    """
    kernel = torch.empty(weight.shape[0] // scale**2, *weight.shape[1:])
    nn.init.kaiming_normal_(kernel, nonlinearity="relu")
    with torch.no_grad():
        weight.copy_(kernel.repeat_interleave(scale**2, dim=0))


def shuffled_up(x: Tensor) -> Tensor:
    """Pixel shuffle ×2, then a fixed 2×2 mean (Sugawara et al. 2018, arXiv:1806.02658).

    The mean's response is zero exactly at the frequencies that a shuffle can imprint.
    """
    padded = functional.pad(functional.pixel_shuffle(x, 2), (1, 0, 1, 0), mode="replicate")
    return functional.avg_pool2d(padded, 2, stride=1)
