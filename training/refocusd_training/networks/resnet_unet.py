"""`ResNetUNet`: the reference method's network, in the layout of fastai's ``DynamicUnet``.

It consists of a ResNet-34 down to 32 px; two convolutions; four steps up, each a 1×1 convolution, a pixel
shuffle with ICNR and blur, concatenation with the encoder's features of that scale (batch norm, ReLU) and
two convolutions; one more shuffle to full resolution, concatenation with the input, a residual
block and a 1×1 convolution.  As in fastai, convolutions of the decoder have biases and no normalisation.
With one input channel it has 41.2 million parameters and 470 thousand multiplications per pixel.

There are two differences.  The last shuffle is blurred, too, because its grid of 2 px would show.
``resnet34-96`` adds a convolution of the input to the features instead of concatenating the input, so that
full resolution has 96 channels and not 97, which tensor cores pad to 128 or, at best, 104.

Batch norm uses running statistics in inference, so engines fold it into the convolutions,
and a pixel depends only on a bounded neighbourhood.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refocusd_training.networks.base import RefocusNetwork
from refocusd_training.networks.defocus import DefocusHead
from refocusd_training.networks.resnet import ResNetEncoder
from refocusd_training.networks.upsample import icnr_, shuffled_up


def _conv(channels: int, out: int, size: int = 3) -> nn.Conv2d:
    made = nn.Conv2d(channels, out, size, padding=size // 2)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    assert made.bias is not None
    nn.init.zeros_(made.bias)
    return made


class _Shuffle(nn.Module):
    """Twice the resolution: 1×1 convolution, ReLU, pixel shuffle, 2×2 mean."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.expand = _conv(channels, 4 * out, 1)
        icnr_(self.expand.weight)

    def forward(self, x: Tensor) -> Tensor:
        return shuffled_up(functional.relu(self.expand(x)))


class _UpBlock(nn.Module):
    """One step up, with the encoder's features of that scale."""

    def __init__(self, channels: int, across: int, out: int) -> None:
        super().__init__()
        self.shuffle = _Shuffle(channels, channels // 2)
        self.norm = nn.BatchNorm2d(across)
        inner = channels // 2 + across
        self.conv1 = _conv(inner, out)
        self.conv2 = _conv(out, out)

    def forward(self, x: Tensor, across: Tensor) -> Tensor:
        both = functional.relu(torch.cat([self.shuffle(x), self.norm(across)], dim=1))
        return functional.relu(self.conv2(functional.relu(self.conv1(both))))


class ResNetUNet(RefocusNetwork):
    """U-net on a ResNet encoder; height and width are multiples of 32.

    Parameters
    ----------
    stages, depths : tuple of four int
        Channels and blocks of the encoder's stages.
    beside : bool
        Whether the input is concatenated with the features at full resolution, as in the reference;
        otherwise a convolution of it is added to them.
    defocus_head : bool
    """

    def __init__(
        self,
        stages: tuple[int, int, int, int] = (64, 128, 256, 512),
        depths: tuple[int, int, int, int] = (3, 4, 6, 3),
        *,
        beside: bool = True,
        defocus_head: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(stages, depths)
        deep = stages[3]
        self.middle_norm = nn.BatchNorm2d(deep)
        self.middle1 = _conv(deep, 2 * deep)
        self.middle2 = _conv(2 * deep, deep)
        channels = deep
        for index, across in enumerate((stages[2], stages[1], stages[0], stages[0])):
            inner = channels // 2 + across
            out = inner if index < 3 else inner // 2
            self.add_module(f"up{index + 1}", _UpBlock(channels, across, out))
            channels = out
        self.to_full = _Shuffle(channels, channels)
        self.from_input = None if beside else _conv(1, channels)
        full = channels + 1 if beside else channels
        self.last1 = _conv(full, full)
        self.last2 = _conv(full, full)
        self.out = _conv(full, 1, 1)
        self.defocus = DefocusHead(deep, grid=32) if defocus_head else None

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters of the encoder."""
        return list(self.encoder.parameters())

    def decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Refocused frames, and the encoder's features at 32 px."""
        x2, x4, x8, x16, deepest = self.encoder(raw)
        x = functional.relu(self.middle1(functional.relu(self.middle_norm(deepest))))
        x = functional.relu(self.middle2(x))
        for index, across in enumerate((x16, x8, x4, x2)):
            x = self.get_submodule(f"up{index + 1}")(x, across)
        x = self.to_full(x)
        x = torch.cat([x, raw], 1) if self.from_input is None else x + self.from_input(raw)
        x = functional.relu(x + self.last2(functional.relu(self.last1(x))))
        refocused: Tensor = self.out(x)
        return refocused, deepest
