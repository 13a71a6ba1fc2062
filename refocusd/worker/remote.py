"""A worker that nobody supervises: it finds its daemon again by itself."""

from __future__ import annotations

import logging
import random
import threading
import time

from refocusd import __version__
from refocusd.errors import TransportError
from refocusd.transport.client import Connection
from refocusd.transport.secure.keys import ClientKeys
from refocusd.worker.session import WELCOME_S, Prepared, hold_session

__all__ = ["BackOff", "work_remotely"]

log = logging.getLogger(__name__)

FIRST_BACK_OFF_S = 0.5
MAX_BACK_OFF_S = 30.0
#: Frames were taken for so long: the next attempt comes soon again.
HEALTHY_S = 10.0


class BackOff:
    """How long to wait before the next attempt: twice as long each time, within chance.

    The chance (between half and all of it) keeps many workers from coming back to a
    restarted daemon at the same moment.

    Parameters
    ----------
    first_s, max_s : float
    chance : random.Random, optional
    """

    def __init__(
        self,
        first_s: float = FIRST_BACK_OFF_S,
        max_s: float = MAX_BACK_OFF_S,
        chance: random.Random | None = None,
    ) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s
        self._chance = chance or random.Random()  # noqa: S311 (no secret)

    def reset(self) -> None:
        """The last attempt was a success."""
        self._next_s = self._first_s

    def take_s(self) -> float:
        """Seconds to wait now."""
        wait_s = self._next_s * self._chance.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, self._max_s)
        return wait_s


def work_remotely(
    endpoint: str,
    keys: ClientKeys,
    prepared: Prepared,
    *,
    once: bool = False,
    asked: threading.Event,
) -> None:
    """Serve the daemon at `endpoint` until `asked` is set, through cut links and its restarts.

    Parameters
    ----------
    endpoint : str
        Its remote door, for example ``tcp://microscope-1:8752``.
    keys : ClientKeys
    prepared : Prepared
        The engine is kept from session to session.
    once : bool
        End with the first session, or if there is none.
    asked : threading.Event

    Raises
    ------
    TransportError
        If the daemon does not take the key; with `once`, also if there is no session
        or its link is lost.
    MemoryError
        See `refocusd.worker.worker.serve`.
    """
    back_off = BackOff()
    while not asked.is_set():
        begun = time.monotonic()
        log.info("connecting to %s as %s", endpoint, keys.name)
        connection = Connection(endpoint, "worker", inline=True, version=__version__, keys=keys)
        try:
            ended = hold_session(connection, prepared, asked=asked)
        except TransportError as error:
            if asked.is_set():
                return
            if once or connection.key_refused:
                raise
            log.warning("%s", error)
        else:
            if once and ended == "lost":
                raise TransportError(f"the link to the daemon at {endpoint} was lost")
            if once:
                return
        if time.monotonic() - begun > WELCOME_S + HEALTHY_S:
            back_off.reset()
        if not asked.is_set():
            wait_s = back_off.take_s()
            log.info("next attempt at %s in %.1f s", endpoint, wait_s)
            # Not `asked.wait`: its lock could be held when a signal's handler sets the event.
            until = time.monotonic() + wait_s
            while time.monotonic() < until and not asked.is_set():
                time.sleep(0.1)
