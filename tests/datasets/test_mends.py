"""What `refocusd verify` finds, something mends: it says what, and that is tried here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest
from finished import flip_a_pixel, key, ledger_of, raw_dataset, refocusd, snapshot, told, verify

from refocusd.datasets.dataset import Output
from refocusd.datasets.reconcile import Problem, ProblemKind, Report
from refocusd.datasets.verify import RunCheck
from refocusd.ledger import Attempt, Ledger

FRAMES = 6


def check_of(*problems: Problem, unreadable: bool = False) -> RunCheck:
    output = Output(Path("/out"), "a", "r", "/raw", {}, {})
    report = Report(FRAMES, {}, (), 0, problems, 0, 0, 0)
    return RunCheck(
        output, report, (), (), running=False, raw="/raw", refocused_unreadable=unreadable
    )


@pytest.mark.parametrize("kind", get_args(ProblemKind))
def test_each_kind_of_problem_has_something_that_mends_it(kind: ProblemKind) -> None:
    detail = "raw: cut short" if kind == "unreadable" else ""
    (advice,) = check_of(Problem(kind, key(0), detail)).advice()
    assert any(f"`refocusd {name}" in advice for name in ("resume", "process")) or "copy" in advice


def test_a_refocused_dataset_that_cannot_be_opened_has_as_well() -> None:
    (advice,) = check_of(unreadable=True).advice()
    assert "move /out away" in advice
    assert "`refocusd process /raw`" in advice


def test_where_nothing_is_wrong_nothing_is_advised() -> None:
    assert check_of().advice() == []


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("master")
    raw_dataset(place / "raw", FRAMES)
    done = refocusd("process", place / "raw", place=place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def place(master: Path, tmp_path: Path) -> Path:
    shutil.copytree(master, tmp_path / "moved")
    return tmp_path / "moved"


def test_what_the_ledger_says_of_frames_that_are_there_is_put_right_by_resume(place: Path) -> None:
    (run,) = verify(place / "raw", place=place)[1]["runs"]
    with Ledger(ledger_of(place)) as ledger:
        said = (run["run"], run["acquisition"])
        ledger.record([Attempt(*said, key(1), "skipped", "why"), Attempt(*said, key(2), "failed")])
    there = snapshot(place / "raw", place / "raw_refocused")
    status, told_ = told("verify", place / "raw", place=place)
    assert status == 1
    status, report = verify(place / "raw", place=place)
    assert {p["kind"] for p in report["runs"][0]["problems"]} == {"state differs"}
    assert refocusd("resume", place / "raw", place=place).returncode == 0
    assert verify(place / "raw", place=place)[0] == 0
    kept = snapshot(place / "raw", place / "raw_refocused")
    assert {k: v for k, v in kept.items() if not k.endswith(".sqlite")} == {
        k: v for k, v in there.items() if not k.endswith(".sqlite")
    }, told_


def test_damaged_refocused_frames_are_made_again_once_they_are_moved_away(place: Path) -> None:
    flip_a_pixel(place / "raw_refocused", key(3))
    status, report = verify(place / "raw", place=place)
    assert status == 1
    assert {p["kind"] for p in report["runs"][0]["problems"]} == {"refocused pixels changed"}
    (place / "aside").mkdir()
    (place / "raw_refocused").rename(place / "aside" / "raw_refocused")
    done = refocusd("process", place / "raw", place=place)
    assert done.returncode == 0, done.stderr
    assert verify(place / "raw", place=place)[0] == 0
    assert (place / "aside" / "raw_refocused").exists()


def test_raw_frames_that_changed_are_well_again_once_they_are_put_back(place: Path) -> None:
    shutil.copytree(place / "raw", place / "copy")
    flip_a_pixel(place / "raw", key(3))
    status, report = verify(place / "raw", place=place)
    assert status == 1
    assert {p["kind"] for p in report["runs"][0]["problems"]} == {"raw changed since"}
    shutil.rmtree(place / "raw")
    (place / "copy").rename(place / "raw")
    assert verify(place / "raw", place=place)[0] == 0
