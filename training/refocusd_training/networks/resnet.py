"""The encoder: ResNet-34 (He et al. 2016, arXiv:1512.03385) up to its last pooling.

Module names are torchvision's, so that its official weights load.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

#: Grey level of ImageNet's mean colour and its standard deviation, in network units, by which
#: its weights expect the input to be normalised.
MEAN, STD = 0.449, 0.226


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, added to their input."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(x)))
        kept = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn2(self.conv2(inner)) + kept)


class ResNetEncoder(nn.Module):
    """Features at five scales.

    Parameters
    ----------
    stages : tuple of four int
        Channels at 4, 8, 16 and 32 px; those at 2 px are the first of these.
    depths : tuple of four int
        Blocks of each stage.
    """

    def __init__(
        self, stages: tuple[int, int, int, int], depths: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, stages[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stages[0])
        before = stages[0]
        for index, (out, depth) in enumerate(zip(stages, depths, strict=True)):
            strides = [1 if index == 0 else 2] + [1] * (depth - 1)
            inputs = [before] + [out] * (depth - 1)
            blocks = (_BasicBlock(i, out, s) for i, s in zip(inputs, strides, strict=True))
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            before = out
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the features at 2, 4, 8, 16 and 32 px of frames in network units."""
        x2 = functional.relu(self.bn1(self.conv1((raw - MEAN) / STD)))
        x4 = self.get_submodule("layer1")(functional.max_pool2d(x2, 3, 2, 1))
        x8 = self.get_submodule("layer2")(x4)
        x16 = self.get_submodule("layer3")(x8)
        return x2, x4, x8, x16, self.get_submodule("layer4")(x16)
