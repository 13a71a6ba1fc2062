"""The ledger: append-only attempts, the latest decides."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from refocusd.errors import LedgerError
from refocusd.ledger import Attempt, Ledger


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
        assert ledger.final_states("r", "a") == {'{"z":0}': "refocused", '{"z":1}': "refocused"}
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
        assert ledger.final_states("other", "a") == {}


def test_an_unknown_state_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger.sqlite") as ledger, pytest.raises(LedgerError, match="CHECK"):
        ledger.record([attempt('{"z":0}', "perhaps")])


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
        assert len(ledger.final_states("r", "a")) >= last + 1


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to look at" * 20)
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path / "text")
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerError, match="schema 99"):
        Ledger(tmp_path / "newer")
