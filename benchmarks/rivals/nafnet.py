"""NAFNet, the nonlinear-activation-free network.

L. Chen et al., "Simple Baselines for Image Restoration", ECCV 2022 (arXiv:2204.04676).  Implemented
from the paper: blocks of layer normalisation, 1×1 and depth-wise 3×3 convolution, a gate
that multiplies the two halves of the channels, simplified channel attention, and a gated
feed-forward part; both parts are added with a learned scale that starts at zero.

Attention averages over the whole frame.  For frames larger than the training crops, the paper
averages over a window of 1.5 times the crops' side; for crops of 320 px these are the 480 px of the
evaluation's frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Norm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        return centred * torch.rsqrt(variance + 1e-6) * self.weight + self.bias


def _gated(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return left * right


class _Block(nn.Module):
    """The paper's block, which doubles the channels inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm1, self.norm2 = _Norm(channels), _Norm(channels)
        self.expand = nn.Conv2d(channels, wide, 1)
        self.spatial = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.attend = nn.Conv2d(channels, channels, 1)
        self.reduce = nn.Conv2d(channels, channels, 1)
        self.feed = nn.Conv2d(channels, wide, 1)
        self.back = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        inner = _gated(self.spatial(self.expand(self.norm1(x))))
        inner = inner * self.attend(functional.adaptive_avg_pool2d(inner, 1))
        x = x + self.reduce(inner) * self.beta
        inner = self.back(_gated(self.feed(self.norm2(x))))
        fed: Tensor = x + inner * self.gamma
        return fed


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))


class NafNet(nn.Module):
    """Restores frames in network units; float, shape (batch, 1, height, width).

    Parameters
    ----------
    width : int
        Channels at full resolution; they double at each lower level.
    encoder, decoder : sequence of int
        Number of blocks at each level: of the encoder from full resolution down, of the decoder from
        the coarsest level up.
    middle : int
        Blocks at the coarsest level.
    """

    def __init__(
        self, width: int, encoder: Sequence[int], middle: int, decoder: Sequence[int]
    ) -> None:
        super().__init__()
        self.size_multiple = 2 ** len(encoder)
        widths = [width * 2**level for level in range(len(encoder) + 1)]
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.encoders = nn.ModuleList(
            _blocks(channels, count) for channels, count in zip(widths, encoder, strict=False)
        )
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths[:-1])
        self.middle = _blocks(widths[-1], middle)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2))
            for c in widths[:0:-1]
        )
        self.decoders = nn.ModuleList(
            _blocks(channels, count)
            for channels, count in zip(widths[-2::-1], decoder, strict=True)
        )
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, raw: Tensor) -> Tensor:
        """Return the restored frames, same shape."""
        x = self.first(raw)
        skipped = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skipped.append(x)
            x = down(x)
        x = self.middle(x)
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skipped), strict=True):
            x = decoder(up(x) + skip)
        restored: Tensor = raw + self.last(x)
        return restored


def paper_nafnet() -> NafNet:
    """The published network for deblurring, of width 32."""
    return NafNet(32, (1, 1, 1, 28), 1, (1, 1, 1, 1))


def small_nafnet() -> NafNet:
    """A network that a CPU can train in the time given to the live network."""
    return NafNet(16, (1, 1, 1, 4), 1, (1, 1, 1, 1))
