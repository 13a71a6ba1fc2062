"""`LiveUNet`: the small network that refocuses on a CPU while frames arrive.

After a ×4 pixel-unshuffle, the network works on a grid with 1/16 of the pixels, where a U-net of
three levels (4, 8 and 16 px) covers blur discs of 30 px radius. Two ×2 steps lead
back to full resolution, where a refinement that also receives the input computes
the correction that is added to the input.

There are no grid artefacts: every ×2 step is a pixel shuffle initialised to nearest-neighbour
(ICNR, Aitken et al. 2017, arXiv:1707.02937) followed by a fixed 2×2 mean
(Sugawara et al. 2018, arXiv:1806.02658), whose response is zero exactly at the
frequencies that a shuffle can imprint. Every later layer is a convolution on
that finer grid and treats all its pixels equally.

Normalisation layers and global pooling are left out deliberately: a pixel then
depends only on a bounded neighbourhood and not on the rest of the frame, so that
a frame processed in tiles equals a frame processed whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from refocusd_training.networks.base import RefocusNetwork
from refocusd_training.networks.defocus import DefocusHead
from refocusd_training.networks.upsample import icnr_, shuffled_up

#: Height and width must be multiples of this: 4 px unshuffled, halved twice,
#: rounded up to a power of two that leaves engines room to tile.
SIZE_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class LiveUNetConfig:
    """Widths of the network.

    Parameters
    ----------
    widths : (int, int, int)
        Channels at 4, 8 and 16 px.
    blocks : (int, int, int)
        Residual blocks of two convolutions at those levels; the first two
        are used both on the way down and on the way up.
    half : int
        Channels at 2 px.
    fine : int
        Channels that reach full resolution.
    """

    widths: tuple[int, int, int] = (32, 80, 128)
    blocks: tuple[int, int, int] = (1, 1, 3)
    half: int = 24
    fine: int = 8


class _Block(nn.Module):
    """Two 3×3 convolutions added to their input; the second starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.first(x))
        return functional.relu(x + self.second(inner))


class _Up(nn.Module):
    """Twice the resolution: 1×1 convolution, pixel shuffle, 2×2 mean."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 4 * out, 1)
        icnr_(self.expand.weight)

    def forward(self, x: Tensor) -> Tensor:
        return shuffled_up(self.expand(x))


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))


class LiveUNet(RefocusNetwork):
    """Refocuses normalised frames; input and output float, shape (batch, 1, height, width).

    Height and width are multiples of `SIZE_MULTIPLE`.
    """

    size_multiple = SIZE_MULTIPLE

    def __init__(self, config: LiveUNetConfig | None = None, *, defocus_head: bool = False) -> None:
        super().__init__()
        self.config = config or LiveUNetConfig()
        fine4, fine8, fine16 = self.config.widths
        count4, count8, count16 = self.config.blocks
        self.stem = nn.Conv2d(16, fine4, 3, padding=1)
        self.down4 = _blocks(fine4, count4)
        self.to8 = nn.Conv2d(fine4, fine8, 3, stride=2, padding=1)
        self.down8 = _blocks(fine8, count8)
        self.to16 = nn.Conv2d(fine8, fine16, 3, stride=2, padding=1)
        self.bottom = _blocks(fine16, count16)
        self.to_up8 = _Up(fine16, fine8)
        self.up8 = _blocks(fine8, count8)
        self.to_up4 = _Up(fine8, fine4)
        self.up4 = _blocks(fine4, count4)
        self.to_up2 = _Up(fine4, self.config.half)
        self.from_input2 = nn.Conv2d(4, self.config.half, 3, padding=1)
        self.up2 = nn.Conv2d(self.config.half, self.config.half, 3, padding=1)
        self.to_up1 = _Up(self.config.half, self.config.fine)
        self.from_input1 = nn.Conv2d(1, self.config.fine, 3, padding=1)
        self.out = nn.Conv2d(self.config.fine, 1, 3, padding=1)
        nn.init.normal_(self.out.weight, std=0.1 / math.sqrt(9 * self.config.fine))
        self.defocus = DefocusHead(fine16, grid=16) if defocus_head else None

    def decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Refocused frames, and the features at 16 px."""
        x4 = functional.relu(self.stem(functional.pixel_unshuffle(raw, 4)))
        x4 = self.down4(x4)
        x8 = self.down8(functional.relu(self.to8(x4)))
        x16 = self.bottom(functional.relu(self.to16(x8)))
        x8 = self.up8(functional.relu(self.to_up8(x16) + x8))
        x4 = self.up4(functional.relu(self.to_up4(x8) + x4))
        x2 = self.to_up2(x4) + self.from_input2(functional.pixel_unshuffle(raw, 2))
        x2 = functional.relu(self.up2(functional.relu(x2)))
        x1 = functional.relu(self.to_up1(x2) + self.from_input1(raw))
        correction: Tensor = self.out(x1)
        return raw + correction, x16
