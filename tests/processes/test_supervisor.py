"""The supervisor of a child process restarts it, gives it up, and ends cleanly on request."""

from __future__ import annotations

import os
import sys
import threading
import time

import msgspec
import pytest

from refocusd.backoff import BackOff
from refocusd.processes.supervisor import Action, End, Supervisor

pytestmark = pytest.mark.fast

#: Ends with its standard input.
WAITS = ["-c", "import sys; print('up', flush=True); sys.stdin.read()"]
#: Does not end on request.
DEAF = ["-c", "import time; print('up', flush=True); time.sleep(600)"]
#: Prints its order and ends.
ECHOES = ["-c", "import sys; print(sys.stdin.readline().strip(), flush=True)"]


class Greeting(msgspec.Struct):
    """An order that names its recipient."""

    to: str


def at_once() -> BackOff:
    return BackOff(0.01, 0.01)


def test_asked_to_stop_while_it_starts_a_child_it_ends_in_order() -> None:
    over = threading.Event()

    def order(identity: str) -> Greeting:
        supervisor.ask_to_stop()
        return Greeting(identity)

    supervisor = Supervisor("a child", WAITS, order=order, on_over=over.set)
    supervisor.start()
    assert over.wait(30)
    supervisor.stop()
    assert supervisor.pid is None


def test_a_child_that_ends_gets_a_successor_until_it_is_stopped() -> None:
    lines: list[bytes] = []
    twice, over = threading.Event(), threading.Event()

    def line(said: bytes) -> None:
        lines.append(said)
        if len(lines) == 2:
            twice.set()

    supervisor = Supervisor(
        "child", ECHOES, order=Greeting, on_line=line, on_over=over.set, back_off=at_once()
    )
    supervisor.start()
    assert twice.wait(30)
    supervisor.stop()
    assert over.is_set()
    assert [line.strip() for line in lines[:2]] == [b'{"to":"child.1"}', b'{"to":"child.2"}']


def test_a_child_that_is_given_up_has_no_successor() -> None:
    ends: list[End] = []
    over = threading.Event()

    def decide(end: End) -> Action:
        ends.append(end)
        return Action.GIVE_UP

    supervisor = Supervisor("child", ["-c", "raise SystemExit(2)"], on_end=decide, on_over=over.set)
    supervisor.start()
    assert over.wait(30)
    supervisor.stop()
    assert ends == [End("child.1", 2)]


def test_a_child_that_asks_for_a_successor_gets_it_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    twice = threading.Event()
    ends: list[End] = []

    def decide(end: End) -> Action:
        ends.append(end)
        if len(ends) == 2:
            twice.set()
        return Action.REPLACE

    supervisor = Supervisor("child", ["-c", ""], on_end=decide, back_off=at_once())
    supervisor.start()
    assert twice.wait(30)
    supervisor.stop()
    assert "ended" not in caplog.text


def test_a_child_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    up = threading.Event()
    supervisor = Supervisor("child", WAITS, on_line=lambda _: up.set(), back_off=at_once())
    tries: list[float] = []

    class Waits(BackOff):
        def take_s(self, lasted_s: float = 0.0) -> float:
            tries.append(lasted_s)
            if len(tries) == 3:
                monkeypatch.undo()
            return 0.0

    supervisor._back_off = Waits()
    monkeypatch.setattr(sys, "executable", os.devnull + "/none")
    supervisor.start()
    assert up.wait(30)
    supervisor.stop()
    assert len(tries) >= 3
    assert "cannot be started" in caplog.text


def test_a_child_that_is_killed_is_replaced() -> None:
    pids: list[int | None] = []
    up = threading.Semaphore(0)

    def line(_: bytes) -> None:
        pids.append(supervisor.pid)
        up.release()

    supervisor = Supervisor("child", WAITS, on_line=line, back_off=at_once())
    supervisor.start()
    assert up.acquire(timeout=30)
    supervisor.kill()
    assert up.acquire(timeout=30)
    assert supervisor.identity == "child.2"
    supervisor.stop()
    assert None not in pids
    assert pids[0] != pids[1]


def test_stopping_a_child_that_does_not_listen_takes_a_bounded_time() -> None:
    up = threading.Event()
    supervisor = Supervisor("child", DEAF, on_line=lambda _: up.set(), stop_s=0.2)
    supervisor.start()
    assert up.wait(30)
    begun = time.monotonic()
    supervisor.stop()
    assert supervisor.pid is None
    assert time.monotonic() - begun < 30


def test_stopping_a_supervisor_that_was_never_started_is_no_error() -> None:
    Supervisor("child", WAITS).stop()
