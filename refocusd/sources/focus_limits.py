"""The limits of a focus correction, as set by the user's script."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from refocusd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class FocusLimits:
    """The limits of a focus correction.

    Parameters
    ----------
    low_um, high_um : float
        Range of stage positions that is never left.  If the acquisition itself goes beyond it,
        nothing is corrected there.
    step_um : float
        Largest single move.
    total_um : float
        Largest distance from the acquisition's own stage position.
    start_at : float
        A correction begins if the distance from focus exceeds this many depths of field; it ends
        within a quarter of one.
    estimates : int
        Number of frames that must have been evaluated since the stage last moved.
    interval_s : float
        Shortest time between two moves.
    arrive_um : float
        Largest difference between the position that was asked for and the one that was reached.
    probe_um : float
        Size of the one move that finds out the direction; 0 for none: a correction then begins
        only if the acquisition itself moves the stage.
    max_age_s : float
        Older advice is ignored.
    stop_file : path, optional
        If this file exists, corrections end for the rest of the acquisition.

    Raises
    ------
    ConfigError
        If a value makes no sense.
    """

    low_um: float
    high_um: float
    step_um: float = 5.0
    total_um: float = 25.0
    start_at: float = 1.0
    estimates: int = 3
    interval_s: float = 2.0
    arrive_um: float = 0.3
    probe_um: float = 0.0
    max_age_s: float = 30.0
    stop_file: str | Path | None = None

    def __post_init__(self) -> None:
        """Refuse limits that limit nothing."""
        if not (math.isfinite(self.low_um) and self.low_um < self.high_um < math.inf):
            raise ConfigError(
                f"focus limits {self.low_um} to {self.high_um} um are no range: give the lowest "
                "and the highest stage position that are safe"
            )
        for name in ("step_um", "total_um", "arrive_um", "start_at"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} = {value}: it must be positive")
        if not 0 <= self.probe_um <= self.step_um:
            raise ConfigError(
                f"probe_um = {self.probe_um}: it must lie between 0 and step_um ({self.step_um})"
            )
        if self.estimates < 1 or not (self.interval_s >= 0 and self.max_age_s >= 0):
            raise ConfigError("estimates must be at least 1, interval_s and max_age_s not negative")
