"""The data of a training run: the ``[data]`` table of its configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from refocusd.config import Limits, check_settings
from refocusd.errors import ConfigError
from refocusd_training.simulate.ranges import TRAINED_DEPTH_UM

DataKind = Literal["sharp", "bbbc006", "stacks"]
OpticsKind = Literal["20x", "any"]


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Training data and how they are drawn.

    Parameters
    ----------
    kind : str
        ``sharp``: sharp images, defocused by the simulator; ``bbbc006``: plates of that
        set; ``stacks``: through-focus stacks of the user's own microscope.
    channels : tuple of str
        For ``sharp``: ``NAME=FOLDER``, with the folder relative to that of the data; channels are drawn
        evenly; empty: one channel, BBBC038's images of the shipped split.  For ``bbbc006``: ``w1`` and
        ``w2``; empty: those that exist.  For ``stacks``: names on the channel axis; empty: all.
    validate, test : float
        Shares of the wells or fields that are held out.  For images that the shipped split
        names, that split decides.
    split_seed : int
        Seed of the sides and of the validation frames.  It is not the seed of the run, so
        that runs with different seeds are compared on the same frames.
    validation_batches : int
        Batches of the fixed validation set.
    bank : int
        Number of transfer functions that the simulator keeps (``sharp``).
    layers : int
        Layers of a specimen's depth (``sharp``), 1 to 4: 1 is a plane (its PSF may be averaged
        over a thickness); more layers lie at different depths, so that sharp and blurred parts mix.
    depth_um : pair of float
        Range from which the depth of a specimen with several layers is drawn, in um.
    planes : tuple of int
        Planes of ``bbbc006`` for training and validation.
    focus_plane : int
        Its plane in focus.
    test_planes : tuple of int
        Its planes on the side of focus that training does not see.
    defocus_um : pair of float
        Distances from focus that pairs of ``stacks`` may have, in um, on either side.
    z_axis : str
        Axis of ``stacks`` along which they go through focus.
    z_step_um : float
        Distance of their planes in um; 0 for that stated by the recordings.
    optics : str
        For ``sharp``, if no microscope was measured: ``20x``, those of an air objective with an NA of
        0.4-0.5; ``any``, any fluorescence microscope, with uneven light, debris, overexposure and
        generated structures (`refocusd_training.simulate.ranges.WIDE_RANGES`).

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    kind: DataKind = "sharp"
    channels: tuple[str, ...] = ()
    validate: Annotated[float, Limits(0.0, 0.499)] = 0.1
    test: Annotated[float, Limits(0.0, 0.499)] = 0.1
    split_seed: int = 0
    validation_batches: Annotated[int, Limits(1, 10**6)] = 4
    bank: Annotated[int, Limits(1, 10**6)] = 384
    layers: Annotated[int, Limits(1, 4)] = 1
    depth_um: tuple[float, float] = TRAINED_DEPTH_UM
    planes: tuple[int, ...] = (1, 5, 10)
    focus_plane: int = 16
    test_planes: tuple[int, ...] = (32,)
    defocus_um: tuple[float, float] = (0.0, 36.0)
    z_axis: str = "z"
    z_step_um: Annotated[float, Limits(0.0, 1e6)] = 0.0
    optics: OpticsKind = "20x"

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        check_settings(self)
        for name in ("depth_um", "defocus_um"):
            pair = getattr(self, name)
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1] < math.inf:
                raise ConfigError(f"data.{name} is {pair}; give [lowest, highest] in um")
        if self.kind == "bbbc006":
            self._check_planes()
        if self.kind == "sharp":
            for channel in self.channels:
                name, _, folder = channel.partition("=")
                if not name or not folder:
                    raise ConfigError(f"data.channels has {channel!r}; give NAME=FOLDER")

    def _check_planes(self) -> None:
        every = (*self.planes, self.focus_plane, *self.test_planes)
        if not self.planes or not all(0 <= plane <= 33 for plane in every):
            raise ConfigError(f"data.planes are {every}; BBBC006 has the planes 0 to 33")
        if both := sorted(set(self.planes) & set(self.test_planes)):
            raise ConfigError(f"plane {both[0]} is in data.planes and in data.test_planes")
