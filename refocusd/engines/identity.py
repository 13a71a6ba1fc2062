"""The identity: frames come back as they are."""

from __future__ import annotations

import numpy as np

from refocusd.engines.engine import EngineDescription, Refocused
from refocusd.frame import Pixels
from refocusd.imaging.normalise import CountsRange


class IdentityEngine:
    """Measures the path without a network; every frame is ``passed_through``."""

    description = EngineDescription("identity", "exact", "CPU", "identity", "", "")

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Nothing to warm."""

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        """Copy `raw` to `out`."""
        np.copyto(out, raw)
        return Refocused(CountsRange(0.0, 1.0), 0.0, 0)

    def close(self) -> None:
        """Nothing to free."""
