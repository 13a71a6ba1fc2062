"""The ledger of an acquisition: attempts at refocusing its frames, in SQLite.

Pending frames are not stored: they are the frames that the raw dataset has and the
ledger does not. This is correct even if no daemon was running.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, Self

from refocusd import files
from refocusd.errors import LedgerError
from refocusd.frame import REPLACED, repeat_of
from refocusd.ledger.attempt import VERDICTS, AcquisitionNote, Attempt, Fate
from refocusd.ledger.schema import ATTEMPT, SCHEMA, columns, open_file

_FATE = ("axes", "state", "reason", "checksum", "raw_checksum")


class Ledger:
    """An open ledger; only the thread that opened it may use it.

    Parameters
    ----------
    path : path
        SQLite file; its folder is created. It must be on a local disk, because SQLite's
        write-ahead log does not work over network shares.
    read_only : bool
        Change nothing. A file of an older schema is then read as it is; otherwise it is
        upgraded.

    Raises
    ------
    LedgerError
        If the file cannot be opened, is not a ledger, or has a newer schema.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        #: `version`: the schema of the file.
        self._db, self.version = open_file(self.path, read_only=read_only)

    def begin_run(self, run: str, *, version: str, engine: str, settings: str) -> None:
        """Record a run (model + settings + calibration), once for each id."""
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
        """Record an acquisition before its frames arrive, once for each id."""
        self._write(
            "INSERT OR IGNORE INTO acquisition VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            (acquisition, name, raw, output, *shape, dtype, time.time()),
        )

    def close_acquisition(self, acquisition: str, acquired: int) -> None:
        """Record that an acquisition is complete, with the number of its frames."""
        self._write(
            "UPDATE acquisition SET closed = ?, acquired = ? WHERE id = ?",
            (time.time(), acquired, acquisition),
        )

    def record(self, attempts: Iterable[Attempt]) -> None:
        """Append attempts; they survive the end of this process.

        Raises
        ------
        LedgerError
            If the file cannot be written; then none of them is recorded.
        """
        now = time.time()
        rows = (
            {name: getattr(attempt, name) for name in ATTEMPT}
            | {
                "at": now,
                "facts": json.dumps(attempt.facts or {}),
                "checksum": _signed(attempt.checksum),
                "raw_checksum": _signed(attempt.raw_checksum),
            }
            for attempt in attempts
        )
        values = ", ".join(f":{name}" for name in ATTEMPT)
        with self._changing() as db:
            db.executemany(f"INSERT INTO attempt ({columns(SCHEMA)}) VALUES ({values})", rows)  # noqa: S608

    def attempts(self, acquisition: str) -> Iterator[Attempt]:
        """The latest attempt at each frame of an acquisition, oldest first."""
        for row in self._rows(
            f"SELECT {columns(self.version)} FROM attempt WHERE id IN"  # noqa: S608
            " (SELECT max(id) FROM attempt WHERE acquisition = ? GROUP BY run, axes) ORDER BY id",
            (acquisition,),
        ):
            told = dict(zip(ATTEMPT, row, strict=True))
            yield Attempt(
                **told
                | {
                    "live": bool(told["live"]),
                    "facts": _facts(self.path, told["facts"]),
                    "checksum": _unsigned(told["checksum"]),
                    "raw_checksum": _unsigned(told["raw_checksum"]),
                }
            )

    def fates(self, run: str, acquisition: str) -> Fates:
        """Outcome of the latest attempt of a run at each frame, of the attempts recorded so far."""
        return Fates(self._rows, columns(self.version, _FATE), (run, acquisition))

    def sample(self, run: str, acquisition: str, most: int) -> list[Fate]:
        """Written frames whose raw pixels have a checksum: up to `most`, spread from first to last.

        Frames that were taken again under the same axes are left out: raw keeps the later ones.
        """
        if self.version < 2:
            return []  # older than raw checksums
        # The + keeps SQLite from using the index, as it would then sort the run's rows for each sample.
        query = (
            f"SELECT id, {columns(self.version, _FATE)} FROM attempt WHERE id >= ?"  # noqa: S608
            " AND +run = ? AND +acquisition = ? AND raw_checksum IS NOT NULL"
            " AND state IN ('refocused', 'passed_through') ORDER BY id"
        )
        ends = [
            next(self._rows(f"{query} {order} LIMIT 1", (0, run, acquisition)), None)
            for order in ("ASC", "DESC")
        ]
        if ends[0] is None or ends[1] is None:
            return []
        first, last = ends[0][0], ends[1][0]
        steps = max(most - 1, 1)
        found: dict[str, Fate] = {}
        for id_ in sorted({first + (last - first) * step // steps for step in range(steps + 1)}):
            for _, axes, state, reason, after, before in self._rows(
                f"{query} LIMIT 1", (id_, run, acquisition)
            ):
                found[axes] = Fate(axes, state, reason, _unsigned(after), _unsigned(before))
        fates = self.fates(run, acquisition)
        return [fate for axes, fate in found.items() if not was_taken_again(fates, axes)]

    def state_of(self, run: str, acquisition: str, axes: str) -> str | None:
        """State of a frame after the latest attempt of a run; None if there was none."""
        rows = self._rows(
            "SELECT state FROM attempt WHERE run = ? AND acquisition = ? AND axes = ?"
            " ORDER BY id DESC LIMIT 1",
            (run, acquisition, axes),
        )
        return next((str(state) for (state,) in rows), None)

    def raw_checksum_of(self, acquisition: str, axes: str) -> int | None:
        """64-bit XXH3 of the raw pixels of a frame when it was last refocused, in any run.

        None if the frame was taken again under the same axes: raw keeps the later one.
        """
        if self.version < 2:
            return None
        for run in reversed(self.runs()):
            if was_taken_again(self.fates(run, acquisition), axes):
                return None
            for (stored,) in self._rows(
                "SELECT raw_checksum FROM attempt WHERE run = ? AND acquisition = ? AND axes = ?"
                " AND raw_checksum IS NOT NULL ORDER BY id DESC LIMIT 1",
                (run, acquisition, axes),
            ):
                return _unsigned(stored)
        return None

    def verdicts(self, run: str, acquisition: str) -> dict[str, int]:
        """Frames of a run by verdict, after the latest attempt; frames without a verdict are left out."""
        rows = self._rows(
            "SELECT json_extract(facts, '$.verdict') AS said, count(*) FROM attempt WHERE id IN"
            " (SELECT max(id) FROM attempt WHERE run = ? AND acquisition = ? GROUP BY axes)"
            " AND json_valid(facts) GROUP BY said",
            (run, acquisition),
        )
        counts = {str(said): int(count) for said, count in rows}
        return {name: counts[name] for name in VERDICTS if name in counts}

    def acquisitions(self) -> list[str]:
        """Ids of the acquisitions in this ledger."""
        return [row[0] for row in self._rows("SELECT id FROM acquisition ORDER BY opened")]

    def runs(self) -> list[str]:
        """Ids of the runs in this ledger."""
        return [row[0] for row in self._rows("SELECT id FROM run ORDER BY begun")]

    def acquisition_note(self, acquisition: str) -> AcquisitionNote | None:
        """The record of an acquisition; None if it is not in this ledger."""
        rows = self._rows(
            "SELECT name, raw, output, closed IS NOT NULL, acquired FROM acquisition WHERE id = ?",
            (acquisition,),
        )
        return next((AcquisitionNote(n, r, o, bool(c), a) for n, r, o, c, a in rows), None)

    def __len__(self) -> int:
        """Number of attempts in this ledger, of all runs and acquisitions."""
        return int(next(self._rows("SELECT count(*) FROM attempt"))[0])

    def check(self) -> None:
        """Check every page of the file.

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

        The copy is renamed to `path` only when it is complete, so that a killed process
        leaves the previous copy intact.

        Raises
        ------
        LedgerError
            If it cannot be written.
        """
        path = Path(path)
        fresh = path.with_name(path.name + ".new")
        try:
            # The remains of a killed process are of no use.
            files.remove(fresh, missing_ok=True)
            with closing(sqlite3.connect(fresh)) as copy:
                self._db.backup(copy)
                # The copy may be read from a network share: no write-ahead log there.
                copy.execute("PRAGMA journal_mode = DELETE")
            files.replace(fresh, path)
        except (OSError, sqlite3.Error) as error:
            with contextlib.suppress(OSError):
                files.remove(fresh)
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
        with self._changing() as db:
            db.execute(statement, values)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        try:
            with self._db:
                yield self._db
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger {self.path} cannot be written: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class Outcomes(Protocol):
    """The latest attempt at each frame."""

    def __iter__(self) -> Iterator[Fate]: ...

    def of(self, axes: str) -> Fate | None:
        """Outcome of one frame; None if there was no attempt."""
        ...


def was_taken_again(fates: Outcomes, axes: str) -> bool:
    """Whether raw keeps a later frame under these axes instead of the one that was refocused."""
    fate = fates.of(repeat_of(axes))
    return fate is not None and fate.reason == REPLACED


class Fates:
    """Outcome of the latest attempt of a run at each frame, in the order of their axes.

    Rows are read when they are asked for, so that memory does not grow with the frames.  Attempts
    that are recorded after this object was made do not count.

    Parameters
    ----------
    rows : callable
        Gives the rows of a query.
    columns : str
        The columns of the query that make a `Fate`.
    of : (str, str)
        Run and acquisition.
    """

    def __init__(
        self,
        rows: Callable[[str, tuple[object, ...]], Iterator[tuple[Any, ...]]],
        columns: str,
        of: tuple[str, str],
    ) -> None:
        self._rows, self._columns = rows, columns
        (newest,) = next(rows("SELECT coalesce(max(id), 0) FROM attempt", ()))
        self._among = (*of, newest)

    def __iter__(self) -> Iterator[Fate]:
        return self._read("GROUP BY axes")

    def of(self, axes: str) -> Fate | None:
        """Outcome of one frame; None if there was no attempt."""
        return next(self._read("AND axes = ? GROUP BY axes", axes), None)

    def _read(self, which: str, *values: str) -> Iterator[Fate]:
        # SQLite takes the other columns from the row that has the maximum.
        query = (
            f"SELECT {self._columns}, max(id) FROM attempt WHERE run = ? AND acquisition = ?"  # noqa: S608
            f" AND id <= ? {which}"
        )
        for axes, state, reason, after, before, _ in self._rows(query, (*self._among, *values)):
            yield Fate(axes, state, reason, _unsigned(after), _unsigned(before))


def _facts(path: Path, text: object) -> dict[str, Any]:
    try:
        facts = json.loads(text)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise LedgerError(f"the ledger {path} is damaged: {error}") from error
    if not isinstance(facts, dict):
        raise LedgerError(f"the ledger {path} is damaged: facts are {facts!r}")
    return facts


def _signed(checksum: int | None) -> int | None:
    """The same 64 bits as a signed number, because SQLite's integers are signed."""
    return checksum - (1 << 64) if checksum is not None and checksum >= 1 << 63 else checksum


def _unsigned(stored: int | None) -> int | None:
    return stored + (1 << 64) if stored is not None and stored < 0 else stored
