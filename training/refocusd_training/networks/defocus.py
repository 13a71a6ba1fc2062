"""`DefocusHead`: estimates the defocus of each part of a frame from a network's deepest features.

It predicts the magnitude only.  In a widefield frame, the sign of defocus is visible only if the
point spread function differs between the two sides of focus: with spherical aberration
(a cover glass or medium for which the objective is not corrected), and if noise does not hide the
difference. With corrected optics both sides look the same, and a signed estimate would be
right half of the time; the direction is found from a second frame at another stage position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Unit of the raw outputs in um: half of the usual defocus in training.
UNIT_UM = 8.0
#: Bounds of the standard deviation in um; without the lower one the likelihood has no maximum.
SIGMA_UM = (0.05, 50.0)


class DefocusHead(nn.Module):
    """Mean and log of the standard deviation of the magnitude of defocus, one pair per 32×32 px.

    It takes float features of shape (batch, channels, height / grid, width / grid), and returns
    (batch, 2, height / 32, width / 32): the mean in um, not negative, and the natural logarithm
    of the standard deviation in um.

    Parameters
    ----------
    channels : int
    grid : int
        Pixels of the frame per feature, 16 or 32.
    hidden : int
    """

    def __init__(self, channels: int, grid: int, hidden: int = 48) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, hidden, 3, stride=32 // grid, padding=1)
        self.out = nn.Conv2d(hidden, 2, 3, padding=1)
        nn.init.normal_(self.out.weight, std=0.02)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Estimate the defocus, see the class."""
        mean, log_sigma = self.out(functional.relu(self.inner(features))).chunk(2, dim=1)
        low, high = (math.log(um) for um in SIGMA_UM)
        log_sigma = (log_sigma + math.log(UNIT_UM)).clamp(low, high)
        return torch.cat([UNIT_UM * functional.softplus(mean), log_sigma], dim=1)
