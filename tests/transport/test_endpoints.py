"""The daemon's endpoints: who is accepted, who is refused, and that neither harms the others."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from house import FRAME_NBYTES, House, in_background, open_house
from waiting import PATIENCE_S

from refocusd.errors import ConfigError, TransportError
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.transport.secure.endpoints import Endpoints, allowed_roles
from refocusd.transport.secure.keys import ClientKeys, KeyStore
from refocusd.transport.secure.link import RemoteLink
from refocusd.transport.secure.local_endpoint import LocalEndpoint
from refocusd.transport.secure.remote_endpoint import RemoteEndpoint, listen_address

pytestmark = pytest.mark.fast


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as house:
        yield house


# -- who is accepted ------------------------------------------------------------------------


def test_a_good_key_comes_in_under_its_name(house: House) -> None:
    with house.peer(house.key("gpu-2")) as connection:
        (identity,) = house.hello()
        assert connection.welcome(5).protocol == wire.PROTOCOL
        assert house.endpoints.remote(identity) == "gpu-2"
        identity.decode("ascii")


def test_a_key_made_while_the_daemon_listens_is_good_at_once(house: House) -> None:
    with house.peer(house.key("first")):
        house.hello()
    with house.peer(house.key("second")) as connection:
        house.hello()
        connection.welcome(5)


def test_pixels_pass_both_ways_as_they_are(house: House) -> None:
    pixels = bytes(range(256)) * (FRAME_NBYTES // 256)
    with house.peer(house.key()) as connection:
        (identity,) = house.hello()
        assert house.endpoints.send(identity, [wire.encode(wire.Ping()), memoryview(pixels)])
        connection.welcome(5)
        received = connection.receive_parts(5)
        assert received is not None
        assert received[1] is not None
        assert bytes(received[1]) == pixels
        connection._socket.send_multipart([wire.encode(wire.Ping()), pixels])
        # On a slow computer, a heartbeat comes first.
        while not (sent := [parts for _, parts in house.next() if len(parts) > 1]):
            pass
        assert sent[0][1] == pixels


def test_the_local_endpoint_takes_processes_of_the_same_user(house: House) -> None:
    with Connection(house.endpoints.local_endpoint, "source", inline=True) as connection:
        (identity,) = house.hello()
        connection.welcome(5)
        assert house.endpoints.remote(identity) is None


def test_a_local_peer_cannot_pass_for_a_remote_one(house: House) -> None:
    with house.peer(house.key("gpu-2")):
        (remote,) = house.hello()
        with (
            Connection(
                house.endpoints.local_endpoint, "worker", identity=remote.decode(), inline=True
            ),
            Connection(house.endpoints.local_endpoint, "worker", identity="honest", inline=True),
        ):
            assert house.hello() == [b"honest"]


def test_a_remote_peer_cannot_choose_what_it_is_called(house: House) -> None:
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())

        def calling_itself(name: bytes, keys: ClientKeys) -> zmq.Socket[bytes]:
            peer = stack.enter_context(context.socket(zmq.DEALER))
            peer.linger = 0
            peer.curve_publickey = keys.public.encode()
            peer.curve_secretkey = keys.secret.encode()
            peer.curve_serverkey = keys.server.encode()
            peer.setsockopt(zmq.IDENTITY, name)
            peer.connect(house.endpoints.remote_endpoint)
            peer.send(wire.encode(wire.Ping()))
            return peer

        first = calling_itself(b"worker-0.1", house.key("first"))
        ((identity, _),) = house.next()
        assert identity.startswith(b"@first/")
        # Another peer that chooses the same name takes nothing from it.
        calling_itself(b"worker-0.1", house.key("second"))
        with house.peer(house.key("third")):
            house.hello()
        assert house.endpoints.send(identity, [b"for the first"])
        assert first.recv() == b"for the first"


def test_a_remote_peer_may_only_be_a_worker() -> None:
    assert allowed_roles("gpu-2") == {"worker"}
    assert {"source", "worker", "control"} <= allowed_roles(None)


# -- lost peers -----------------------------------------------------------------------------


def test_a_peer_that_is_revoked_is_cut_off_and_no_other(house: House) -> None:
    bad, good = house.key("bad"), house.key("good")
    with house.peer(bad) as cut, house.peer(good) as kept:
        names = {house.endpoints.remote(identity): identity for identity in house.hello(2)}
        cut.welcome(5)
        kept.welcome(5)
        house.store.revoke("bad")
        house.until(lambda: house.gone)
        assert list(house.gone) == [names["bad"]]
        assert "revoked" in house.gone[names["bad"]]
        assert not house.endpoints.send(names["bad"], [b"x"])
        # It notices that it was cut off, reconnects by itself, and is refused.
        deadline = time.monotonic() + PATIENCE_S
        while not cut.key_refused:
            assert time.monotonic() < deadline
            cut.receive(0.1)
            house.turn()
        kept.send(wire.Ping())
        assert [identity for identity, _ in house.next()] == [names["good"]]
        assert kept.lost == ""


def test_nothing_is_heard_of_a_peer_once_it_is_revoked(house: House) -> None:
    with house.peer(house.key("bad")) as connection:
        house.hello()
        connection.welcome(5)
        house.store.revoke("bad")
        deadline = time.monotonic() + PATIENCE_S
        remote = house.endpoints._remote
        assert remote is not None
        while remote.good:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        connection.send(wire.Ping())
        assert house.until(lambda: house.gone) == []


def test_a_link_that_ends_is_told_once(house: House) -> None:
    with house.peer(house.key("gpu-2")) as connection:
        (identity,) = house.hello()
        connection.welcome(5)
    house.until(lambda: house.gone)
    assert list(house.gone) == [identity]
    house.gone.clear()
    for _ in range(10):
        house.turn()
    assert house.gone == {}
    assert house.endpoints.remote(identity) == "gpu-2", "what is gone is never taken for local"


def test_a_peer_can_be_cut_and_comes_back_as_another(house: House) -> None:
    with house.peer(house.key("gpu-2")) as connection:
        (before,) = house.hello()
        connection.welcome(5)
        house.endpoints.cut(before, "it hung")
        house.until(lambda: house.gone)
        assert house.gone == {before: "it hung"}
        while not connection.lost:
            connection.receive(0.1)
        assert "was cut" in connection.lost
        assert connection.hello_again()
        (after,) = house.hello()
        connection.welcome(5)
        assert connection.lost == ""
        assert after != before
        assert house.endpoints.remote(after) == "gpu-2"
        assert house.gone == {before: "it hung"}


def test_many_reconnections_leave_nothing_behind(house: House) -> None:
    keys = house.key()
    for _ in range(30):
        with house.peer(keys):
            house.hello()
    house.until(lambda: len(house.gone) == 30)
    assert house.endpoints._links == {}
    assert house.endpoints._by_number == {}
    deadline = time.monotonic() + PATIENCE_S
    remote = house.endpoints._remote
    assert remote is not None
    while remote.relay._connections:
        assert time.monotonic() < deadline


def test_peers_that_leave_before_they_are_heard_leave_nothing_behind(house: House) -> None:
    """Their descriptors belong to others by the time their messages are read."""
    keys = house.key()
    for _ in range(5):
        with house.peer(keys) as connection:
            assert isinstance(connection._link, RemoteLink)
            deadline = time.monotonic() + PATIENCE_S
            while not connection._link.was_up:
                assert time.monotonic() < deadline
                connection.receive(0.05)
            connection.close(linger_s=1)
    with house.peer(keys) as last:
        welcomed, said = in_background(lambda: last.welcome(10))
        house.until(lambda: said)
        welcomed.join()
        assert not isinstance(said[0], TransportError)
        house.until(lambda: len(house.endpoints._links) == 1)
        last.send(wire.Ping())
        assert len(house.next()) == 1


# -- fair, bounded, tidy --------------------------------------------------------------------


def test_the_endpoints_take_turns(house: House) -> None:
    with (
        Connection(house.endpoints.local_endpoint, "source", inline=True) as near,
        house.peer(house.key()) as far,
    ):
        names = house.hello(2)
        remote = next(name for name in names if house.endpoints.remote(name))
        assert far.send(wire.Ping())
        for _ in range(500):
            assert near.send(wire.Ping())
        while len(ready := dict(house.poller.poll(5000))) < 2:
            assert ready, "both endpoints have something to say"
        batches = [[identity for identity, _ in house.endpoints.receive(ready)]]
        assert batches[0].index(remote) < 2
        while sum(map(len, batches)) < 501:
            batches.append([identity for identity, _ in house.turn()])
        assert max(map(len, batches)) <= 64, "a bounded batch, then others get their turn"


def test_a_peer_that_does_not_read_holds_nobody_up(house: House) -> None:
    with house.peer(house.key()):
        (identity,) = house.hello()
        frame = memoryview(bytes(FRAME_NBYTES))
        sent = sum(house.endpoints.send(identity, [b"x", frame]) for _ in range(1500))
        assert sent < 1500


def test_sending_to_nobody_is_told(house: House) -> None:
    assert not house.endpoints.send(b"@gpu-2/0000000000", [b"x"])


def test_closed_endpoints_leave_no_thread_and_no_port(tmp_path: Path) -> None:
    before = threading.active_count()
    with open_house(tmp_path) as house, house.peer(house.key()):
        house.hello()
        address = house.address
    assert threading.active_count() == before
    with socket.create_server(address):
        pass


def test_without_a_remote_endpoint_there_is_only_the_local_one() -> None:
    endpoints = Endpoints(LocalEndpoint("tcp://127.0.0.1:0"))
    assert endpoints.remote_endpoint == ""
    assert endpoints.gone() == []
    endpoints.close(linger=0)


def test_a_remote_address_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        address = f"tcp://127.0.0.2:{other.getsockname()[1]}"
        before = threading.active_count()
        with pytest.raises(TransportError, match="choose another"):
            Endpoints(
                LocalEndpoint("tcp://127.0.0.1:0"),
                RemoteEndpoint(address, KeyStore(tmp_path / "keys")),
            )
        assert threading.active_count() == before


@pytest.mark.parametrize(
    "address",
    ["", "tcp://", "tcp://:1", "127.0.0.1:8751", "tcp://127.0.0.1", "tcp://a:b", "tcp://a:65536"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="tcp://HOST:PORT"):
        listen_address(address)


def test_a_peer_with_keys_takes_no_other_name(house: House) -> None:
    keys = house.key()
    with pytest.raises(TransportError, match="a peer with a key is named by the key"):
        Connection(house.endpoints.remote_endpoint, "worker", identity="me", keys=keys)
