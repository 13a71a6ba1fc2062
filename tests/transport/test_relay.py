"""The relay in front of ZeroMQ passes bytes unchanged, and closes only its own connections."""

from __future__ import annotations

import errno
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from house import open_house

from refocusd.transport import messages as wire
from refocusd.transport.secure.relay import BUFFER_NBYTES, Relay, listen

pytestmark = pytest.mark.fast

TIMEOUT_S = 30.0


class Bench:
    """A relay between a test's clients and a plain TCP listener in ZeroMQ's place."""

    def __init__(self, limit: int = 4) -> None:
        self.target = socket.create_server(("127.0.0.1", 0))
        self.target.settimeout(TIMEOUT_S)
        listener = listen("127.0.0.1", 0, 8)
        self.address = listener.getsockname()
        self.relay = Relay(listener, self.target.getsockname(), limit)
        self.relay.start()
        self.closed = False
        self._open = ExitStack()

    def outer(self) -> socket.socket:
        end = self._open.enter_context(socket.create_connection(self.address, TIMEOUT_S))
        end.settimeout(TIMEOUT_S)
        return end

    def pair(self) -> tuple[socket.socket, socket.socket, str]:
        """Both ends of a new connection, and the address that it comes from."""
        outer = self.outer()
        inner, (address, _) = self.target.accept()
        self._open.enter_context(inner)
        inner.settimeout(TIMEOUT_S)
        return outer, inner, address

    def close(self, linger_s: float = 0.0) -> None:
        if not self.closed:
            self.closed = True
            self.relay.close(linger_s)
        self._open.close()
        self.target.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(limit=getattr(request, "param", 4))
    yield bench
    bench.close()


def read_all(end: socket.socket) -> bytes:
    """Everything received until the other side ends the connection."""
    parts = []
    while part := end.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def within_the_time_limit(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_bytes_pass_both_ways_as_they_are_and_all_before_the_end(bench: Bench) -> None:
    outer, inner, _ = bench.pair()
    there, back = (random.Random(seed).randbytes(20 * BUFFER_NBYTES + 7) for seed in (1, 2))
    heard: list[bytes] = []

    def answer() -> None:
        heard.append(read_all(inner))
        inner.sendall(back)
        inner.close()

    thread = in_thread(answer)
    outer.sendall(there)
    outer.shutdown(socket.SHUT_WR)
    assert read_all(outer) == back
    thread.join()
    assert heard == [there]
    within_the_time_limit(lambda: bench.relay.take_ended() == [1])


def test_a_side_that_does_not_read_holds_up_no_other_connection(bench: Bench) -> None:
    stuck, unread, _ = bench.pair()
    stuck.settimeout(0.2)
    with pytest.raises(TimeoutError):
        stuck.sendall(bytes(256 << 20))
    outer, inner, _ = bench.pair()
    outer.sendall(b"hello")
    assert inner.recv(10) == b"hello"
    assert unread.recv(1)


@pytest.mark.parametrize("bench", [2], indirect=True)
def test_connections_over_the_limit_are_closed_and_one_that_ends_makes_room(bench: Bench) -> None:
    first, its_inner, _ = bench.pair()
    bench.pair()
    for _ in range(20):
        assert read_all(bench.outer()) == b""
    first.close()
    assert read_all(its_inner) == b""
    its_inner.close()  # as ZeroMQ does
    within_the_time_limit(lambda: bench.relay.take_ended())
    outer, inner, _ = bench.pair()
    outer.sendall(b"late")
    assert inner.recv(10) == b"late"


def test_a_connection_that_is_cut_ends_on_both_sides_and_no_other(bench: Bench) -> None:
    bad_outer, bad_inner, bad_address = bench.pair()
    good_outer, good_inner, good_address = bench.pair()
    assert bad_address != good_address
    number = bench.relay.prove(bad_address)
    assert number is not None
    bench.relay.cut(number)
    assert not bench.relay.is_open(number), "nothing more is heard of it, at once"
    assert read_all(bad_outer) == b""
    assert read_all(bad_inner) == b""
    good_outer.sendall(b"still here")
    assert good_inner.recv(20) == b"still here"
    bench.relay.cut(number)  # the second time nothing happens
    assert bench.relay.take_ended() == [number]


def test_numbers_are_never_used_again(bench: Bench) -> None:
    numbers = []
    for _ in range(20):
        outer, inner, address = bench.pair()
        numbers.append(bench.relay.prove(address))
        outer.close()
        inner.close()
    assert numbers == list(range(1, 21))
    within_the_time_limit(lambda: not bench.relay._connections)
    assert bench.relay._by_address == {}


def test_what_was_sent_before_the_end_leaves_within_the_linger_time(bench: Bench) -> None:
    outer, inner, _ = bench.pair()
    last = bytes(4 * BUFFER_NBYTES)
    heard: list[bytes] = []

    def send_and_end() -> None:
        inner.sendall(last)
        inner.close()

    thread = in_thread(send_and_end)
    reader = in_thread(lambda: heard.append(read_all(outer)))
    thread.join()
    bench.closed = True
    bench.relay.close(TIMEOUT_S)
    reader.join()
    assert heard == [last]


def test_a_silent_end_of_zeromq_ends_the_connection_from_outside(bench: Bench) -> None:
    outer, inner, _ = bench.pair()
    inner.close()
    assert read_all(outer) == b""


def test_an_address_that_is_taken_is_told() -> None:
    in_use = str(errno.EADDRINUSE)  # the text differs between systems
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match=in_use):
        listen("127.0.0.1", other.getsockname()[1], 1)


def test_a_process_of_this_host_cannot_pass_the_relay_by(tmp_path: Path) -> None:
    with open_house(tmp_path) as house, zmq.Context() as context:
        remote = house.endpoints._remote
        assert remote is not None
        keys = house.key()
        with context.socket(zmq.DEALER) as peer:
            peer.linger = 0
            peer.curve_publickey = keys.public.encode()
            peer.curve_secretkey = keys.secret.encode()
            peer.curve_serverkey = keys.server.encode()
            monitor = peer.get_monitor_socket(zmq.Event.HANDSHAKE_FAILED_AUTH)
            peer.connect(remote.socket.getsockopt_string(zmq.LAST_ENDPOINT))
            peer.send(wire.encode(wire.Ping()))
            assert monitor.poll(round(TIMEOUT_S * 1000)), "it has a good key, and is refused"
            peer.disable_monitor()
            monitor.close(linger=0)
        assert house.turn() == []


def test_a_failure_ends_neither_the_relay_nor_its_connections(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_once() -> None:
        monkeypatch.undo()
        raise RuntimeError("a defect")

    outer, inner, _ = bench.pair()
    monkeypatch.setattr(bench.relay, "_accept", fail_once)
    late, its_inner, _ = bench.pair()
    for there, here in ((outer, inner), (late, its_inner)):
        there.sendall(b"hello")
        assert here.recv(10) == b"hello"
    assert "a defect" in caplog.text
