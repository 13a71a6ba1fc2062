"""Accepts connections from other hosts, and forwards their bytes to ZeroMQ.

ZeroMQ can neither limit the connections that it accepts nor end one of them, and it
aborts the process on Windows if other code shuts its sockets down.  It therefore listens on
the loopback interface only, and every connection from outside goes through two sockets
of ours, which we close to refuse or end it.  Nothing is decrypted here.

Each connection reaches ZeroMQ from its own loopback address (127.0.0.0/8), which tells the
authenticator to which connection a key belongs.
"""

from __future__ import annotations

import logging
import selectors
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

#: Largest number of bytes in transit in one direction of one connection.
BUFFER_NBYTES = 1 << 17
#: Anyone can cause these messages, so each is logged at most once in this time, in seconds.
SAY_S = 10.0
#: Time limit for connecting to ZeroMQ on the loopback interface, in seconds.
CONNECT_S = 1.0
#: How often the relay checks whether it must end, in seconds.
LOOK_S = 0.25

#: The system ends a connection if the other side has disappeared: after 10 s of silence and
#: 3 probes, or if sent data are not acknowledged for 15 s.
_KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in {
        "TCP_KEEPIDLE": 10,
        "TCP_KEEPINTVL": 2,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 15_000,
    }.items()
    if hasattr(socket, name)
]
if sys.platform == "win32":
    _TCP_MAXRT = 5  # from ws2ipdef.h, in seconds
    _KEEP_ALIVE.append((socket.IPPROTO_TCP, _TCP_MAXRT, 15))


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """A socket that listens at an address; IPv6 addresses are in brackets.

    Raises
    ------
    OSError
    """
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    name = "" if host == "*" else host.strip("[]")
    dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server((name, port), family=family, backlog=backlog, dualstack_ipv6=dual)


