"""Attempts at refocusing frames, in SQLite.

What is pending is not in here: it is what the raw dataset holds and the ledger
does not, so it is right even when no daemon was there.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from refocusd.errors import LedgerError
from refocusd.ledger.attempt import AcquisitionNote, Attempt, Fate, RunNote
from refocusd.ledger.schema import (
    OLDEST,
    SCHEMA,
    checksum_columns,
    connect,
    prepare,
    version_of,
)

__all__ = ["Ledger"]

_ATTEMPT = "run, acquisition, axes, state, reason, live, at, latency_ms, engine_ms, facts"


class Ledger:
    """An open ledger; belongs to the thread that opened it.

    Parameters
    ----------
    path : path
        SQLite file; its folder is made.  Must lie on a local disk: SQLite's
        write-ahead log does not work over network shares.
    read_only : bool
        Change nothing; a file of an older schema is then read as it is, and is
        brought up to date otherwise.

    Raises
    ------
    LedgerError
        If the file cannot be opened, is no ledger, or of a newer schema.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        try:
            self._db = connect(self.path, read_only=read_only)
            if not read_only:
                # A killed process loses nothing that was committed; only a power cut
                # can take the last instants, and those frames are then pending again.
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
            version = version_of(self._db)
            if not read_only:
                version = prepare(self._db, version)
        except (OSError, sqlite3.Error) as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise LedgerError(
                f"the ledger {self.path} cannot be opened ({error}); name a folder on a local disk as "
                "`ledgers` in the settings"
            ) from error
        if not OLDEST <= version <= SCHEMA:
            self._db.close()
            raise LedgerError(
                f"the ledger {self.path} has schema {version}, this refocusd has {SCHEMA}; use the "
                "refocusd that wrote it, or name another folder as `ledgers`"
            )
        self._checksums = checksum_columns(version)

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

    def record(self, attempts: Iterable[Attempt]) -> None:
        """Append attempts, durably against the end of this process.

        Raises
        ------
        LedgerError
            If the file cannot be written; then none of them is recorded.
        """
        now = time.time()
        rows = (
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
                _signed(a.checksum),
                _signed(a.raw_checksum),
            )
            for a in attempts
        )
        try:
            with self._db:
                self._db.executemany(
                    f"INSERT INTO attempt ({_ATTEMPT}, checksum, raw_checksum)"  # noqa: S608
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger {self.path} cannot be written: {error}") from error

    def attempts(self, acquisition: str) -> Iterator[Attempt]:
        """The latest attempt at each frame of an acquisition, oldest first."""
        for row in self._rows(
            f"SELECT {_ATTEMPT}, {self._checksums} FROM attempt WHERE id IN"  # noqa: S608
            " (SELECT max(id) FROM attempt WHERE acquisition = ? GROUP BY run, axes) ORDER BY id",
            (acquisition,),
        ):
            run, key, axes, state, reason, live, at, latency, engine, facts, after, before = row
            yield Attempt(
                run=run,
                acquisition=key,
                axes=axes,
                state=state,
                reason=reason,
                live=bool(live),
                latency_ms=latency,
                engine_ms=engine,
                facts=self._facts(facts),
                checksum=_unsigned(after),
                raw_checksum=_unsigned(before),
                at=at,
            )

    def _facts(self, text: object) -> dict[str, Any]:
        try:
            facts = json.loads(text)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise LedgerError(f"the ledger {self.path} is damaged: {error}") from error
        if not isinstance(facts, dict):
            raise LedgerError(f"the ledger {self.path} is damaged: facts are {facts!r}")
        return facts

    def fates(self, run: str, acquisition: str) -> Iterator[Fate]:
        """What the latest attempt of a run at each frame came to, oldest first."""
        for axes, state, reason, after, before in self._rows(
            f"SELECT axes, state, reason, {self._checksums} FROM attempt WHERE id IN"  # noqa: S608
            " (SELECT max(id) FROM attempt WHERE run = ? AND acquisition = ? GROUP BY axes)"
            " ORDER BY id",
            (run, acquisition),
        ):
            yield Fate(axes, state, reason, _unsigned(after), _unsigned(before))

    def acquisitions(self) -> list[str]:
        """Ids of the acquisitions in this ledger."""
        return [row[0] for row in self._rows("SELECT id FROM acquisition ORDER BY opened")]

    def final_states(self, run: str, acquisition: str) -> dict[str, str]:
        """Canonical axes → final state, for the frames of one run that have one."""
        return dict(
            self._rows(
                "SELECT axes, state FROM attempt WHERE run = ? AND acquisition = ? ORDER BY id",
                (run, acquisition),
            )
        )

    def run_note(self, run: str) -> RunNote | None:
        """What was noted of a run; None if it is not in this ledger."""
        rows = self._rows("SELECT version, engine, settings FROM run WHERE id = ?", (run,))
        return next((RunNote(*row) for row in rows), None)

    def acquisition_note(self, acquisition: str) -> AcquisitionNote | None:
        """What was noted of an acquisition; None if it is not in this ledger."""
        rows = self._rows(
            "SELECT name, raw, output, closed IS NOT NULL, acquired FROM acquisition WHERE id = ?",
            (acquisition,),
        )
        return next((AcquisitionNote(n, r, o, bool(c), a) for n, r, o, c, a in rows), None)

    def __len__(self) -> int:
        """Attempts in this ledger, of all runs and acquisitions."""
        return int(next(self._rows("SELECT count(*) FROM attempt"))[0])

    def merge(self, other: str | Path) -> int:
        """Take over what another ledger of the same acquisition knows and this one does not.

        Of a frame that both know, attempts after the last one here.

        Returns
        -------
        int
            Attempts taken over.

        Raises
        ------
        LedgerError
            If the other cannot be read, or this one not be written.
        """
        with Ledger(other, read_only=True) as ledger:
            checksums = ledger._checksums
        here = (
            "SELECT 1 FROM attempt AS own WHERE own.run = theirs.run AND"
            " own.acquisition = theirs.acquisition AND own.axes = theirs.axes AND own.at >= theirs.at"
        )
        try:
            self._db.execute("ATTACH DATABASE ? AS other", (str(other),))
            try:
                with self._db:
                    for table in ("run", "acquisition"):
                        self._db.execute(
                            f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}"  # noqa: S608
                        )
                    taken = self._db.execute(
                        f"INSERT INTO main.attempt ({_ATTEMPT}, checksum, raw_checksum)"  # noqa: S608
                        f" SELECT {_ATTEMPT}, {checksums} FROM other.attempt AS theirs"
                        f" WHERE NOT EXISTS ({here}) ORDER BY id"
                    ).rowcount
            finally:
                self._db.execute("DETACH DATABASE other")
        except sqlite3.Error as error:
            raise LedgerError(f"{other} cannot be taken over into {self.path}: {error}") from error
        return taken

    def check(self) -> None:
        """Look at every page of the file.

        Raises
        ------
        LedgerError
            If it is damaged.
        """
        said = [str(row[0]) for row in self._rows("PRAGMA quick_check(3)")]
        if said != ["ok"]:
            raise LedgerError(f"the ledger {self.path} is damaged ({'; '.join(said)})")

    def copy_to(self, path: str | Path) -> None:
        """Write a consistent copy (SQLite's backup), safe while frames are recorded.

        The copy takes its name when it is complete, so that a killed process
        leaves the copy before it.

        Raises
        ------
        LedgerError
            If it cannot be written.
        """
        path = Path(path)
        fresh = path.with_name(path.name + ".new")
        try:
            # What a killed process left is of no use.
            fresh.unlink(missing_ok=True)
            with closing(sqlite3.connect(fresh)) as copy:
                self._db.backup(copy)
                # The copy may be read from a network share: no write-ahead log there.
                copy.execute("PRAGMA journal_mode = DELETE")
            fresh.replace(path)
        except (OSError, sqlite3.Error) as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise LedgerError(f"the ledger cannot be copied to {path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error as error:
            raise LedgerError(
                f"the ledger {self.path} cannot be read ({error}); `refocusd resume` on its dataset "
                "sets a damaged ledger aside and restores it"
            ) from error

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


def _signed(checksum: int | None) -> int | None:
    """SQLite's integers have a sign: the same 64 bits, read with one."""
    return checksum - (1 << 64) if checksum is not None and checksum >= 1 << 63 else checksum


def _unsigned(stored: int | None) -> int | None:
    return stored + (1 << 64) if stored is not None and stored < 0 else stored
