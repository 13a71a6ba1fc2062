"""The ledger: append-only attempts, the latest decides."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import final_states

from refocusd.errors import LedgerError
from refocusd.frame import REPLACED
from refocusd.ledger import (
    AcquisitionNote,
    Attempt,
    Fate,
    Ledger,
    OpenMark,
    is_marked,
    ledger_path,
    mark_open,
    marked,
    rebuild,
    restore_ledger,
    unmark,
)

pytestmark = pytest.mark.fast


def attempt(axes: str, state: str, **more: object) -> Attempt:
    return Attempt(run="r", acquisition="a", axes=axes, state=state, **more)  # type: ignore[arg-type]


def opened(path: Path) -> Ledger:
    ledger = Ledger(path)
    ledger.begin_run("r", version="1", engine="{}", settings="{}")
    ledger.open_acquisition(
        "a", name="n", raw="/raw", output="/out", shape=(64, 48), dtype="uint16"
    )
    return ledger


def test_the_latest_attempt_decides_and_none_is_lost(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger.sqlite") as ledger:
        ledger.record([attempt('{"z":0}', "failed", reason="why"), attempt('{"z":1}', "refocused")])
        ledger.record([attempt('{"z":0}', "refocused", latency_ms=3.5, facts={"clipped": 2})])
        assert final_states(ledger, "r", "a") == {'{"z":0}': "refocused", '{"z":1}': "refocused"}
        latest = {a.axes: a for a in ledger.attempts("a")}
        assert latest['{"z":0}'].latency_ms == 3.5
        assert latest['{"z":0}'].facts == {"clipped": 2}
        assert latest['{"z":0}'].at > 0
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        assert db.execute("SELECT count(*) FROM attempt").fetchone() == (3,)
    db.close()


def test_another_run_has_states_of_its_own(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger.sqlite") as ledger:
        ledger.record([attempt('{"z":0}', "refocused")])
        assert final_states(ledger, "other", "a") == {}


def test_an_unknown_state_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger.sqlite") as ledger, pytest.raises(LedgerError, match="CHECK"):
        ledger.record([attempt('{"z":0}', "perhaps")])


def test_a_frame_that_was_taken_again_says_nothing_of_raw(tmp_path: Path) -> None:
    """Raw keeps the later one."""
    with opened(tmp_path / "ledger.sqlite") as ledger:
        ledger.record(attempt(f'{{"z":{z}}}', "refocused", raw_checksum=z) for z in range(4))
        ledger.record([attempt('{"repeat":1,"z":2}', "skipped", reason=REPLACED)])
        assert [fate.raw_checksum for fate in ledger.sample("r", "a", 9)] == [0, 1, 3]
        assert ledger.raw_checksum_of("a", '{"z":2}') is None
        assert ledger.raw_checksum_of("a", '{"z":3}') == 3


def test_a_copy_is_complete_and_needs_no_second_file(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger.sqlite") as ledger:
        ledger.record([attempt(f'{{"z":{z}}}', "refocused") for z in range(100)])
        ledger.copy_to(tmp_path / "copy.sqlite")
    assert [p.name for p in tmp_path.glob("copy*")] == ["copy.sqlite"]
    with Ledger(tmp_path / "copy.sqlite", read_only=True) as copy:
        assert len(list(copy.attempts("a"))) == 100
        assert copy.acquisitions() == ["a"]


def test_a_killed_process_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from refocusd.ledger import Attempt, Ledger\n"
        "ledger = Ledger(pathlib.Path(sys.argv[1]))\n"
        "for z in range(10**9):\n"
        "    ledger.record([Attempt('r', 'a', str(z), 'refocused')])\n"
        "    print(z, flush=True)\n"
    )
    path = tmp_path / "ledger.sqlite"
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        for _ in range(50):
            process.stdout.readline()
        process.kill()
        last = int((process.stdout.read().splitlines() or [b"49"])[-1])
    with Ledger(path, read_only=True) as ledger:
        assert len(final_states(ledger, "r", "a")) >= last + 1


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to look at" * 20)
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path / "text")
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerError, match="schema 99"):
        Ledger(tmp_path / "newer")


# -- schema ------------------------------------------------------------------------------


#: The tables of refocusd 0.1.0.
SCHEMA_1 = """
CREATE TABLE run (id TEXT PRIMARY KEY, version TEXT NOT NULL, engine TEXT NOT NULL,
    settings TEXT NOT NULL, begun REAL NOT NULL);
