"""What a network at the scale of the blur is to `ScaledEngine`, whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refocusd.engines.engine import EngineDescription

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a network answers for one frame, good until the next one.

    Parameters
    ----------
    light : ndarray of float32, shape (height, width)
        Normalised as the frame was.
    interval : ndarray of float32, shape (2, height, width)
        How far 90 % of true pixels lie under and over `light` at most.
    ratio, uncertainty : float
        True width of the blur over the stated one, and the standard uncertainty of the
        logarithm of that.
    """

    light: Floats
    interval: Floats
    ratio: float
    uncertainty: float


class ScaleNetwork(Protocol):
    """A compiled network on one device.  Belongs to one thread."""

    @property
    def description(self) -> EngineDescription:
        """What runs."""

    def run(self, seen: Floats) -> Answer:
        """Answer for one frame.

        Parameters
        ----------
        seen : ndarray of float32, shape (1, 3, height, width)
            The normalised frame, and at every pixel the logarithm of its blur over the width that
            the network is made for, and the standard uncertainty of that.

        Raises
        ------
        MemoryError
            If it takes more memory than there is.
        EngineError
            If the runtime fails otherwise.
        """

    def close(self) -> None:
        """Free the device."""
