"""The moving average of the weights, which is validated, kept and exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network with the moving average of its weights.

    Parameters
    ----------
    network : nn.Module
    decay : float
        Decay of the exponential moving average. It is smaller at the start, so that the untrained
        weights are forgotten quickly: ``min(decay, (2 + n) / (11 + n))`` after `n` updates.

    Returns
    -------
    AveragedModel
        Call `update_parameters` after each step. The running statistics of normalisation
        layers are those of the network itself.
    """

    def follow(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        keep = min(decay, (2 + int(count)) / (11 + int(count)))
        # All tensors at once, as in torch's own averages.
        torch._foreach_lerp_(list(average), list(current), 1 - keep)

    return AveragedModel(network, multi_avg_fn=follow)
