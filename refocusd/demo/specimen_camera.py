"""Shows the specimen to the demo's camera, in place of the core's test picture.

When the acquisition engine takes a frame out of the core, its pixels are replaced
by those of the specimen at the stage's position in the current channel.

pycromanager 1.0.2 swallows an exception there: after a snap it asks again for
ever, and in a sequence it loses the frame.  Therefore the replacement never raises;
the first error is raised when the microscope is closed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.demo.specimen import Specimen
from refocusd.errors import ConfigError

CHANNEL_GROUP = "Channel"


class SpecimenCamera:
    """Puts a specimen under the camera of a core, for as long as the core lives.

    Parameters
    ----------
    specimen : Specimen
    core : pymmcore core
        Its two methods to take a frame are wrapped.
    seed : int
        Seed of the frames' noise.

    Attributes
    ----------
    frames : int
        Number of frames taken so far.
    """

    def __init__(self, specimen: Specimen, core: Any, seed: int) -> None:
        self._specimen = specimen
        self._core = core
        self._rng = np.random.default_rng(seed)
        self._error: Exception | None = None
        # A script's own thread may snap while the engine's does.
        self._lock = threading.Lock()
        self.frames = 0
        for name in ("get_tagged_image", "pop_next_tagged_image"):
            setattr(core, name, self._showing(getattr(core, name)))

    def check(self) -> None:
        """Raise if frames could not be shown.

        Raises
        ------
        ConfigError
            If there are any; gives the reason for the first one.
        """
        if self._error is not None:
            raise ConfigError(
                f"the demo microscope could not show every frame and recorded black ones: "
                f"{self._error}"
            ) from self._error

    def _showing(self, take: Callable[..., Any]) -> Callable[..., Any]:
        def taken(*args: Any, **kwargs: Any) -> Any:
            image = take(*args, **kwargs)
            try:
                image.pix = self._pixels(image.pix.shape)
            except Exception as error:  # noqa: BLE001 - the engine would swallow it and hang
                self._error = self._error or error
                image.pix = np.zeros(image.pix.shape, np.uint16)
            return image

        return taken

    def _pixels(self, shape: tuple[int, ...]) -> NDArray[np.uint16]:
        core, specimen = self._core, self._specimen
        if shape != specimen.shape:
            raise ConfigError(
                f"the demo camera gives frames of shape {shape}, the specimen has "
                f"{specimen.shape}: leave binning, ROI and pixel type as they are"
            )
        channel = core.get_current_config(CHANNEL_GROUP)
        if not channel:
            raise ConfigError(
                f"the devices match no preset of the group {CHANNEL_GROUP!r}; set one of "
                f"{', '.join(specimen.channels)}"
            )
        with self._lock:
            pixels = specimen.frame(
                channel,
                core.get_position(),
                core.get_exposure(),
                self._rng,
                xy_um=(core.get_x_position(), core.get_y_position()),
            )
            self.frames += 1
        return pixels
