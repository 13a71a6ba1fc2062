"""`refocusd verify` says how to repair each fault that it finds; the advice is followed here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from finished import flip_a_pixel, key, ledger_of, raw_dataset, refocusd, snapshot, told, verify
from live import opened, pump_until, quick_settings, running, source, stack

from refocusd.datasets.identity import Recognition
from refocusd.datasets.output import Output
from refocusd.datasets.reconcile import Problem, ProblemKind, Report
from refocusd.datasets.run_folder import LEDGER_COPY, RUN_FILE
from refocusd.datasets.verify import RunCheck
from refocusd.formats.ndtiff.reader import NDTiffReader
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
    """The advice about another recording is given once; `resume` would refuse it."""
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


def last_record(dataset: Path) -> int:
    """Offset of the last record of an NDTiff index."""
    data = (dataset / "NDTiff.index").read_bytes()
    return data.rindex(b"{", 0, data.rindex(b'"time"')) - 4


def without_last_frame(dataset: Path) -> None:
    os.truncate(dataset / "NDTiff.index", last_record(dataset))


def written_twice(place: Path) -> None:
    index = place / "raw_refocused" / "NDTiff.index"
    data = index.read_bytes()
    index.write_bytes(data + data[last_record(index.parent) :])


def cut_short(place: Path) -> None:
    (stack,) = (place / "raw").glob("*.tif")
    os.truncate(stack, stack.stat().st_size - 2 * 64 * 64)


def without_metadata(dataset: Path) -> None:
    """Overwrite the metadata of a frame."""
    entry = NDTiffReader(dataset)._frames[key(2)]
    with (dataset / entry.file).open("rb+") as file:
        file.seek(entry.metadata_offset)
        file.write(b"\xff" * entry.metadata_length)


def attempts(place: Path, *states: str) -> None:
    """Record these attempts at frames 1, 2, ...; the dataset has lost the last of them."""
    (run,) = verify(place / "raw", "--quick", place=place)[1]["runs"]
    with Ledger(ledger_of(place)) as ledger:
        for number, state in enumerate(states, start=1):
            ledger.record([Attempt(run["run"], run["acquisition"], key(number), state, "why")])


def forgotten(place: Path, number: int = 3) -> None:
    for path in (ledger_of(place), place / "raw_refocused" / LEDGER_COPY):
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("DELETE FROM attempt WHERE axes = ?", (key(number),))


def pending(place: Path) -> None:
    without_last_frame(place / "raw_refocused")
    forgotten(place, FRAMES - 1)


def failed(place: Path) -> None:
    without_last_frame(place / "raw_refocused")
    attempts(place, *["passed_through"] * (FRAMES - 2), "failed")


def without(*names: str) -> Callable[[Path], None]:
    def lose(place: Path) -> None:
        for name in names:
            for file in place.glob(name):
                file.unlink()

    return lose


def moved(place: Path) -> None:
    (place / "archive").mkdir()
    (place / "raw").rename(place / "archive" / "raw")


def recorded_again(place: Path) -> None:
    shutil.rmtree(place / "raw")
    raw_dataset(place / "raw", 2, seed=9)


#: How to cause each kind of problem of a frame and each fault of a whole dataset.
DAMAGE: dict[str, Callable[[Path], object]] = {
    "failed": failed,
    "missing from the dataset": lambda place: without_last_frame(place / "raw_refocused"),
    "not in the ledger": forgotten,
    "state differs": lambda place: attempts(place, "skipped", "failed"),
    "not in raw": lambda place: without_last_frame(place / "raw"),
    "written twice": written_twice,
    "raw incomplete": cut_short,
    "unreadable": lambda place: without_metadata(place / "raw"),
    "unreadable, refocused": lambda place: without_metadata(place / "raw_refocused"),
    "raw changed since": lambda place: flip_a_pixel(place / "raw", key(3)),
    "refocused pixels changed": lambda place: flip_a_pixel(place / "raw_refocused", key(3)),
    "pending": pending,
    "no ledger": without("ledgers/*.sqlite*", f"raw_refocused/{LEDGER_COPY}"),
    "cannot be read: lost index": without("raw_refocused/NDTiff.index"),
    "cannot be read: lost pixels": without("raw_refocused/*.tif"),
    "cannot be read: damaged index": lambda place: spoil(place / "raw_refocused" / "NDTiff.index"),
    "the raw data are not at": moved,
    "is another recording": recorded_again,
}


def spoil(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(b"\xff" * 200 + data[200:])


def shown(capsys: pytest.CaptureFixture[str], dataset: Path, place: Path) -> tuple[int, str]:
    """Exit status and full output of `verify`."""
    capsys.readouterr()
    # A narrow terminal would break lines within paths.
    status, said = told("verify", dataset, place=place, COLUMNS="1000")
    return status, " ".join((capsys.readouterr().out + said).split())


def aside(place: Path) -> None:
    """Move the refocused dataset away, as advised."""
    (place / "aside").mkdir()
    (place / "raw_refocused").rename(place / "aside" / "raw_refocused")


def words(command: str) -> list[str]:
    """Split a command as the system's shell does."""
    if os.name != "nt":
        return shlex.split(command)
    return [word.strip('"') for word in shlex.split(command, posix=False)]


