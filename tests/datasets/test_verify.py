"""``refocusd verify`` checks a dataset frame by frame, and changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from finished import (
    flip_a_pixel,
    key,
    ledger_of,
    raw_dataset,
    refocusd,
    snapshot,
    told,
    verify,
)
from live import opened, pump_until, quick_settings, running, source, stack

from refocusd.datasets.run_folder import LEDGER_COPY, RUN_FILE
from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.ledger import Ledger, mark_open

FRAMES = 12


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw dataset, refocused by the shipped engine, with its ledger."""
    place = tmp_path_factory.mktemp("master")
    raw_dataset(place / "raw", FRAMES)
    done = refocusd(
        "process",
        place / "raw",
        place=place,
        REFOCUSD_BACKEND="openvino",
        REFOCUSD_PASS_IN_FOCUS="false",
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def place(master: Path, tmp_path: Path) -> Path:
    """A copy of raw, output and ledger in the test's folder."""
    shutil.copytree(master, tmp_path / "moved")
    return tmp_path / "moved"


def problems(said: object) -> set[tuple[str, str]]:
    (run,) = said["runs"]  # type: ignore[index]
    return {(problem["kind"], problem["axes"]) for problem in run["problems"]}


def test_a_dataset_that_is_well_is_proven_frame_by_frame(place: Path) -> None:
    before = snapshot(place / "raw", place / "raw_refocused")
    ledger = ledger_of(place).read_bytes()
    for path in (place / "raw", place / "raw" / "NDTiff.index", place / "raw_refocused"):
        status, said = verify(path, place=place)
        assert status == 0
        (run,) = said["runs"]
        assert run["frames"] == FRAMES
        assert run["states"] == {"refocused": FRAMES}
        assert run["refocused_pixels_compared"] == run["raw_pixels_compared"] == FRAMES
        assert run["problems"] == run["pending"] == run["faults"] == []
    # It was copied: what is beside it counts, not where the original is.
    assert said["raw"] == str(place / "raw")
    assert "they were recorded at" in run["notes"][0]
    assert snapshot(place / "raw", place / "raw_refocused") == before
    assert ledger_of(place).read_bytes() == ledger


def test_one_bit_of_a_refocused_frame_is_found_and_named(place: Path) -> None:
    flip_a_pixel(place / "raw_refocused", key(7))
    status, said = verify(place / "raw", place=place)
    assert status == 1
    assert problems(said) == {("refocused pixels changed", key(7))}
    assert verify(place / "raw", "--quick", place=place)[0] == 0


def test_one_bit_of_a_raw_frame_is_found_and_named(place: Path) -> None:
    flip_a_pixel(place / "raw", key(3))
    status, said = verify(place / "raw", place=place)
    assert status == 1
    assert problems(said) == {("raw changed since", key(3))}


def test_without_its_checksum_a_frame_passed_through_is_compared_with_raw(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 4)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    for path in (ledger_of(tmp_path), tmp_path / "raw_refocused" / LEDGER_COPY):
        execute(path, "UPDATE attempt SET checksum = NULL, raw_checksum = NULL")
    assert verify(raw, place=tmp_path)[1]["runs"][0]["without_checksum"] == 4
    flip_a_pixel(tmp_path / "raw_refocused", key(2))
    status, said = verify(raw, place=tmp_path)
    assert status == 1
    assert problems(said) == {("refocused pixels changed", key(2))}


def execute(path: Path, statement: str) -> None:
    """Change a ledger behind refocusd's back."""
    db = sqlite3.connect(path)
    with db:
        db.execute(statement)
    db.close()


def test_what_is_off_is_shown_within_bounds_and_written_in_full(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 60)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    for path in (ledger_of(tmp_path), tmp_path / "raw_refocused" / LEDGER_COPY):
        execute(path, "DELETE FROM attempt")
    done = refocusd("verify", raw, place=tmp_path)
    assert done.returncode == 1
    assert done.stdout.count("not in the ledger: ") == 20
    assert "and 40 more (60 not in the ledger" in done.stdout
    assert "NOT clean" in done.stdout
    assert problems(verify(raw, place=tmp_path)[1]) == {
        ("not in the ledger", key(n)) for n in range(60)
    }


@pytest.mark.parametrize("how", ["deleted", "truncated", "garbage"])
def test_the_copy_beside_the_output_stands_in_for_a_lost_ledger(place: Path, how: str) -> None:
    ledger = ledger_of(place)
    if how == "deleted":
        ledger.unlink()
    else:
        data = ledger.read_bytes()
        ledger.write_bytes(data[:6000] if how == "truncated" else b"garbage" * 3000)
    there = snapshot(place / "ledgers")
    status, said = verify(place / "raw", place=place)
    assert status == 0
    assert any(LEDGER_COPY in note for note in said["runs"][0]["notes"])
    # `resume` restores it; `verify` changes nothing.
    assert snapshot(place / "ledgers").items() >= there.items()


def test_without_any_ledger_nothing_is_proven(place: Path) -> None:
    ledger_of(place).unlink()
    (place / "raw_refocused" / LEDGER_COPY).unlink()
    status, said = verify(place / "raw", place=place)
    assert status == 1
    assert "no ledger" in said["runs"][0]["faults"][0]
    assert problems(said) == {("not in the ledger", key(n)) for n in range(FRAMES)}


def test_a_frame_that_was_written_twice_is_named(place: Path) -> None:
    index = place / "raw_refocused" / "NDTiff.index"
    data = index.read_bytes()
    second = data.index(b'"time"', data.index(b'"time"') + 1)
    start = data.rindex(b"{", 0, second) - 4
    length = int.from_bytes(data[start : start + 4], "little")
    name_at = start + 4 + length
    end = name_at + 4 + int.from_bytes(data[name_at : name_at + 4], "little") + 32
    index.write_bytes(data + data[start:end])
    status, said = verify(place / "raw", place=place)
    assert status == 1
    assert problems(said) == {("written twice", key(1))}


def test_a_refocused_dataset_that_is_cut_short_lacks_its_last_frames(place: Path) -> None:
    stack = place / "raw_refocused" / "NDTiffStack.tif"
    os.truncate(stack, stack.stat().st_size - 3 * 64 * 64)
    status, said = verify(place / "raw", place=place)
    assert status == 1
    assert problems(said) == {("missing from the dataset", key(n)) for n in (10, 11)}


def test_a_damaged_index_of_the_refocused_dataset_is_a_fault(place: Path) -> None:
    index = place / "raw_refocused" / "NDTiff.index"
    data = bytearray(index.read_bytes())
    data[:200] = b"\xff" * 200
    index.write_bytes(data)
    status, said = verify(place / "raw_refocused", place=place)
    assert status == 1
    assert "cannot be read" in said["runs"][0]["faults"][0]


def test_raw_that_is_gone_or_cut_short_is_reported(place: Path) -> None:
    stack = next((place / "raw").glob("*.tif"))
    os.truncate(stack, stack.stat().st_size - 3 * 64 * 64)
    status, said = verify(place / "raw", "--quick", place=place)
    assert status == 1
    assert {kind for kind, _ in problems(said)} == {"raw incomplete", "not in raw"}
    shutil.rmtree(place / "raw")
    # The original is found where it was recorded, unless it is gone from there too.
    run_file = place / "raw_refocused" / RUN_FILE
    run_file.write_text(run_file.read_text().replace("master", "nowhere"))
    status, said = verify(place / "raw_refocused", place=place)
    assert status == 1
    assert "the raw data are not at" in said["runs"][0]["faults"][0]


@pytest.mark.parametrize("command", ["verify", "process", "resume", "replay"])
def test_a_dataset_without_its_stack_names_the_file(tmp_path: Path, command: str) -> None:
    """Its index was copied but not the large file, and no other command would help."""
    raw = raw_dataset(tmp_path / "raw", 3)
    (stack,) = raw.glob("*.tif")
    stack.unlink()
    more = ("--output", tmp_path / "out") if command == "replay" else ()
    status, said = told(command, raw, *more, place=tmp_path)
    assert status == 2
    assert f"the pixels of 3 frames are not there: {stack.name} is missing" in said


def test_what_was_never_refocused_is_reported(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 3)
    done = refocusd("verify", raw, place=tmp_path)
    assert done.returncode == 1
    assert "none refocused" in done.stdout
    assert "refocusd process" in done.stdout


@pytest.mark.parametrize("case", ["nothing", "empty folder", "run file"])
def test_what_is_no_dataset_is_one_clear_error(place: Path, case: str) -> None:
    path = {"nothing": place / "nothing", "empty folder": place / "empty"}.get(
        case, place / "raw_refocused"
    )
    if case == "empty folder":
        path.mkdir()
    if case == "run file":
        (path / RUN_FILE).write_text("{")
    status, said = verify(path, place=place)
    assert status == 2
    assert [line for line in said.splitlines() if "error:" in line]


def test_while_frames_are_written_nothing_new_counts_as_lost(place: Path) -> None:
    """Frames of raw that have no attempt yet, or are in the dataset before the ledger, are pending."""
    for path in (ledger_of(place), place / "raw_refocused" / LEDGER_COPY):
        execute(path, "DELETE FROM attempt WHERE axes LIKE '%:11}'")
    assert problems(verify(place / "raw", place=place)[1]) == {("not in the ledger", key(11))}
    with NDTiffSink.append(place / "raw_refocused"):
        status, said = verify(place / "raw", place=place)
    assert status == 1
    assert said["runs"][0]["running"] is True
    assert said["runs"][0]["problems"] == []
    assert said["runs"][0]["pending"] == [key(11)]


def test_the_output_of_an_open_acquisition_is_found_wherever_it_is(place: Path) -> None:
    shutil.move(place / "raw_refocused", place / "elsewhere")
    assert verify(place / "raw", place=place)[1]["runs"] == []
    with Ledger(ledger_of(place), read_only=True) as ledger:
        (acquisition,) = ledger.acquisitions()
    text = (
        f'{{"acquisition": "{acquisition}", "name": "raw", "height": 64, "width": 64, "dtype":'
        f' "uint16", "raw": "{(place / "raw").as_posix()}", "output":'
        f' "{(place / "elsewhere").as_posix()}", "summary": "{{}}", "run": "r"}}'
    )
    mark_open(place / "ledgers", text.encode(), acquisition)
    status, said = verify(place / "raw", place=place)
    assert [Path(run["output"]).name for run in said["runs"]] == ["elsewhere"]
    # No daemon has it open any more, so pending frames are not being refocused.
    assert (status, said["runs"][0]["running"]) == (0, False)


def test_an_acquisition_without_raw_is_compared_with_what_was_acquired(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, output)
        for number, frame in enumerate(stack(3)):
            upload.submit(frame, f'{{"time":{number}}}', "{}", time.perf_counter_ns())
        upload.miss(['{"time":3}'], "skipped", "no raw")
        upload.close(4)
        pump_until(upload, lambda: upload.closed)
    status, said = verify(output, place=tmp_path)
    assert status == 0, said
    assert said["runs"][0]["states"] == {"passed_through": 3, "skipped": 1}
    for path in (ledger_of(tmp_path), output / LEDGER_COPY):
        execute(path, "UPDATE acquisition SET acquired = 6")
    assert verify(output, place=tmp_path)[1]["runs"][0]["pending_without_axes"] == 2
    # Its daemon was killed, so it is unknown what else was acquired.
    for path in (ledger_of(tmp_path), output / LEDGER_COPY):
        execute(path, "UPDATE acquisition SET acquired = NULL, closed = NULL")
    status, said = verify(output, place=tmp_path)
    assert status == 1
    assert "never closed" in said["runs"][0]["faults"][0]


def test_an_omezarr_dataset_is_proven_as_well(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 6)
    done = refocusd("process", raw, place=tmp_path, REFOCUSD_SINK="ome-zarr")
    assert done.returncode == 0, done.stderr
    status, said = verify(raw, place=tmp_path)
    assert status == 0
    assert said["runs"][0]["refocused_pixels_compared"] == 6
    chunk = next(p for p in (tmp_path / "raw_refocused").rglob("c/*/*/*/*/*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    status, said = verify(raw, place=tmp_path)
    assert status == 1
    assert [kind for kind, _ in problems(said)] == ["refocused pixels changed"]


def test_help_says_what_the_exit_status_means() -> None:
    done = refocusd("verify", "--help", place=Path.cwd())
    assert done.returncode == 0
    assert "exit status" in done.stdout
    assert isinstance(done, subprocess.CompletedProcess)
