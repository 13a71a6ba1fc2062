"""A TCP proxy that delays, cuts or silences a connection, as networks do."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from types import TracebackType
from typing import Literal, Self

#: Bytes that one direction may hold; beyond this the sender has to wait, as on a real line.
HOLD = 4 << 20
Mode = Literal["open", "half open", "closed"]


class _Direction:
    """Bytes on their way from one socket to the other."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.held: deque[tuple[float, bytes]] = deque()
        self.nbytes = 0
        self.ended = False


class Proxy:
    """Stands between a client and `target`; one thread for all connections.

    Parameters
    ----------
    target : str
        For example ``tcp://127.0.0.1:8751``.
    host : str
        Loopback address to listen at.

    Attributes
    ----------
    delay_s : float
        Delay of each piece of data, in each direction.
    mode : {"open", "half open", "closed"}
        ``half open``: nothing is passed on any more and neither side is told, as when a cable is
        pulled.  ``closed``: new connections are closed at once.
    passed : int
        Bytes passed on, both directions.
    """

    def __init__(self, target: str, host: str = "127.0.0.1") -> None:
        there, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = (there, int(port))
        self.delay_s = 0.0
        self.mode: Mode = "open"
        self.passed = 0
        self._directions: list[_Direction] = []
        self._cut = threading.Event()
        self._done = threading.Event()
        self._stopping = False
        self._listener = socket.create_server((host, 0))
        self._listener.setblocking(False)
        self.endpoint = f"tcp://{host}:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="proxy")

    @property
    def connections(self) -> int:
        """Number of connections at present."""
        return len(self._directions) // 2

    def cut(self) -> None:
        """Close every connection now; both sides are told, and new ones are accepted."""
        self._done.clear()
        self._cut.set()
        assert self._done.wait(10), "the proxy's thread does not answer"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            if self._cut.is_set():
                self._close_all()
                self._cut.clear()
                self._done.set()
            self._step()
        self._close_all()
        self._listener.close()

    def _step(self) -> None:
        now = time.monotonic()
        moving = self.mode != "half open"
        readers: list[socket.socket] = [self._listener]
        writers: list[socket.socket] = []
        for each in self._directions if moving else ():
            if each.nbytes < HOLD and not each.ended:
                readers.append(each.source)
            if each.held and each.held[0][0] <= now:
                writers.append(each.sink)
        readable, writable, _ = select.select(readers, writers, [], 0.005)
        if self._listener in readable:
            self._accept()
        for each in list(self._directions):
            try:
                if each.source in readable and each in self._directions:
                    self._read(each)
                if each.sink in writable and each in self._directions:
                    self._write(each)
                if each.ended and not each.held:
                    self._close(each)
            except BlockingIOError:
                pass
            except OSError:
                self._close(each)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.mode == "closed":
            client.close()
            return
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            client.close()
            return
        for side in (client, server):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._directions += [_Direction(client, server), _Direction(server, client)]

    def _read(self, each: _Direction) -> None:
        data = each.source.recv(1 << 20)
        if data:
            each.held.append((time.monotonic() + self.delay_s, data))
            each.nbytes += len(data)
        else:
            each.ended = True

    def _write(self, each: _Direction) -> None:
        due, data = each.held.popleft()
        sent = 0
        try:
            sent = each.sink.send(data)
        finally:
            each.nbytes -= sent
            self.passed += sent
            if sent < len(data):
                each.held.appendleft((due, data[sent:]))

    def _close(self, each: _Direction) -> None:
        """Close both directions of that connection."""
        for other in list(self._directions):
            if other is each or (other.source is each.sink and other.sink is each.source):
                self._directions.remove(other)
                with contextlib.suppress(OSError):
                    other.source.close()

    def _close_all(self) -> None:
        for each in list(self._directions):
            if each in self._directions:
                self._close(each)
