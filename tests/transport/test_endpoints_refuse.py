"""Whom the remote endpoint refuses, with which message, and that it continues to work."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from house import FRAME_NBYTES, House, in_background, open_house
from waiting import PATIENCE_S

from refocusd.errors import TransportError
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.transport.secure.keys import ClientKeys, KeyStore


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as house:
        yield house


def refusal(house: House, keys: ClientKeys | None, timeout_s: float = PATIENCE_S / 4) -> str:
    """The message to a peer that must be refused; the daemon receives nothing from it."""
    with house.peer(keys) as connection:
        thread, said = in_background(lambda: connection.welcome(timeout_s))
        assert house.until(lambda: said) == []
        thread.join()
    assert isinstance(said[0], TransportError)
    return str(said[0])


def closed_by_the_daemon(raw: socket.socket, timeout_s: float = PATIENCE_S) -> bool:
    """Whether the other side ends this TCP connection in time."""
    raw.settimeout(timeout_s)
    try:
        while raw.recv(1000):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_key_that_is_not_in_the_list_is_refused(house: House) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    stranger = ClientKeys("gpu-2", public, secret, house.store.server().public)
    assert "does not accept the key gpu-2" in refusal(house, stranger)


def test_a_revoked_key_is_refused(house: House) -> None:
    keys = house.key("gpu-2")
    house.store.revoke("gpu-2")
    assert "revoked" in refusal(house, keys)


def test_another_daemons_key_is_told_apart(house: House, tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "elsewhere").new("gpu-2", tmp_path / "elsewhere.key")
    assert "is not the daemon that made the key gpu-2" in refusal(house, keys, 1.0)


def test_a_peer_without_a_key_gets_no_answer(house: House) -> None:
    assert "is not a daemon of your user" in refusal(house, None, 1.0)


def test_a_key_at_an_endpoint_that_takes_none_is_told(house: House) -> None:
    keys = house.key("gpu-2")
    with (
        Connection(house.endpoints.local_endpoint, "worker", inline=True, keys=keys) as connection,
        pytest.raises(TransportError, match="accepts no keys at that port"),
    ):
        connection.welcome(1.0)


def test_nobody_there_is_told_as_that(house: House) -> None:
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    with (
        Connection(f"tcp://127.0.0.2:{port}", "worker", keys=house.key()) as connection,
        pytest.raises(TransportError, match=r"--listen.*firewall"),
    ):
        connection.welcome(0.5)


def test_what_is_no_zeromq_is_turned_away(house: House) -> None:
    with socket.create_connection(house.address) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: refocusd\r\n\r\n" * 50)
        assert closed_by_the_daemon(raw)
    with socket.create_connection(house.address) as raw:
        raw.sendall(bytes(range(256)) * 1000)
        assert closed_by_the_daemon(raw)
    with house.peer(house.key()) as connection:
        house.hello()
        connection.welcome(5)


def test_a_connection_that_says_nothing_is_closed(house: House) -> None:
    with socket.create_connection(house.address) as raw:
        begun = time.monotonic()
        assert closed_by_the_daemon(raw)
        assert time.monotonic() - begun < PATIENCE_S / 4


def test_a_connection_that_dribbles_is_closed(house: House) -> None:
    """A greeting that is correct so far arrives byte by byte and never ends."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(15) + bytes(32)
    with socket.create_connection(house.address) as raw, pytest.raises(ConnectionError):  # noqa: PT012 (any of the sends)
        for position in range(1000):
            raw.sendall(greeting[position % 64 :][:1])
            time.sleep(0.05)


def test_connections_over_the_limit_are_closed(tmp_path: Path) -> None:
    with open_house(tmp_path, connections=3, handshake_s=60.0) as house, ExitStack() as stack:
        connections = [stack.enter_context(house.peer(house.key())) for _ in range(2)]
        house.hello(2)
        first = stack.enter_context(socket.create_connection(house.address))
        for _ in range(5):
            extra = stack.enter_context(socket.create_connection(house.address))
            assert closed_by_the_daemon(extra)
        assert not closed_by_the_daemon(first, 0.2)
        for connection in connections:
            connection.welcome(5)
        # A connection that ends makes room.
        first.close()
        late = stack.enter_context(house.peer(house.key()))
        house.hello()
        late.welcome(5)


def test_a_message_that_is_too_large_ends_its_connection_only(house: House) -> None:
    with house.peer(house.key("greedy")) as greedy, house.peer(house.key("modest")) as modest:
        names = {house.endpoints.remote(identity): identity for identity in house.hello(2)}
        greedy.welcome(5)
        modest.welcome(5)
        greedy._socket.send_multipart([wire.encode(wire.Ping()), bytes(FRAME_NBYTES + (1 << 17))])
        found = house.until(lambda: house.gone)
        assert names["greedy"] in house.gone
        assert not any(len(parts) == 2 for _, parts in found)
        modest.send(wire.Ping())
        assert [identity for identity, _ in house.next()] == [names["modest"]]
