"""How long to wait before the next try: longer each time, up to a limit."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BackOff"]


@dataclass(slots=True)
class BackOff:
    """Waiting times that double from `first_s` to `max_s` until `reset`.

    >>> back_off = BackOff(0.25, 1.0)
    >>> [back_off.take_s() for _ in range(4)]
    [0.25, 0.5, 1.0, 1.0]
    """

    first_s: float
    max_s: float
    tries: int = 0

    def take_s(self) -> float:
        """Seconds to wait before the next try."""
        wait_s = min(self.max_s, self.first_s * 2.0 ** min(self.tries, 30))
        self.tries += 1
        return wait_s

    def reset(self) -> None:
        """A try has succeeded: the next wait is the shortest again."""
        self.tries = 0
