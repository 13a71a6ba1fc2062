"""How long to wait before the next attempt, at anything: twice as long each time, with jitter."""

from __future__ import annotations

import random

__all__ = ["BackOff"]


class BackOff:
    """Doubles the wait after each attempt, up to a limit; starts over after a success.

    Jitter (between half and all of the wait) keeps many processes from returning to a
    restarted daemon at the same moment.

    Parameters
    ----------
    first_s, max_s : float
        The first and the longest wait, in seconds.
    healthy_s : float
        An attempt that lasted longer than this was a success.
    jitter : random.Random, optional
    """

    def __init__(
        self,
        first_s: float = 0.5,
        max_s: float = 30.0,
        *,
        healthy_s: float = 30.0,
        jitter: random.Random | None = None,
    ) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._healthy_s = healthy_s
        self._jitter = jitter or random.Random()  # noqa: S311 (no secret)
        self._next_s = first_s

    def reset(self) -> None:
        """Start over: the last attempt was a success."""
        self._next_s = self._first_s

    def limit(self, at_most_s: float) -> None:
        """Make the next wait no longer than `at_most_s` seconds."""
        self._next_s = min(self._next_s, at_most_s)

    def take_s(self, lasted_s: float = 0.0) -> float:
        """Seconds to wait now; the next wait will be twice as long.

        Parameters
        ----------
        lasted_s : float
            How long the last attempt lasted, in seconds.
        """
        if lasted_s > self._healthy_s:
            self.reset()
        wait_s = self._next_s * self._jitter.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, self._max_s)
        return wait_s
