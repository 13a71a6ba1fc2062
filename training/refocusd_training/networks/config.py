"""The choice of the network: the ``[network]`` table of a configuration or bundle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from refocusd.config import check_settings
from refocusd.errors import ConfigError

NetworkName = Literal["live", "resnet34", "resnet34-96"]


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One of the networks, and its widths.

    Parameters
    ----------
    name : str
        ``live``: the small one, for CPUs; ``resnet34``: a U-net on ResNet-34, that of the reference
        method; ``resnet34-96``: the same with 96 channels at full resolution instead
        of 97, which suits tensor cores.
    widths : (int, int, int)
        For ``live``: channels at 4, 8 and 16 px.
    blocks : (int, int, int)
        For ``live``: residual blocks at those levels; the first two numbers apply both on the way
        down and on the way up.
    half, fine : int
        For ``live``: channels at 2 px, and at full resolution.
    stages, depths : tuple of four int
        For ``resnet34``: channels and blocks of the encoder's stages (4, 8, 16 and 32 px).
    encoder_weights : str
        For ``resnet34``: initial weights of its encoder. ``imagenet``: torchvision's official
        file, which is downloaded; a path, relative to the configuration's folder: such a file;
        "": none, so that the encoder is trained from scratch.
    defocus_head : bool
        Whether defocus is predicted as well.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    name: NetworkName = "live"
    widths: tuple[int, int, int] = (32, 80, 128)
    blocks: tuple[int, int, int] = (1, 1, 3)
    half: int = 24
    fine: int = 8
    stages: tuple[int, int, int, int] = (64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    encoder_weights: str = ""
    defocus_head: bool = False

    def __post_init__(self) -> None:
        """Refuse networks that cannot be built."""
        check_settings(self)
        counts = {"half": (self.half,), "fine": (self.fine,)}
        for key, length in (("widths", 3), ("blocks", 3), ("stages", 4), ("depths", 4)):
            counts[key] = tuple(getattr(self, key))
            if len(counts[key]) != length:
                raise ConfigError(f"network.{key} is {counts[key]}; give {length} numbers")
        for key, values in counts.items():
            if not all(1 <= value <= 4096 for value in values):
                raise ConfigError(f"network.{key} is {values}; give numbers from 1 to 4096")
        if math.gcd(*self.stages) % 4:
            raise ConfigError(f"network.stages is {self.stages}; give multiples of 4")
        if self.encoder_weights and self.name == "live":
            raise ConfigError("network.encoder_weights are for resnet34; live starts from the seed")
