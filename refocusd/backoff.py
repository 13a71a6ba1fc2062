"""Waits between attempts: each twice as long as the one before, with jitter."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from refocusd.errors import RefocusdError
from refocusd.files import refused_to_open

log = logging.getLogger(__name__)

#: Pauses between attempts to read or write a file, in s, while an error may be transient.
RETRY_S = (0.1, 0.5, 2.0)
#: Transient errors: of a cable or a controller, or of a network share that may come back.
_PASSING = {
    errno.EIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
}
#: The same on Windows (winerror.h): a drive that is not ready, a file that another program holds, a
#: network path, name or connection that is gone, a semaphore time-out, a device error, and too few
#: kernel resources for a large read or write.
_PASSING_WINDOWS = {21, 32, 33, 51, 53, 54, 55, 59, 64, 121, 170, 1117, 1231, 1232, 1236, 1450}

_Result = TypeVar("_Result")


def may_pass(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, is a system error that may be transient."""
    while error is not None:
        if isinstance(error, OSError) and _may_pass(error):
            return True
        error = error.__cause__
    return False


def _may_pass(error: OSError) -> bool:
    number = getattr(error, "winerror", None)
    return refused_to_open(error) or number in _PASSING_WINDOWS or error.errno in _PASSING


def persistently(
    do: Callable[[], _Result], wait: Callable[[float], object] = time.sleep
) -> _Result:
    """Read or write something, and try again after an error that may be transient.

    Parameters
    ----------
    do : callable
        Must leave nothing behind when it fails.
    wait : callable
        Waits for the given number of seconds.

    Raises
    ------
    OSError, RefocusdError
        The error of the last attempt, or the first one that is not transient.
    """
    for pause_s in RETRY_S:
        try:
            return do()
        except (OSError, RefocusdError) as error:
            if not may_pass(error):
                raise
            log.info("trying again in %.1f s: %s", pause_s, error)
        wait(pause_s)
    return do()


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
