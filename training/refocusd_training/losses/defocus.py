"""The loss of the defocus head."""

from __future__ import annotations

import torch
from torch import Tensor


def defocus_loss(defocus: Tensor, defocus_um: Tensor) -> Tensor:
    r"""Negative log likelihood of \|defocus\| under the head's Gaussians, without its constant.

    Parameters
    ----------
    defocus : Tensor, shape (batch, 2, height / 32, width / 32)
        Mean in um and log of the standard deviation in um.
    defocus_um : Tensor, shape (batch,)
        The frames' distances from focus, signed or not; NaN if unknown. Frames with NaN are
        ignored.

    Returns
    -------
    Tensor
        Scalar; 0, with gradients of 0, if all frames are ignored.
    """
    known = torch.isfinite(defocus_um)
    # NaN times 0 would not do, because its gradient is NaN as well.
    wanted = torch.where(known, defocus_um.abs(), 0.0).to(defocus)[:, None, None]
    mean, log_sigma = defocus[:, 0], defocus[:, 1]
    each = log_sigma + 0.5 * ((mean - wanted) * torch.exp(-log_sigma)).square()
    share = known.to(defocus)[:, None, None]
    return (each * share).sum() / (share.sum() * each[0].numel()).clamp(min=1)
