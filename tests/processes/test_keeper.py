"""The keeper of child processes: whenever it is asked to stop, it ends in order."""

from __future__ import annotations

import sys
import threading

from refocusd.processes.keeper import Keeper

#: Ends with its standard input.
CHILD = [sys.executable, "-c", "import sys; sys.stdin.read()"]


class _Order(bytes):
    """An order whose keeper is asked to stop between the child's start and the order's writing."""

    keeper: Keeper

    def __bool__(self) -> bool:
        self.keeper.ask_to_stop()
        return True


def test_asked_to_stop_while_it_starts_a_child_it_ends_in_order() -> None:
    order, ended = _Order(b"go\n"), threading.Event()
    keeper = order.keeper = Keeper("a child", CHILD, order, on_end=ended.set)
    keeper.start()
    assert ended.wait(30)
    keeper.stop()
    assert keeper.pid is None


def test_a_child_that_ends_gets_a_successor_until_it_is_stopped() -> None:
    told: list[bytes] = []
    twice, ended = threading.Event(), threading.Event()

    def line(said: bytes) -> None:
        told.append(said)
        if len(told) == 2:
            twice.set()

    command = [sys.executable, "-c", "import sys; print(sys.stdin.readline().strip(), flush=True)"]
    keeper = Keeper("a child", command, b"order\n", on_line=line, on_end=ended.set)
    keeper.start()
    assert twice.wait(30)
    keeper.stop()
    assert ended.is_set()
    assert {said.strip() for said in told} == {b"order"}


def test_a_child_that_gives_a_hopeless_status_has_no_successor() -> None:
    told: list[bytes] = []
    ended = threading.Event()
    command = [sys.executable, "-c", "raise SystemExit(2)"]
    keeper = Keeper("a child", command, on_line=told.append, hopeless=(2,), on_end=ended.set)
    keeper.start()
    assert ended.wait(30)
    keeper.stop()
    assert told == [b""]
