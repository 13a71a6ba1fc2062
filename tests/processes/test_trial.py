"""One order in a separate process: whatever happens gives one report or one error."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from refocusd.errors import WorkerError
from refocusd.processes.trial import attempt

pytestmark = pytest.mark.fast

CHILD = """
import os, sys
import msgspec
from refocusd.processes.order import read_order
from refocusd.processes.trial import REFUSED, print_report


class Order(msgspec.Struct):
    what: str


class Report(msgspec.Struct):
    said: str


order = read_order(Order)
print("a library that talks, without a line's end", end="")
if order.what == "refuse":
    print("there is no such engine", file=sys.stderr)
    sys.exit(REFUSED)
if order.what == "crash":
    os.abort()
if order.what == "hang":
    sys.stdin.close()
    __import__("time").sleep(600)
if order.what != "say nothing":
    print_report(Report(order.what))
"""


class Order(msgspec.Struct):
    """The order for the child."""

    what: str


class Report(msgspec.Struct):
    """The child's report."""

    said: str


@pytest.fixture(autouse=True)
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trial_child.py").write_text(CHILD, encoding="utf-8")
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def done(what: str, limit_s: float = 60.0) -> str:
    return attempt("trial_child", Order(what), Report, limit_s).said


def test_a_report_comes_back_whatever_else_was_printed() -> None:
    assert done("tell") == "tell"


def test_a_refusal_is_reported_in_the_childs_own_words() -> None:
    with pytest.raises(WorkerError, match=r"^there is no such engine$"):
        done("refuse")


def test_a_crash_is_reported_with_its_status() -> None:
    with pytest.raises(WorkerError, match=r"^crashed \(status -?\d+\)"):
        done("crash")


def test_a_process_that_hangs_is_ended() -> None:
    with pytest.raises(WorkerError, match="not done after 1 s"):
        done("hang", limit_s=1.0)


def test_a_process_without_a_report_is_reported() -> None:
    with pytest.raises(WorkerError, match="gave no report"):
        done("say nothing")
