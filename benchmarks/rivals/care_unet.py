"""CARE's network: the U-net that CSBDeep builds by default for 2-D images.

M. Weigert et al., Nature Methods 15, 1090 (2018).  Implemented from the description and
CSBDeep's defaults for two dimensions (``unet_n_depth = 2``, ``unet_kern_size = 5``,
``unet_n_first = 32``, two convolutions per level, max pooling, nearest-neighbour up-sampling,
residual, no normalisation, Glorot initialisation).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CareUNet(nn.Module):
    """Restores frames in network units; float, shape (batch, 1, height, width).

    Parameters
    ----------
    depth : int
        Levels below full resolution; sides must be multiples of ``2**depth``.
    first : int
        Channels at full resolution; they double at each lower level.
    kernel : int
        Side of each convolution's kernel, px; odd.
    """

    def __init__(self, depth: int = 2, first: int = 32, kernel: int = 5) -> None:
        super().__init__()
        self.size_multiple = 2**depth

        def two(channels: int, middle: int, out: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for before, after in ((channels, middle), (middle, out)):
                layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2), nn.ReLU()]
            return nn.Sequential(*layers)

        widths = [first * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            two(1 if level == 0 else widths[level - 1], widths[level], widths[level])
            for level in range(depth)
        )
        # The last convolution of a level already has the channels of the one above.
        self.middle = two(widths[depth - 1], widths[depth], widths[depth - 1])
        self.up = nn.ModuleList(
            two(2 * widths[level], widths[level], widths[max(0, level - 1)])
            for level in reversed(range(depth))
        )
        self.last = nn.Conv2d(first, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, raw: Tensor) -> Tensor:
        """Return the restored frames, same shape."""
        skipped = []
        x = raw
        for level in self.down:
            x = level(x)
            skipped.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.middle(x)
        for level, skip in zip(self.up, reversed(skipped), strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = level(torch.cat([x, skip], dim=1))
        restored: Tensor = raw + self.last(x)
        return restored