class _Flow:
    """One direction of a connection, with at most one buffer in transit."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.ended = False
        self._buffer = memoryview(bytearray(BUFFER_NBYTES))
        self.pending = self._buffer[:0]

    def pull(self) -> None:
        """Read what has arrived, and forward it."""
        try:
            nbytes = self.source.recv_into(self._buffer)
        except BlockingIOError:
            return
        self.ended = not nbytes
        self.pending = self._buffer[:nbytes]
        self.push()

    def push(self) -> None:
        """Forward pending bytes, as far as the sink accepts them."""
        with suppress(BlockingIOError):
            while self.pending:
                self.pending = self.pending[self.sink.send(self.pending) :]


@dataclass(slots=True, eq=False)
class _Connection:
    """One connection of a peer on another host: `outer` leads to it, `inner` to ZeroMQ."""

    number: int
    peer: str
    address: str
    outer: socket.socket
    inner: socket.socket
    proved: bool = False
    #: It is about to be ended: nothing more is read from it.
    cut: bool = False
    flows: tuple[_Flow, _Flow] = field(init=False)

    def __post_init__(self) -> None:
        self.flows = (_Flow(self.outer, self.inner), _Flow(self.inner, self.outer))

    def events(self, end: socket.socket) -> int:
        """Events to wait for at one of the two sockets."""
        events = 0
        for flow in self.flows:
            if flow.source is end and not flow.pending and not flow.ended:
                events |= selectors.EVENT_READ
            if flow.sink is end and flow.pending:
                events |= selectors.EVENT_WRITE
        return events

    def carry(self, end: socket.socket, events: int) -> bool:
        """Forward bytes; False if the connection has ended."""
        inward, outward = self.flows
        for flow in self.flows:
            if events & selectors.EVENT_WRITE and flow.sink is end:
                flow.push()
            if events & selectors.EVENT_READ and flow.source is end and not flow.pending:
                flow.pull()
                if inward.ended and flow is inward:
                    # ZeroMQ closes its side once it has read everything.
                    self.inner.shutdown(socket.SHUT_WR)
        return not outward.ended


class Relay:
    """A thread that forwards the bytes of all connections.

    Parameters
    ----------
    listener : socket.socket
        Listens for other hosts; closed with the relay.
    target : (str, int)
        Where ZeroMQ listens on the loopback interface.
    limit : int
        Largest number of connections, whether they have proved a key or not.
    """

    def __init__(self, listener: socket.socket, target: tuple[str, int], limit: int) -> None:
        self._listener = listener
        self._target = target
        self._limit = limit
        self._number = 0
        self._connections: dict[int, _Connection] = {}
        self._by_address: dict[str, _Connection] = {}
        self._ended: deque[int] = deque()
        self._said: dict[str, float] = {}
        self._closing_at: float | None = None
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        for own in (listener, self._woken):
            own.setblocking(False)
            self._selector.register(own, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, linger_s: float = 0.0) -> None:
        """End the thread; ZeroMQ's remaining bytes have `linger_s` seconds to be sent."""
        self._closing_at = time.monotonic() + linger_s
        self._notify()
        self._thread.join()

    def prove(self, address: str) -> int | None:
        """Note that the connection from this loopback address has proved a key; return its number.

        None if the relay did not make the connection: a process of this host found ZeroMQ's port.
        """
        connection = self._by_address.get(address)
        if connection is None:
            return None
        connection.proved = True
        return connection.number

    def peer(self, address: str) -> str:
        """The host behind a loopback address, for the log."""
        connection = self._by_address.get(address)
        return connection.peer if connection is not None else address

    def is_open(self, number: int) -> bool:
        """Whether the connection with this number still exists.  Numbers are never reused."""
        connection = self._connections.get(number)
        return connection is not None and not connection.cut

    def cut(self, number: int) -> None:
        """End a connection."""
        if connection := self._connections.get(number):
            connection.cut = True
            self._notify()

    def take_ended(self) -> list[int]:
        """Numbers of the connections that ended since the last call."""
        ended = []
        with suppress(IndexError):
            while True:
                ended.append(self._ended.popleft())
        return ended

    def _notify(self) -> None:
        with suppress(BlockingIOError):  # it has been notified often enough
            self._wake.send(b".")

    def _run(self) -> None:
        while not self._over():
            try:
                self._turn()
            except Exception:
                # Open connections stay open; the next turn continues with them.
                log.exception("the relay for other hosts failed")
                time.sleep(LOOK_S)
        for connection in list(self._connections.values()):
            self._end(connection)
        for own in (self._listener, self._wake, self._woken, self._selector):
            own.close()

    def _turn(self) -> None:
        for key, events in self._selector.select(LOOK_S):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._woken:
                self._woken.recv(1 << 10)
            elif self.is_open(key.data.number):
                self._carry(key.data, key.fileobj, events)  # type: ignore[arg-type]
        for connection in [each for each in self._connections.values() if each.cut]:
            self._end(connection)

    def _over(self) -> bool:
        if self._closing_at is None:
            return False
        return not self._connections or time.monotonic() >= self._closing_at

    def _accept(self) -> None:
        try:
            outer, name = self._listener.accept()
        except BlockingIOError:  # it has left already
            return
        except OSError as error:  # out of descriptors, for example
            self._say("a connection from another host cannot be accepted: %s", error)
            time.sleep(0.01)  # the listener stays ready: not a busy loop
            return
        if len(self._connections) >= self._limit or self._closing_at is not None:
            outer.close()
            self._say("%d connections from other hosts are open: no more are accepted", self._limit)
            return
        address = self._free_address()
        inner = socket.socket()
        connection = _Connection(self._number, str(name[0]), address, outer, inner)
        self._connections[self._number] = self._by_address[address] = connection
        try:
            outer.setblocking(False)
            outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in _KEEP_ALIVE:
                with suppress(OSError):  # not every system supports every option
                    outer.setsockopt(*option)
            inner.bind((address, 0))
            inner.settimeout(CONNECT_S)
            inner.connect(self._target)
            inner.setblocking(False)
            inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            self._say("a connection from another host cannot be passed on: %s", error)
            self._end(connection)
        else:
            self._watch(connection)

    def _free_address(self) -> str:
        while True:
            self._number += 1
            high, middle, low = (self._number // 254**power % 254 + 1 for power in (2, 1, 0))
            if (address := f"127.{high}.{middle}.{low}") not in self._by_address:
                return address

    def _carry(self, connection: _Connection, end: socket.socket, events: int) -> None:
        try:
            going_on = connection.carry(end, events)
        except OSError:  # reset by either side
            going_on = False
        if going_on:
            self._watch(connection)
        else:
            self._end(connection)

    def _watch(self, connection: _Connection) -> None:
        watched = self._selector.get_map()
        for end in (connection.outer, connection.inner):
            events = connection.events(end)
            if end.fileno() not in watched:
                if events:
                    self._selector.register(end, events, connection)
            elif not events:
                self._selector.unregister(end)
            elif watched[end].events != events:
                self._selector.modify(end, events, connection)

    def _end(self, connection: _Connection) -> None:
        for end in (connection.outer, connection.inner):
            with suppress(KeyError):
                self._selector.unregister(end)
            end.close()
        del self._connections[connection.number]
        del self._by_address[connection.address]
        self._ended.append(connection.number)
        if not connection.proved:
            self._say(
                "a connection from %s ended before it proved a key: it was not encrypted, had "
                "another daemon's key, or said nothing",
                connection.peer,
            )

    def _say(self, message: str, *details: object) -> None:
        now = time.monotonic()
        if now - self._said.get(message, -SAY_S) >= SAY_S:
            self._said[message] = now
            log.warning(message, *details)