CREATE TABLE acquisition (id TEXT PRIMARY KEY, name TEXT NOT NULL, raw TEXT NOT NULL,
    output TEXT NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL, dtype TEXT NOT NULL,
    opened REAL NOT NULL, closed REAL, acquired INTEGER);
CREATE TABLE attempt (id INTEGER PRIMARY KEY, run TEXT NOT NULL, acquisition TEXT NOT NULL,
    axes TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, live INTEGER NOT NULL,
    at REAL NOT NULL, latency_ms REAL, engine_ms REAL, facts TEXT NOT NULL);
CREATE INDEX attempt_of_frame ON attempt (run, acquisition, axes);
INSERT INTO acquisition VALUES ('a', 'n', '/raw', '/out', 64, 48, 'uint16', 1.0, 2.0, 1);
INSERT INTO attempt VALUES (1, 'r', 'a', '{"z":0}', 'refocused', '', 1, 1.5, 3.5, 2.5, '{}');
PRAGMA user_version = 1;
"""


def schema_1(path: Path) -> Path:
    db = sqlite3.connect(path)
    db.executescript(SCHEMA_1)
    db.close()
    return path


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    finally:
        db.close()


def test_a_ledger_of_schema_1_is_read_as_it_is(tmp_path: Path) -> None:
    path = schema_1(tmp_path / "old.sqlite")
    with Ledger(path, read_only=True) as ledger:
        (only,) = ledger.attempts("a")
        assert (only.state, only.latency_ms, only.checksum, only.raw_checksum) == (
            "refocused",
            3.5,
            None,
            None,
        )
        assert list(ledger.fates("r", "a")) == [Fate('{"z":0}', "refocused")]
    assert version(path) == 1


def test_a_ledger_of_schema_1_is_upgraded_when_it_is_written(tmp_path: Path) -> None:
    path = schema_1(tmp_path / "old.sqlite")
    with Ledger(path) as ledger:
        ledger.record([attempt('{"z":1}', "refocused", checksum=1, raw_checksum=2)])
        assert {f.axes: f.checksum for f in ledger.fates("r", "a")} == {
            '{"z":0}': None,
            '{"z":1}': 1,
        }
    assert version(path) == 2
    with Ledger(path) as again:
        assert len(again) == 2


def test_two_that_upgrade_at_once_do_it_once(tmp_path: Path) -> None:
    path = schema_1(tmp_path / "old.sqlite")
    script = "import sys; from refocusd.ledger import Ledger; Ledger(sys.argv[1]).close()"
    several = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(4)]
    assert [process.wait() for process in several] == [0] * 4
    with Ledger(path, read_only=True) as ledger:
        ledger.check()
        assert len(ledger) == 1


@pytest.mark.parametrize("value", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, None])
def test_checksums_of_64_bits_come_back_as_they_were(tmp_path: Path, value: int | None) -> None:
    with opened(tmp_path / "ledger.sqlite") as ledger:
        ledger.record([attempt('{"z":0}', "refocused", checksum=value, raw_checksum=value)])
        (fate,) = ledger.fates("r", "a")
        (kept,) = ledger.attempts("a")
    assert fate.checksum == fate.raw_checksum == value
    assert kept.checksum == kept.raw_checksum == value


def test_what_was_noted_of_run_and_acquisition_is_told(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.runs() == ["r"]
        assert ledger.acquisition_note("a") == AcquisitionNote("n", "/raw", "/out", False, None)
        ledger.close_acquisition("a", 7)
        assert ledger.acquisition_note("a") == AcquisitionNote("n", "/raw", "/out", True, 7)


def test_a_killed_copy_leaves_the_copy_before_it(tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    with opened(tmp_path / "ledger.sqlite") as ledger:
        ledger.record([attempt('{"z":0}', "refocused")])
        ledger.copy_to(copy)
        # What a process killed in the middle of the next copy leaves.
        (tmp_path / "copy.sqlite.new").write_bytes(copy.read_bytes()[:5000])
        with Ledger(copy, read_only=True) as before:
            assert len(before) == 1
        ledger.record([attempt('{"z":1}', "refocused")])
        ledger.copy_to(copy)
    with Ledger(copy, read_only=True) as after:
        assert len(after) == 2


# -- open marks --------------------------------------------------------------------------

ONE, TWO = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"


def mark(acquisition: str, **more: object) -> bytes:
    return json.dumps({"acquisition": acquisition, **more}).encode()


def test_open_acquisitions_are_found_until_they_are_closed(tmp_path: Path) -> None:
    assert marked(tmp_path / "nowhere") == []
    mark_open(tmp_path, mark(TWO), TWO)
    os.utime(tmp_path / "open" / f"{TWO}.json", (1, 1))
    mark_open(tmp_path, mark(ONE), ONE)
    mark_open(tmp_path, mark(ONE, name="again"), ONE)
    assert marked(tmp_path) == [OpenMark(TWO, mark(TWO)), OpenMark(ONE, mark(ONE, name="again"))]
    assert is_marked(tmp_path, ONE)
    unmark(tmp_path, ONE)
    unmark(tmp_path, ONE)
    assert not is_marked(tmp_path, ONE)
    assert [m.acquisition for m in marked(tmp_path)] == [TWO]


def test_what_is_no_mark_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mark_open(tmp_path, mark(ONE), ONE)
    folder = tmp_path / "open"
    garbage = {
        f"{TWO}.json": b"{",
        "notes.json": mark("notes"),
        f"{ONE[:-1]}3.json": mark(ONE),
        f"{ONE[:-1]}4.json": b"[1]",
        f"{ONE[:-1]}5.json": b"[" * 100_000,
        f"{ONE[:-1]}6.json": b"",
        f".{ONE}.json.0a1b2c3d.new": mark(ONE),
    }
    for name, text in garbage.items():
        (folder / name).write_bytes(text)
    (folder / f"{ONE[:-1]}7.json").mkdir()
    assert [m.acquisition for m in marked(tmp_path)] == [ONE]
    assert caplog.text.count("left alone") == len(garbage)
    assert {p.name for p in folder.iterdir()} >= set(garbage)


@pytest.mark.parametrize("name", ["../escape", "", "a/b", "x" * 36])
def test_only_a_uuid_names_a_file_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(LedgerError, match="no UUID"):
        mark_open(tmp_path, mark(name), name)
    with pytest.raises(LedgerError, match="no UUID"):
        ledger_path(tmp_path, name)


def test_a_mark_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "open").write_text("in the way")
    with pytest.raises(LedgerError, match="cannot be noted"):
        mark_open(tmp_path, mark(ONE), ONE)


# -- restoring ---------------------------------------------------------------------------


def kept(ledgers: Path, frames: int = 200) -> tuple[Path, Path]:
    """A local ledger and its copy."""
    path = ledger_path(ledgers, ONE)
    with opened(path) as ledger:
        ledger.record([attempt(f'{{"z":{z}}}', "refocused", checksum=z) for z in range(frames)])
        ledger.copy_to(ledgers / "copy")
    return path, ledgers / "copy"


def entries(path: Path) -> int:
    with Ledger(path, read_only=True) as ledger:
        return len(ledger)


def test_a_ledger_that_is_well_is_left_alone(tmp_path: Path) -> None:
    path, copy = kept(tmp_path)
    before = path.read_bytes()
    assert restore_ledger(tmp_path, ONE, copy) == []
    assert path.read_bytes() == before


def test_a_ledger_that_is_not_there_comes_back_from_its_copy(tmp_path: Path) -> None:
    path, copy = kept(tmp_path)
    path.unlink()
    (said,) = restore_ledger(tmp_path, ONE, copy)
    assert "put back from its copy" in said
    assert entries(path) == 200


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "garbage": lambda data: b"not a database" * 1000,
    "zeroed page": lambda data: data[:8192] + bytes(4096) + data[12288:],
    "another database": lambda data: data[:18] + bytes(82) + data[100:],
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("with_copy", [True, False])
def test_a_damaged_ledger_is_set_aside_and_replaced(
    tmp_path: Path, kind: str, with_copy: bool
) -> None:
    path, copy = kept(tmp_path)
    damaged = DAMAGE[kind](path.read_bytes())
    path.write_bytes(damaged)
    if not with_copy:
        copy.unlink()
    said = restore_ledger(tmp_path, ONE, copy)
    # Beside it may lie what SQLite kept of it.
    (aside,) = (p for p in tmp_path.glob("*.damaged-*") if p.suffix[-4:] not in ("-wal", "-shm"))
    # Never deleted: an expert may get something out of it.
    assert aside.read_bytes() == damaged
    assert "set aside" in said[0]
    if with_copy:
        assert entries(path) == 200
    else:
        assert "made anew" in said[1]
        assert not path.exists()


def test_a_copy_that_is_damaged_too_is_not_used(tmp_path: Path) -> None:
    path, copy = kept(tmp_path)
    for file in (path, copy):
        file.write_bytes(file.read_bytes()[:9000])
    said = restore_ledger(tmp_path, ONE, copy)
    assert "damaged too" in said[-1]
    assert not path.exists()
    assert copy.exists()


def test_a_newer_ledger_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    path, copy = kept(tmp_path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerError, match="schema 99"):
        restore_ledger(tmp_path, ONE, copy)
    assert path.exists()


def test_what_was_done_on_another_computer_is_taken_over(tmp_path: Path) -> None:
    path, copy = kept(tmp_path, frames=2)
    with Ledger(copy) as other:
        other.record([attempt('{"z":1}', "failed"), attempt('{"z":2}', "skipped", reason="why")])
    with Ledger(path) as own:
        own.record([attempt('{"z":0}', "failed")])
    (said,) = restore_ledger(tmp_path, ONE, copy)
    assert said.startswith("2 attempts")
    with Ledger(path, read_only=True) as ledger:
        assert final_states(ledger, "r", "a") == {
            '{"z":0}': "failed",
            '{"z":1}': "failed",
            '{"z":2}': "skipped",
        }
        assert {f.axes: f.state for f in ledger.fates("r", "a")} == final_states(ledger, "r", "a")


def test_frames_of_the_dataset_that_no_attempt_tells_of_are_recorded_again(tmp_path: Path) -> None:
    ours = {"run": "r", "state": "passed_through", "reason": "already in focus", "live": True}
    ours |= {"latency_ms": 4.5, "engine_ms": 2.0, "checksum": 2**64 - 1, "clipped": 3}
    frames: list[tuple[str, dict[str, object]]] = [
        ('{"z":0}', {"refocusd": {**ours, "state": "refocused"}}),
        ('{"z":1}', {"refocusd": ours}),
        ('{"z":2}', {"refocusd": ours}),
        ('{"z":3}', {"refocusd": {**ours, "run": "another"}}),
        ('{"z":4}', {"refocusd": {**ours, "state": "perhaps"}}),
        ('{"z":5}', {}),
    ]
    with opened(tmp_path / "ledger.sqlite") as ledger:
        ledger.record([attempt('{"z":0}', "refocused"), attempt('{"z":1}', "failed")])
        assert rebuild(ledger, "r", "a", iter(frames)) == 2
        assert rebuild(ledger, "r", "a", iter(frames)) == 0
        found = {a.axes: a for a in ledger.attempts("a")}
    assert set(found) == {'{"z":0}', '{"z":1}', '{"z":2}'}
    again = found['{"z":1}']
    assert (again.state, again.reason, again.live) == ("passed_through", "already in focus", True)
    assert (again.latency_ms, again.engine_ms, again.checksum) == (4.5, 2.0, 2**64 - 1)
    assert again.facts == {"engine_ms": 2.0, "clipped": 3}


def test_outcomes_are_those_that_were_recorded_when_they_were_asked_for(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.record([Attempt("r", "a", "1", "failed", "why"), Attempt("r", "a", "0", "skipped")])
        ledger.record([Attempt("r", "a", "1", "refocused"), Attempt("other", "a", "1", "failed")])
        fates = ledger.fates("r", "a")
        ledger.record([Attempt("r", "a", "2", "refocused"), Attempt("r", "a", "0", "refocused")])
        assert list(fates) == [Fate("0", "skipped"), Fate("1", "refocused")]
        assert fates.of("0") == Fate("0", "skipped")
        assert fates.of("2") is None
        assert [fate.axes for fate in ledger.fates("r", "a")] == ["0", "1", "2"]
