"""Lets peers of the remote door in, or not: one thread beside ZeroMQ's own.

It answers ZeroMQ's question whether a key is good (ZAP,
https://rfc.zeromq.org/spec/27/), closes connections over the limit, and notes
which ones ended.  `zmq.auth` is not used: its thread runs an asyncio loop,
which cannot watch sockets with Windows' default loop, and it knows no limit.
"""

from __future__ import annotations

import contextlib
import logging
import socket as tcp
import threading
import time
from collections import deque

import zmq
from zmq.utils.monitor import parse_monitor_message
from zmq.utils.z85 import encode as z85

from refocusd.transport.secure.keys import AllowList

__all__ = ["ZAP_DOMAIN", "Doorkeeper", "connection_of", "shut"]

log = logging.getLogger(__name__)

ZAP_DOMAIN = b"refocusd"
ZAP_ADDRESS = "inproc://zeromq.zap.01"
#: How often the allow-list is looked at, in seconds.
LOOK_S = 0.25
#: What anyone can cause is said so often at most.
SAY_S = 10.0

#: The two ends of a TCP connection: (host, port) of the peer, and our own port.
Ends = tuple[str, int, int]


class Doorkeeper:
    """Answers for one ROUTER socket.  Its thread ends when that socket is closed.

    Accepted connections and good keys are counted together.  What a connection sends
    carries the key's name and the count at which that was good (``User-Id``), later than
    the connection's own and earlier than that of the next one on its descriptor.

    Parameters
    ----------
    context : zmq.Context
        Of the door, and of nothing else: ZAP is one handler a context.
    allow_list : AllowList
    connections : int
        TCP connections at once, whether they have proved a key or not.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], allow_list: AllowList, connections: int
    ) -> None:
        self._allow_list = allow_list
        self._connections = connections
        self._port = 0
        self._open: dict[int, int] = {}
        self._number = 0
        self._said: dict[str, float] = {}
        self._ended: deque[int] = deque()
        self._zap: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(ZAP_ADDRESS)
        self._monitor: zmq.Socket[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="doorkeeper")

    def watch(self, door: zmq.Socket[bytes]) -> None:
        """Hear of the connections of `door`; before it is bound."""
        events = (
            zmq.Event.ACCEPTED
            | zmq.Event.DISCONNECTED
            | zmq.Event.HANDSHAKE_FAILED_AUTH
            | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
            | zmq.Event.MONITOR_STOPPED
        )
        self._monitor = door.get_monitor_socket(events)

    def start(self, port: int) -> None:
        """Start the thread, once the door is bound to `port`."""
        self._port = port
        self._thread.start()

    def close(self) -> None:
        """Wait for the thread's end; the door must be closed."""
        if self._thread.ident is None:
            self._put_away()
        else:
            self._thread.join()

    @property
    def good(self) -> frozenset[str]:
        """Names of the good keys."""
        return self._allow_list.good

    def number(self, handle: int) -> int:
        """Which connection holds this descriptor now: descriptors are used again, numbers not."""
        return self._open.get(handle, 0)

    def take_ended(self) -> list[int]:
        """Numbers of the connections that ended since the last call."""
        ended = []
        with contextlib.suppress(IndexError):
            while True:
                ended.append(self._ended.popleft())
        return ended

    def _run(self) -> None:
        assert self._monitor is not None
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        looked = time.monotonic()
        watching = True
        while watching:
            try:
                asked = self._zap in dict(poller.poll(round(LOOK_S * 1000)))
                if (now := time.monotonic()) - looked > LOOK_S or asked:
                    looked = now
                    self._allow_list.refresh()
                # First: a connection that asks has a number before it can send anything.
                watching = self._hear()
                if asked:
                    self._answer()
            except zmq.ContextTerminated:
                watching = False
            except Exception:
                # Nobody is let in by a failure here; those who are in stay.
                log.exception("the doorkeeper stumbled")
                time.sleep(LOOK_S)
        self._put_away()

    def _put_away(self) -> None:
        self._zap.close()
        if self._monitor is not None:
            self._monitor.close(linger=0)

    def _hear(self) -> bool:
        assert self._monitor is not None
        while True:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return True
            kind, value = event["event"], int(event["value"])
            if kind == zmq.Event.MONITOR_STOPPED:
                return False
            if kind == zmq.Event.ACCEPTED:
                self._accepted(value)
            elif kind == zmq.Event.DISCONNECTED:
                if number := self._open.pop(value, 0):
                    self._ended.append(number)
            elif kind == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                self._say("connections were refused: not encrypted, or with another daemon's key")

    def _accepted(self, handle: int) -> None:
        self._number += 1
        if before := self._open.get(handle, 0):
            self._ended.append(before)
        self._open[handle] = self._number
        if len(self._open) <= self._connections:
            return
        # An end that was not heard of must not count for ever.
        for other in [each for each in self._open if connection_of(each, self._port) is None]:
            self._ended.append(self._open.pop(other))
        if len(self._open) > self._connections:
            self._say(f"{self._connections} connections from other hosts: no more are taken")
            shut(handle, self._port)

    def _say(self, text: str) -> None:
        """Anyone can connect, often: the log must not grow with that."""
        now = time.monotonic()
        if now - self._said.get(text, -SAY_S) >= SAY_S:
            self._said[text] = now
            log.warning("%s", text)

    def _answer(self) -> None:
        parts = self._zap.recv_multipart(zmq.NOBLOCK)
        version, request, _, address, _, mechanism, *credentials = parts
        key = z85(credentials[0]).decode() if mechanism == b"CURVE" and credentials else ""
        name = self._allow_list.names.get(key)
        if name is None:
            log.warning(
                "a connection from %s was refused: its key is not in the list, or was revoked (%s...)",
                address.decode("ascii", "replace"),
                key[:10],
            )
            answer = (b"400", b"this key is not accepted", b"")
        else:
            self._number += 1
            answer = (b"200", b"", f"{name}/{self._number}".encode())
        status, text, user = answer
        self._zap.send_multipart([version, request, status, text, user, b""])


def connection_of(handle: int, port: int) -> Ends | None:
    """The ends of the connection that a descriptor of ZeroMQ's stands for.

    None if it is not (any more) a connection of the door at `port`.
    """
    try:
        # A duplicate, closed at once: the descriptor itself is ZeroMQ's.
        with tcp.fromfd(handle, -1, -1) as connection:
            return _ends(connection, port)
    except OSError:
        return None


def shut(handle: int, port: int, expected: Ends | None = None) -> bool:
    """Shut a connection, so that ZeroMQ ends it; False if it is not there any more.

    ZeroMQ offers no call for that.  It may have closed the descriptor meanwhile,
    and the system may have given it to something else: what is no connection of
    the door, or not the one that is `expected`, is left alone.
    """
    try:
        with tcp.fromfd(handle, -1, -1) as connection:
            ends = _ends(connection, port)
            if ends is None or (expected is not None and ends != expected):
                return False
            connection.shutdown(tcp.SHUT_RDWR)
            return True
    except OSError:
        return False


def _ends(connection: tcp.socket, port: int) -> Ends | None:
    here, there = connection.getsockname(), connection.getpeername()
    if not (isinstance(here, tuple) and isinstance(there, tuple) and here[1] == port):
        return None
    return str(there[0]), int(there[1]), port
