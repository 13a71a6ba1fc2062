"""The identity, which returns frames unchanged, for measurements."""

from __future__ import annotations

import numpy as np

from refocusd.engines.engine import EngineDescription, Refocused
from refocusd.frame import Pixels
from refocusd.imaging.normalise import CountsRange


class IdentityEngine:
    """An engine without a network, to measure everything else; every frame is ``passed_through``."""

    description = EngineDescription("identity", "exact", "CPU", "identity", "", "")

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Do nothing."""

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        """Copy `raw` to `out`."""
        np.copyto(out, raw)
        return Refocused(CountsRange(0.0, 1.0), 0.0, 0)

    def close(self) -> None:
        """Do nothing."""
