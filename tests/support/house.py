"""Endpoints with the few lines of a broker that their tests and those of remote workers need."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import zmq
from waiting import PATIENCE_S

from refocusd.errors import TransportError
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.transport.ring import RingAddress
from refocusd.transport.secure.endpoints import Endpoints
from refocusd.transport.secure.keys import ClientKeys, KeyStore
from refocusd.transport.secure.local_endpoint import LocalEndpoint
from refocusd.transport.secure.remote_endpoint import RemoteEndpoint

#: The largest frame of these tests.
FRAME_NBYTES = 1 << 20
NO_RING = RingAddress(0, 0, "", 0)
Received = list[tuple[bytes, list[bytes]]]


class House:
    """Endpoints with a minimal broker."""

    def __init__(self, folder: Path, **changes: int | float | str) -> None:
        self.store = KeyStore(folder / "keys")
        self._folder = folder
        local = LocalEndpoint("tcp://127.0.0.1:0")
        remote = RemoteEndpoint("tcp://127.0.0.2:0", self.store, FRAME_NBYTES, handshake_s=0.5)
        for name, value in changes.items():
            object.__setattr__(remote, name, value)
        self.endpoints = Endpoints(local, remote)
        self.poller = zmq.Poller()
        self.endpoints.register(self.poller)
        self.gone: dict[bytes, str] = {}
        self._named = 0
        self._closed = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the remote endpoint."""
        host, _, port = self.endpoints.remote_endpoint.removeprefix("tcp://").rpartition(":")
        return host, int(port)

    def key(self, name: str = "") -> ClientKeys:
        self._named += 1
        name = name or f"host-{self._named}"
        return self.store.new(name, self._folder / f"{name}.key")

    def peer(self, keys: ClientKeys | None = None, role: wire.Role = "worker") -> Connection:
        return Connection(self.endpoints.remote_endpoint, role, inline=True, keys=keys)

    def turn(self) -> Received:
        """Run one turn of a broker's loop: answer every Hello, return the rest."""
        ready = dict(self.poller.poll(50))
        found: Received = []
        for identity, parts in self.endpoints.receive(ready):
            if len(parts) == 1 and isinstance(self._decoded(parts[0]), wire.Hello):
                answer = wire.encode(wire.Welcome(wire.PROTOCOL, "0", NO_RING))
                self.endpoints.send(identity, [answer])  # a peer that has already left gets none
            found.append((identity, [part.bytes for part in parts]))
        self.gone.update(self.endpoints.gone())
        return found

    def until(self, done: Callable[[], object], timeout_s: float = PATIENCE_S) -> Received:
        deadline = time.monotonic() + timeout_s
        found: Received = []
        while not done():
            assert time.monotonic() < deadline, "nothing came in time"
            found += self.turn()
        return found

    def next(self) -> Received:
        """Wait for the next messages, at least one."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := self.turn()):
            assert time.monotonic() < deadline, "nothing came in time"
        return found

    def hello(self, count: int = 1) -> list[bytes]:
        """Wait for the next `count` peers that say Hello; returns their identities."""
        found: Received = []
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < count:
            assert time.monotonic() < deadline, "nobody said hello in time"
            found += self.turn()
        return [identity for identity, _ in found]

    @staticmethod
    def _decoded(part: zmq.Frame) -> wire.Message | None:
        with suppress(TransportError):
            return wire.decode(part.buffer)
        return None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.endpoints.close(linger=0)


@contextmanager
def open_house(folder: Path, **changes: int | float | str) -> Iterator[House]:
    house = House(folder, **changes)
    try:
        yield house
    finally:
        house.close()


def in_background(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run `call` in a thread; its result or its TransportError arrives in the list."""
    said: list[object] = []

    def run() -> None:
        try:
            said.append(call())
        except TransportError as error:
            said.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, said
