"""What the broker knows about its peers: who is slow, who hangs, who is forgotten."""

from __future__ import annotations

import time

import pytest

from refocusd import __version__
from refocusd.daemon import peers as module
from refocusd.daemon.acquisitions.state import Lane, Task
from refocusd.daemon.peers import MAX_PEERS, MAX_REFUSALS, Peers
from refocusd.daemon.workers.worker import HUNG_AT_LEAST_S, HUNG_FACTOR, WorkerPeer
from refocusd.errors import TransportError
from refocusd.transport import messages as wire
from refocusd.transport.ring import Slot

pytestmark = pytest.mark.fast

TIMEOUT_S = 600.0


def holding(worker: WorkerPeer, nbytes: int, for_s: float) -> Task:
    """A frame of `nbytes` that the worker has had for `for_s` seconds."""
    submit = wire.Submit("a", '{"time":0}', Slot(0, nbytes), 0, "{}", 0)
    task = Task(len(worker.tasks) + 1, "a", submit, Lane(b"s", live=True))
    task.sent_at = time.monotonic() - for_s
    worker.tasks.append(task)
    return task


def hello(role: wire.Role, **changes: object) -> wire.Hello:
    values = {"protocol": wire.PROTOCOL, "version": __version__, "role": role, "pid": 1}
    return wire.Hello(**(values | changes))  # type: ignore[arg-type]


# -- workers -------------------------------------------------------------------------------


def test_a_new_worker_gets_the_whole_time_out() -> None:
    worker = WorkerPeer(b"w", 1, inline=False)
    holding(worker, 1000, TIMEOUT_S - 60)
    assert not worker.is_hung(TIMEOUT_S)
    worker.tasks[0].sent_at -= 120
    assert worker.is_hung(TIMEOUT_S)


def test_a_worker_is_presumed_hung_by_the_time_that_a_byte_took_it() -> None:
    worker = WorkerPeer(b"w", 1, inline=False)
    assert worker.finish(holding(worker, 1000, for_s=2.0).number)
    assert worker.s_per_byte == pytest.approx(2e-3, rel=0.1)
    large = holding(worker, 10_000, for_s=0.5 * HUNG_FACTOR * 20.0)
    assert not worker.is_hung(TIMEOUT_S)
    large.sent_at -= HUNG_FACTOR * 20.0
    assert worker.is_hung(TIMEOUT_S)
    worker.tasks.clear()
    small = holding(worker, 1, for_s=0.5 * HUNG_AT_LEAST_S)
    assert not worker.is_hung(TIMEOUT_S)
    small.sent_at -= HUNG_AT_LEAST_S
    assert worker.is_hung(TIMEOUT_S)


def test_the_next_frame_of_a_worker_starts_when_it_answers_the_one_before() -> None:
    worker = WorkerPeer(b"w", 1, inline=False)
    first, second = holding(worker, 1000, for_s=60.0), holding(worker, 1000, for_s=60.0)
    assert worker.finish(first.number) is first
    assert time.monotonic() - second.sent_at < 30.0
    assert worker.finish(first.number) is None, "it has answered that one"


def test_a_worker_with_a_frame_is_busy_and_not_silent() -> None:
    worker = WorkerPeer(b"w", 1, inline=False, ready=True)
    worker.heard_at -= 60.0
    assert worker.is_silent(10.0)
    holding(worker, 1000, for_s=0.0)
    assert not worker.is_silent(10.0)


# -- peers ---------------------------------------------------------------------------------


def test_who_only_asked_something_makes_room_for_others() -> None:
    peers = Peers("token")
    for number in range(MAX_PEERS):
        role: wire.Role = "control" if number in (3, 4) else "source"
        assert not peers.greet(b"%d" % number, hello(role), None)
    peers.heard(b"3")
    assert peers.greet(b"new", hello("source"), None) == [b"4"]
    assert peers.greet(b"another", hello("source"), None) == [b"3"]
    with pytest.raises(TransportError, match="peers are connected"):
        peers.greet(b"one too many", hello("source"), None)
    assert len(peers) == MAX_PEERS
    # Nobody takes the places of workers.
    assert not peers.greet(b"ours", hello("worker", token="token"), None)
    assert not peers.greet(b"far", hello("worker"), "gpu")
    assert not peers.greet(b"catch-up", hello("source", token="token"), None)


@pytest.mark.parametrize(
    ("changes", "remote", "says"),
    [
        ({"role": "worker"}, None, "must be started by this daemon"),
        ({"role": "source"}, "gpu", "on another host cannot be a source"),
        ({"role": "source", "protocol": 1}, None, "upgrade that side"),
        ({"role": "source", "protocol": wire.PROTOCOL + 1}, None, "upgrade the daemon"),
    ],
    ids=["no token", "remote source", "older", "newer"],
)
def test_a_peer_that_may_not_come_in_is_told_why(
    changes: dict[str, object], remote: str | None, says: str
) -> None:
    peers = Peers("token")
    with pytest.raises(TransportError, match=says):
        peers.greet(b"p", hello(**changes), remote)  # type: ignore[arg-type]
    with pytest.raises(TransportError, match="say Hello first"):
        peers.heard(b"p")


def test_our_own_workers_and_those_with_a_key_come_in() -> None:
    peers = Peers("token")
    peers.greet(b"ours", hello("worker", token="token"), None)
    peers.greet(b"far", hello("worker"), "gpu")
    assert peers.heard(b"ours").trusted
    assert not peers.heard(b"far").trusted


def test_who_is_refused_too_often_is_dropped_and_counted() -> None:
    peers = Peers("token")
    peers.greet(b"ours", hello("worker", token="token"), None)
    refused = [peers.refused(b"flood") for _ in range(MAX_REFUSALS + 100)]
    assert refused.index(True) >= MAX_REFUSALS
    assert peers.is_dropped(b"flood")
    assert not peers.is_dropped(b"other")
    assert not any(peers.refused(b"ours") for _ in range(2 * MAX_REFUSALS))
    assert not peers.is_dropped(b"ours")


def test_refusals_now_and_then_are_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFUSALS_PER_S", 1e9)
    peers = Peers("token")
    assert not any(peers.refused(b"p") for _ in range(10 * MAX_REFUSALS))


def test_what_is_remembered_of_refused_peers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REFUSED_PEERS", 10)
    peers = Peers("token")
    for number in range(100):
        peers.refused(b"%d" % number)
    assert len(peers._patience) == 10


@pytest.mark.parametrize("role", ["source", "control", "view"])
def test_nobody_may_take_the_name_of_a_worker(role: wire.Role) -> None:
    with pytest.raises(TransportError, match="are this daemon's own"):
        Peers("token").greet(b"worker-0.2", hello(role), None)
