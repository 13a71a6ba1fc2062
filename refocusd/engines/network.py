"""A bundle's ONNX graph compiled by some runtime, whatever is done around it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refocusd.engines.engine import EngineDescription


class Network(Protocol):
    """A compiled graph on one device.  Belongs to one thread."""

    @property
    def description(self) -> EngineDescription:
        """What runs."""

    @property
    def onnx(self) -> Path:
        """The file that it was compiled from."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `run` returns."""

    def run(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """All outputs, good until the next run; they may be overwritten.

        Parameters
        ----------
        batch : ndarray of float32, shape (count, channels, height, width)

        Raises
        ------
        MemoryError
            If memory ran out.  The next run compiles the network again.
        DeviceLostError
            If the device does not work any more.
        EngineError
            If the runtime fails otherwise.
        """

    def close(self) -> None:
        """Free the device."""
