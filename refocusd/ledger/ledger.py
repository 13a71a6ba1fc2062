"""Attempts at refocusing frames, in SQLite.

What is pending is not in here: it is what the raw dataset holds and the ledger
does not, so it is right even when no daemon was there.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from refocusd.errors import LedgerError

__all__ = ["Attempt", "Ledger"]

#: Raised when a table changes; an older or newer file is refused, not guessed at.
SCHEMA = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS run (
    id TEXT PRIMARY KEY,           -- model + settings + calibration
    version TEXT NOT NULL, engine TEXT NOT NULL, settings TEXT NOT NULL, begun REAL NOT NULL);
CREATE TABLE IF NOT EXISTS acquisition (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, raw TEXT NOT NULL, output TEXT NOT NULL,
    height INTEGER NOT NULL, width INTEGER NOT NULL, dtype TEXT NOT NULL,
    opened REAL NOT NULL, closed REAL, acquired INTEGER);
CREATE TABLE IF NOT EXISTS attempt (
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL, acquisition TEXT NOT NULL, axes TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('refocused', 'passed_through', 'skipped', 'failed')),
    reason TEXT NOT NULL, live INTEGER NOT NULL, at REAL NOT NULL,
    latency_ms REAL, engine_ms REAL, facts TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS attempt_of_frame ON attempt (run, acquisition, axes);
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one frame, ended.

    Parameters
    ----------
    run, acquisition, axes : str
        Together the frame's key; `axes` in canonical form.
    state : {"refocused", "passed_through", "skipped", "failed"}
    reason : str
        The rule, the error, or empty.
    live : bool
        While acquiring, not caught up from raw.
    latency_ms : float or None
        From the hook to the refocused frame on disk.
    engine_ms : float or None
        Time inside the engine.
    facts : dict
        What else was found out (focus scores, flux ratio, ...).
    """

    run: str
    acquisition: str
    axes: str
    state: str
    reason: str = ""
    live: bool = True
    latency_ms: float | None = None
    engine_ms: float | None = None
    facts: dict[str, Any] | None = None
    #: When it ended, seconds since 1970; set by the ledger.
    at: float = 0.0


class Ledger:
    """An open ledger; belongs to the thread that opened it.

    Parameters
    ----------
    path : path
        SQLite file; its folder is made.  Must lie on a local disk: SQLite's
        write-ahead log does not work over network shares.

    Raises
    ------
    LedgerError
        If the file cannot be opened, is no ledger, or of another schema.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        try:
            if read_only:
                # Not `as_uri`: SQLite refuses the server name of a Windows share there.
                name = self.path.resolve().as_posix()
                root = "//" if name.startswith("//") else ""
                uri = f"file:///{root}{quote(name.lstrip('/'))}?mode=ro"
                self._db = sqlite3.connect(uri, uri=True)
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(self.path)
                # A killed process loses nothing that was committed; only a power cut
                # can take the last instants, and those frames are then pending again.
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA busy_timeout = 5000")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and not read_only:
                self._db.executescript(_TABLES + f"PRAGMA user_version = {SCHEMA};")
                version = SCHEMA
        except (OSError, sqlite3.Error) as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise LedgerError(
                f"the ledger {self.path} cannot be opened ({error}); name a folder on a local disk as "
                "`ledgers` in the settings"
            ) from error
        if version != SCHEMA:
            self._db.close()
            raise LedgerError(
                f"the ledger {self.path} has schema {version}, this refocusd has {SCHEMA}; use the "
                "refocusd that wrote it, or name another folder as `ledgers`"
            )

    def begin_run(self, run: str, *, version: str, engine: str, settings: str) -> None:
        """Note a run (model + settings + calibration); once for each id."""
        self._write(
            "INSERT OR IGNORE INTO run VALUES (?, ?, ?, ?, ?)",
            (run, version, engine, settings, time.time()),
        )

    def open_acquisition(
        self,
        acquisition: str,
        *,
        name: str,
        raw: str,
        output: str,
        shape: tuple[int, int],
        dtype: str,
    ) -> None:
        """Note that frames of an acquisition will come; once for each id."""
        self._write(
            "INSERT OR IGNORE INTO acquisition VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            (acquisition, name, raw, output, *shape, dtype, time.time()),
        )

    def close_acquisition(self, acquisition: str, acquired: int) -> None:
        """Note that an acquisition is complete, with the number of its frames."""
        self._write(
            "UPDATE acquisition SET closed = ?, acquired = ? WHERE id = ?",
            (time.time(), acquired, acquisition),
        )

    def record(self, attempts: list[Attempt]) -> None:
        """Append attempts, durably against the end of this process."""
        now = time.time()
        rows = [
            (
                a.run,
                a.acquisition,
                a.axes,
                a.state,
                a.reason,
                int(a.live),
                now,
                a.latency_ms,
                a.engine_ms,
                json.dumps(a.facts or {}),
            )
            for a in attempts
        ]
        try:
            with self._db:
                self._db.executemany(
                    "INSERT INTO attempt (run, acquisition, axes, state, reason, live, at, latency_ms,"
                    " engine_ms, facts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger {self.path} cannot be written: {error}") from error

    def attempts(self, acquisition: str) -> Iterator[Attempt]:
        """The latest attempt at each frame of an acquisition, oldest first."""
        cursor = self._db.execute(
            "SELECT run, acquisition, axes, state, reason, live, latency_ms, engine_ms, facts, at"
            " FROM attempt WHERE id IN"
            " (SELECT max(id) FROM attempt WHERE acquisition = ? GROUP BY run, axes) ORDER BY id",
            (acquisition,),
        )
        for run, key, axes, state, reason, live, latency, engine, facts, at in cursor:
            yield Attempt(
                run, key, axes, state, reason, bool(live), latency, engine, json.loads(facts), at
            )

    def acquisitions(self) -> list[str]:
        """Ids of the acquisitions in this ledger."""
        return [row[0] for row in self._db.execute("SELECT id FROM acquisition ORDER BY opened")]

    def final_states(self, run: str, acquisition: str) -> dict[str, str]:
        """Canonical axes → final state, for the frames of one run that have one."""
        cursor = self._db.execute(
            "SELECT axes, state FROM attempt WHERE run = ? AND acquisition = ? ORDER BY id",
            (run, acquisition),
        )
        return dict(cursor.fetchall())

    def copy_to(self, path: str | Path) -> None:
        """Write a consistent copy (SQLite's backup), safe while frames are recorded."""
        try:
            with closing(sqlite3.connect(path)) as copy:
                self._db.backup(copy)
                # The copy may be read from a network share: no write-ahead log there.
                copy.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger cannot be copied to {path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            with self._db:
                self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger {self.path} cannot be written: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
