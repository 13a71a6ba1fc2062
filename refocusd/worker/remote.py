"""A worker without a supervisor: it reconnects to its daemon by itself."""

from __future__ import annotations

import logging
import threading
import time

from refocusd import __version__
from refocusd.backoff import BackOff
from refocusd.errors import TransportError
from refocusd.transport.client import Connection
from refocusd.transport.secure.keys import ClientKeys
from refocusd.worker.session import WELCOME_S, Prepared, hold_session

log = logging.getLogger(__name__)

#: A session that lasted this long counts as a success.
HEALTHY_S = 10.0


def work_remotely(
    endpoint: str,
    keys: ClientKeys,
    prepared: Prepared,
    *,
    once: bool = False,
    asked: threading.Event,
) -> None:
    """Serve the daemon at `endpoint` until `asked` is set; reconnect if the link is lost or the daemon restarts.

    Parameters
    ----------
    endpoint : str
        Its remote endpoint, for example ``tcp://microscope-1:8752``.
    keys : ClientKeys
    prepared : Prepared
        The engine is kept from session to session.
    once : bool
        Return after the first session, and raise an error if there is none.
    asked : threading.Event
        Set when this process is asked to stop.

    Raises
    ------
    TransportError
        If the daemon does not accept the key; with `once`, also if no session is established
        or its link is lost.
    MemoryError
        See `refocusd.worker.worker.serve`.
    """
    back_off = BackOff(healthy_s=WELCOME_S + HEALTHY_S)
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
        if not asked.is_set():
            wait_s = back_off.take_s(time.monotonic() - begun)
            log.info("next attempt at %s in %.1f s", endpoint, wait_s)
            # Not `asked.wait`, because a signal handler that sets the event could find its lock taken.
            until = time.monotonic() + wait_s
            while time.monotonic() < until and not asked.is_set():
                time.sleep(0.1)