def follow(said: str, place: Path) -> Path:
    """Follow the advice of `verify` word for word; returns the path of the refocused dataset."""
    if "from a copy" in said:
        shutil.rmtree(place / "raw")
        (place / "copy").rename(place / "raw")
        return place / "raw_refocused"
    if "beside them" in said:
        (place / "raw_refocused").rename(place / "archive" / "raw_refocused")
        return place / "archive" / "raw_refocused"
    if f"move {place / 'raw_refocused'} away" in said:
        aside(place)
    (command,) = set(re.findall("`refocusd ([a-z]+ [^`]+)`", said))
    done = refocusd(*words(command), place=place)
    assert done.returncode == 0, done.stderr
    return place / "raw_refocused"


def test_each_kind_of_problem_is_brought_about() -> None:
    assert set(get_args(ProblemKind)) <= set(DAMAGE)


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_verify_finds_is_mended_by_what_it_says(
    tmp_path: Path, master: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path
    if kind.startswith(("the raw", "is another")):  # no copy: raw must not exist elsewhere
        assert refocusd("process", raw_dataset(place / "raw", 2), place=place).returncode == 0
    else:
        shutil.copytree(master, place, dirs_exist_ok=True)
    shutil.copytree(place / "raw", place / "copy")
    DAMAGE[kind](place)
    output = place / "raw_refocused"
    status, said = shown(capsys, output, place)
    assert status == 1
    assert kind.split(",")[0].split(":")[0] in said
    assert verify(follow(said, place), place=place)[0] == 0, said


def test_what_the_ledger_says_of_frames_that_are_there_is_put_right_and_no_frame_is_touched(
    place: Path,
) -> None:
    attempts(place, "skipped", "failed")
    there = snapshot(place / "raw", place / "raw_refocused")
    assert refocusd("resume", place / "raw", place=place).returncode == 0
    kept = snapshot(place / "raw", place / "raw_refocused")
    assert {k: v for k, v in kept.items() if not k.endswith(".sqlite")} == {
        k: v for k, v in there.items() if not k.endswith(".sqlite")
    }


def test_a_ledger_is_put_right_without_raw_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Metadata of frames that were refocused live and exist nowhere else record their outcome."""
    place, output = tmp_path, tmp_path / "raw_refocused"
    with running(quick_settings(place)) as daemon, source(daemon) as connection:
        upload = opened(connection, output)
        for number, frame in enumerate(stack(4)):
            upload.submit(frame, key(number), "{}", time.perf_counter_ns())
        upload.close(4)
        pump_until(upload, lambda: upload.closed)
    forgotten(place)
    status, said = shown(capsys, output, place)
    assert (status, "not in the ledger" in said) == (1, True)
    follow(said, place)
    assert verify(output, place=place)[0] == 0


def test_no_command_is_advised_for_frames_that_fail_again_however_often_they_are_attempted() -> (
    None
):
    unfit = Problem("failed", key(0), "raw cannot be used: frame is 32×20 uint16")
    (advice,) = check_of(unfit).advice()
    assert advice.startswith("1 frame cannot be refocused in the form that raw has")
    assert [text[:7] for text in check_of(unfit, Problem("failed", key(1))).advice()] == [
        "1 frame",
        "1 frame",
    ]


def test_a_command_that_is_advised_can_be_typed() -> None:
    output = replace(check_of().output, path=Path("/out put/it's"))
    (advice,) = replace(check_of(Problem("failed", key(1))), output=output).advice()
    (command,) = re.findall("`(.*)`", advice)
    assert words(command) == ["refocusd", "resume", str(output.path)]


def test_frames_that_nobody_saved_are_reported_as_lost_for_good() -> None:
    check = check_of()
    lost = replace(check, report=replace(check.report, unnamed=2))
    (advice,) = lost.advice()
    assert "2 frames were acquired, and neither refocused nor saved" in advice


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
    said = shown(capsys, place / "raw", place)[1]
    assert "if it was acquired again, move" in said
    assert "if not, what was refocused is right" in said
    done = refocusd("process", place / "raw", "--output", place / "anew", place=place)
    assert done.returncode == 0, done.stderr
    assert verify(place / "anew" / "raw_refocused", place=place)[0] == 0
