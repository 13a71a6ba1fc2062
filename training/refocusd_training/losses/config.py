"""The choice of the loss: the ``[loss]`` table of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from refocusd.config import check_settings
from refocusd.errors import ConfigError

LossName = Literal["refocus", "l1", "charbonnier", "ms-ssim", "frequency", "feature", "sum"]


@dataclass(frozen=True, slots=True)
class LossConfig:
    """One of the losses.

    Parameters
    ----------
    name : str
        ``refocus``: root mean square, its logarithm and Charbonnier; ``l1``; ``charbonnier``;
        ``ms-ssim``: one minus multi-scale structural similarity; ``frequency``: absolute
        difference of the spectra; ``feature``: pixels, VGG-16's activations and their Gram
        matrices; ``sum``: `parts`.
    parts : dict of str to float
        For ``sum``: weights of the other losses by name.
    logarithm : float
        For ``refocus``: weight of the logarithm.
    feature_weights : str
        For ``feature``: ``imagenet`` for torchvision's official VGG-16, which is downloaded, or a path,
        relative to the configuration's folder.
    blocks : (float, float, float)
        For ``feature``: weights of the activations before the third, fourth and fifth pooling,
        each in units of its mean on fluorescence frames. With the default, the blocks of a
        blurred frame count about twice as much as its pixels, and the Gram matrices half as much.
    gram : float
        For ``feature``: weight of the Gram matrices, times each block's weight; 0 leaves them
        out (they compare textures, and can reward texture that is not there).
    pixels : float
        For ``feature``: weight of the absolute difference of the pixels.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    name: LossName = "refocus"
    parts: dict[str, float] = field(default_factory=dict)
    logarithm: float = 0.01
    feature_weights: str = "imagenet"
    blocks: tuple[float, float, float] = (0.01, 0.01, 0.01)
    gram: float = 0.1
    pixels: float = 1.0

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        known = get_args(LossName)
        check_settings(self)
        single = set(known) - {"sum"}
        if (self.name == "sum") != bool(self.parts) or not set(self.parts) <= single:
            raise ConfigError(
                f"loss.name is {self.name!r} and loss.parts is {self.parts}; give parts for 'sum' "
                f"only, with names out of {', '.join(sorted(single))}"
            )
        if len(self.blocks) != 3:
            raise ConfigError(f"loss.blocks is {self.blocks}; give 3 numbers")
        weights = (self.logarithm, *self.parts.values(), *self.blocks, self.gram, self.pixels)
        if not all(0 <= weight < 1e9 for weight in weights):
            raise ConfigError("a weight of the loss is negative or too large; give 0 or more")
