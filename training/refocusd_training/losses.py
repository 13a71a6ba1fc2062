"""What training minimises: the error of the refocused frame relative to the truth's range.

Errors are taken in units of the truth's range, as PSNR is.  The root of each
frame's mean squared error gives every frame a gradient of the same size,
whatever its defocus: the squared error alone would serve the frames that are
32 µm out.  A little of its logarithm (the loss of NAFNet, Chen et al. 2022,
arXiv:2204.04676) is added for those in focus, whose errors are small and which
must not lose.  The Charbonnier term (Charbonnier et al., ICIP 1994), an
absolute value smooth at zero, holds edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["refocus_loss"]

#: Root mean squared error below which nothing is gained: 50 dB.
FLOOR = 3e-3
CHARBONNIER = 1e-3


def refocus_loss(refocused: Tensor, truth: Tensor, span: Tensor, logarithm: float) -> Tensor:
    """Mean loss of a batch.

    Parameters
    ----------
    refocused, truth : Tensor of float32, shape (batch, 1, height, width)
        Network units.
    span : Tensor of float32, shape (batch,)
        Range of each truth in network units, positive.
    logarithm : float
        Weight of the logarithm; it outweighs the root where a frame's relative
        error is smaller than twice the weight.

    Returns
    -------
    Tensor
        Scalar.
    """
    error = (refocused - truth) / span[:, None, None, None]
    squared = error.square()
    charbonnier = torch.sqrt(squared + CHARBONNIER**2).mean()
    mean = squared.mean(dim=(1, 2, 3)) + FLOOR**2
    return torch.sqrt(mean).mean() + logarithm * torch.log(mean).mean() + charbonnier
