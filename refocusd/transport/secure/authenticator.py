"""Decides which keys may connect from other hosts: answers ZeroMQ's questions in a thread.

The questions are asked by ZAP (https://rfc.zeromq.org/spec/27/).  `zmq.auth` is not used:
its thread runs an asyncio loop, which cannot watch sockets with Windows' default loop, and
it does not know which connection it is asked about.
"""

from __future__ import annotations

import logging
import threading
import time

import zmq
from zmq.utils.z85 import encode as z85

from refocusd.transport.secure.keys import AllowList
from refocusd.transport.secure.relay import Relay

__all__ = ["ZAP_DOMAIN", "Authenticator"]

log = logging.getLogger(__name__)

ZAP_DOMAIN = b"refocusd"
ZAP_ADDRESS = "inproc://zeromq.zap.01"
#: How often the allow-list is read again, in seconds.
LOOK_S = 0.25


class Authenticator:
    """Answers for one context.  Its thread ends when the context is terminated.

    What an accepted connection sends carries ``NAME/NUMBER`` (``User-Id``): the name of its
    key and the relay's number of the connection.

    Parameters
    ----------
    context : zmq.Context
        Of the remote endpoint, and of nothing else: a context has one ZAP handler.
    allow_list : AllowList
    relay : Relay
        Through which all connections come.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], allow_list: AllowList, relay: Relay
    ) -> None:
        self._allow_list = allow_list
        self._relay = relay
        self._zap: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(ZAP_ADDRESS)
        self._thread = threading.Thread(target=self._run, name="authenticator")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end, once the context is terminated."""
        self._thread.join()

    @property
    def good(self) -> frozenset[str]:
        """Names of the keys that are accepted."""
        return self._allow_list.good

    def _run(self) -> None:
        with self._zap:
            while True:
                try:
                    asked = self._zap.poll(round(LOOK_S * 1000))
                    self._allow_list.refresh()
                    if asked:
                        self._answer()
                except zmq.ContextTerminated:
                    return
                except Exception:
                    # Nobody is let in by a failure here; those who are in stay.
                    log.exception("a key could not be checked")
                    time.sleep(LOOK_S)

    def _answer(self) -> None:
        version, request, _, where, _, mechanism, *credentials = self._zap.recv_multipart(
            zmq.NOBLOCK
        )
        address = where.decode("ascii", "replace")
        key = z85(credentials[0]).decode() if mechanism == b"CURVE" and credentials else ""
        name = self._allow_list.names.get(key)
        number = self._relay.prove(address) if name is not None else None
        if name is None or number is None:
            log.warning(
                "a connection from %s was refused: its key is not in the list, or was revoked (%s...)",
                self._relay.peer(address),
                key[:10],
            )
            answer = (b"400", b"this key is not accepted", b"")
        else:
            answer = (b"200", b"", f"{name}/{number}".encode())
        self._zap.send_multipart([version, request, *answer, b""])
