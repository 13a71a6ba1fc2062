"""The feature loss of the reference method (Johnson et al. 2016, arXiv:1603.08155).

It follows Howard's implementation: absolute differences of the pixels, of VGG-16's activations
before its third, fourth and fifth pooling, and of their Gram matrices. His weights are for the
network with batch norm, whose activations are all about 1. The network used here has no batch
norm; its mean activations on a frame of Hoechst-stained nuclei are `ACTIVATIONS`. Each block is
scaled by them, so that the weights of a configuration are comparable.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refocusd.errors import InputError
from refocusd_training.losses.config import LossConfig
from refocusd_training.losses.refocus import l1_loss
from refocusd_training.weights import vgg16_features

#: Mean of relu3_3, relu4_3 and relu5_3.
ACTIVATIONS = (61.0, 6.5, 0.27)
#: Convolutions before each of the five poolings.
GROUPS = (2, 2, 3, 3, 3)
#: ImageNet's mean colour and standard deviation.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Smallest side of a frame, px: a smaller one vanishes after four poolings.
MIN_SIDE = 32


class FeatureLoss(nn.Module):
    """Loss of frames of at least 32 px a side, float32, in network units.

    Each truth's range is scaled to 0 to 1 and repeated for the network's three colours.

    Raises
    ------
    InputError
        If VGG-16's weights cannot be obtained.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self._config = config
        self._count = 0
        # Buffers outside the state dictionary: they do not learn and do not belong to the run.
        for weight, bias in vgg16_features(config.feature_weights):
            self.register_buffer(f"weight{self._count}", weight, persistent=False)
            self.register_buffer(f"bias{self._count}", bias, persistent=False)
            self._count += 1
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def activations(self, frames: Tensor) -> list[Tensor]:
        """Three blocks of activations in units of their means, of frames from 0 to 1."""
        x = (frames.expand(-1, 3, -1, -1) - self.get_buffer("mean")) / self.get_buffer("std")
        found, layer = [], 0
        for group, convolutions in enumerate(GROUPS):
            if group:
                x = functional.max_pool2d(x, 2)
            for _ in range(convolutions):
                weight, bias = (self.get_buffer(f"{kind}{layer}") for kind in ("weight", "bias"))
                x = functional.relu(functional.conv2d(x, weight, bias, padding=1))
                layer += 1
            if group >= 2:
                found.append(x / ACTIVATIONS[group - 2])
        return found

    def forward(self, refocused: Tensor, truth: Tensor, span: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        if min(truth.shape[-2:]) < MIN_SIDE:
            raise InputError(
                f"the feature loss needs frames of {MIN_SIDE} px, these are {truth.shape[-2:]}"
            )
        low = truth.amin(dim=(1, 2, 3), keepdim=True)
        wide = span[:, None, None, None]
        ours = self.activations((refocused - low) / wide)
        with torch.no_grad():
            theirs = self.activations((truth - low) / wide)
        loss = self._config.pixels * l1_loss(refocused, truth, span)
        for weight, one, other in zip(self._config.blocks, ours, theirs, strict=True):
            loss = loss + weight * functional.l1_loss(one, other)
            if self._config.gram:
                term = functional.l1_loss(_gram(one), _gram(other))
                loss = loss + weight * self._config.gram * term
        return loss


def _gram(x: Tensor) -> Tensor:
    """Mean products of channels, (batch, channels, channels): about 1 in these units."""
    flat = x.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]
