"""What `refocusd verify` finds, something mends: it says what, and that is tried here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest
from finished import flip_a_pixel, key, ledger_of, raw_dataset, refocusd, snapshot, told, verify

from refocusd.datasets.dataset import Output
from refocusd.datasets.identity import Recognition
from refocusd.datasets.reconcile import Problem, ProblemKind, Report
from refocusd.datasets.run_folder import RUN_FILE
from refocusd.datasets.verify import RunCheck
from refocusd.ledger import Attempt, Ledger

FRAMES = 6


def check_of(
    *problems: Problem, unreadable: bool = False, recognition: Recognition | None = None
) -> RunCheck:
    output = Output(Path("/out"), "a", "r", "/raw", {}, {})
    report = Report(FRAMES, {}, (), 0, problems, 0, 0, 0)
    return RunCheck(
        *(output, report, (), (), False, False, recognition),
        raw="/raw",
        refocused_unreadable=unreadable,
    )


@pytest.mark.parametrize("kind", get_args(ProblemKind))
def test_each_kind_of_problem_has_something_that_mends_it(kind: ProblemKind) -> None:
    detail = "raw: cut short" if kind == "unreadable" else ""
    (advice,) = check_of(Problem(kind, key(0), detail)).advice()
    assert any(f"`refocusd {name}" in advice for name in ("resume", "process")) or "copy" in advice


def test_a_refocused_dataset_that_cannot_be_opened_has_as_well() -> None:
    (advice,) = check_of(unreadable=True).advice()
    assert f"move {Path('/out')} away" in advice
    assert "`refocusd process /raw`" in advice


def test_a_dataset_that_cannot_be_opened_is_not_to_be_resumed() -> None:
    lost = Problem("missing from the dataset", key(0))
    (advice,) = check_of(lost, unreadable=True).advice()
    assert "resume" not in advice


def test_nothing_is_advised_of_frames_of_another_recording() -> None:
    """What to do with another recording is said once; `resume` would refuse it."""
    other = Recognition(1, ("frame 0 is another one",), another=True)
    changed = Problem("raw changed since", key(0)), Problem("failed", key(1))
    assert check_of(*changed, recognition=other).advice() == []


def test_a_frame_with_two_problems_is_one_frame() -> None:
    twice = [Problem(kind, key(0)) for kind in ("raw incomplete", "not in raw")]
    (advice,) = check_of(*twice).advice()
    assert advice.startswith("1 raw frame ")


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


def shown(capsys: pytest.CaptureFixture[str], dataset: Path, place: Path) -> tuple[int, str]:
    """Exit status of `verify`, and all that it says."""
    capsys.readouterr()
    status, said = told("verify", dataset, place=place)
    return status, " ".join((capsys.readouterr().out + said).split())


def aside(place: Path) -> None:
    """Move the refocused dataset away, as the advice says."""
    (place / "aside").mkdir()
    (place / "raw_refocused").rename(place / "aside" / "raw_refocused")


@pytest.mark.parametrize("lost", ["NDTiff.index", "*.tif"])
def test_what_a_refocused_dataset_has_lost_is_made_again_once_it_is_moved_away(
    place: Path, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (place / "raw_refocused").glob(lost):
        file.unlink()
    status, said = shown(capsys, place / "raw", place)
    assert status == 1
    assert "the refocused dataset cannot be read" in said
    assert "refocusd resume" not in said
    aside(place)
    assert refocusd("process", place / "raw", place=place).returncode == 0
    assert verify(place / "raw", place=place)[0] == 0


def test_an_omezarr_that_lost_its_list_of_frames_is_made_again_once_it_is_moved_away(
    place: Path,
) -> None:
    aside(place)
    done = refocusd("process", place / "raw", "--sink", "ome-zarr", place=place)
    assert done.returncode == 0, done.stderr
    (place / "raw_refocused" / "refocusd" / "frames.jsonl").unlink()
    status, report = verify(place / "raw", place=place)
    assert status == 1
    (run,) = report["runs"]
    assert any("has lost its list of frames" in fault for fault in run["faults"])
    assert {p["kind"] for p in run["problems"]} == {"missing from the dataset"}
    (place / "raw_refocused").rename(place / "aside" / "zarr_refocused")
    assert refocusd("process", place / "raw", place=place).returncode == 0
    assert verify(place / "raw", place=place)[0] == 0


def test_an_output_is_well_again_beside_raw_that_was_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path  # not a copy of the others: raw is to be nowhere else
    assert refocusd("process", raw_dataset(place / "raw", 2), place=place).returncode == 0
    (place / "archive").mkdir()
    (place / "raw").rename(place / "archive" / "raw")
    status, said = shown(capsys, place / "raw_refocused", place)
    assert status == 1
    assert "put them back, or move" in said
    (place / "raw_refocused").rename(place / "archive" / "raw_refocused")
    assert verify(place / "archive" / "raw_refocused", place=place)[0] == 0


@pytest.mark.parametrize("damage", ["lost", "illegible"])
def test_without_its_run_file_an_output_is_to_be_moved_away(
    place: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file = place / "raw_refocused" / RUN_FILE
    run_file.unlink() if damage == "lost" else run_file.write_text("{")
    status, said = shown(capsys, place / "raw_refocused", place)
    assert status == 2
    assert "away and refocus the raw data once more" in said
    aside(place)
    assert refocusd("process", place / "raw", place=place).returncode == 0
    assert verify(place / "raw", place=place)[0] == 0


def test_raw_frames_that_changed_for_good_are_refocused_elsewhere(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_a_pixel(place / "raw", key(3))
    assert "--output FOLDER" in shown(capsys, place / "raw", place)[1]
    done = refocusd("process", place / "raw", "--output", place / "anew", place=place)
    assert done.returncode == 0, done.stderr
    assert verify(place / "anew" / "raw_refocused", place=place)[0] == 0
