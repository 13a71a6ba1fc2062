"""Restores a lost or damaged ledger from its copy and from the refocused frames."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from refocusd import files
from refocusd.errors import LedgerError
from refocusd.ledger.attempt import WRITTEN, Attempt
from refocusd.ledger.ledger import Ledger
from refocusd.ledger.schema import SCHEMA, columns, connect, version_of

log = logging.getLogger(__name__)

#: Attempts recorded in one transaction.
BATCH = 1000
_ID = re.compile(r"[0-9a-f-]{36}")
#: Files that SQLite keeps beside a database; they are moved together with it.
_SIDE_FILES = ("-wal", "-shm", "-journal")
#: Parts of a frame's ``refocusd`` object that have their own column, or belong to the run.
_NOT_FACTS = {
    "version", "run", "model", "model_sha256", "engine", "precision", "state", "reason", "live",
    "latency_ms", "calibration", "checksum", "raw_checksum",
}  # fmt: skip


def ledger_path(ledgers: str | Path, acquisition: str) -> Path:
    """Path of the ledger of an acquisition; each has its own SQLite file.

    Raises
    ------
    LedgerError
        If `acquisition`, which names the file, is not a UUID.
    """
    if not _ID.fullmatch(acquisition):
        raise LedgerError(f"{acquisition!r} is no UUID: it cannot name a ledger")
    return Path(ledgers) / f"{acquisition}.sqlite"


def restore_ledger(ledgers: str | Path, acquisition: str, copy: str | Path) -> list[str]:
    """Make sure that the local ledger of an acquisition is usable.

    A damaged file is set aside (never deleted), and the copy beside the output
    replaces one that is damaged or missing (on another computer, or after a
    fresh installation). If there is no usable copy either, there is no ledger
    afterwards, and `rebuild` makes a new one. If the copy has later attempts (the
    dataset was continued on another computer), they are added. No other process may
    be writing the ledger.

    Parameters
    ----------
    ledgers : path
        Folder of the local ledgers.
    acquisition : str
        UUID.
    copy : path
        The copy beside the output; it need not exist.

    Returns
    -------
    list of str
        What was done, in sentences; empty if nothing had to be done.

    Raises
    ------
    LedgerError
        If a file cannot be moved or copied, or is of a newer schema.
    """
    path, copy = ledger_path(ledgers, acquisition), Path(copy)
    done: list[str] = []
    if path.exists():
        damage = _damage(path)
        if not damage:
            return _take_over(path, copy)
        aside = _set_aside(path)
        done.append(f"the ledger {path} is damaged ({damage}): it was set aside as {aside.name}")
    if not copy.exists():
        done.append(f"no ledger and no copy of {acquisition}: made anew from the refocused frames")
        return done
    if damage := _damage(copy):
        done.append(f"the ledger's copy {copy} is damaged too ({damage}): not used")
        return done
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(files.for_its_user(str(fresh), os.O_RDWR | os.O_CREAT))
        shutil.copyfile(copy, fresh)
        files.replace(fresh, path)
    except OSError as error:
        raise LedgerError(
            f"the ledger's copy {copy} cannot be put back as {path} ({error.strerror or error}): "
            "name a folder on a local disk as `ledgers`"
        ) from error
    done.append(f"the ledger was put back from its copy {copy}")
    return done


def _take_over(path: Path, copy: Path) -> list[str]:
    """Add the attempts that only the copy has to the local ledger."""
    if not copy.exists() or _damage(copy):
        return []
    with Ledger(copy, read_only=True) as ledger:
        there = len(ledger)
    with Ledger(path) as ledger:
        if there <= len(ledger) or not (taken := _merge(ledger, copy)):
            return []
    return [f"{taken} attempts were taken over from the ledger's copy {copy}"]


def _merge(ledger: Ledger, copy: Path) -> int:
    """Add the attempts of a copy that are later than the last ones here; returns their number.

    Raises
    ------
    LedgerError
        If the copy cannot be read, or the ledger cannot be written.
    """
    with Ledger(copy, read_only=True) as other:
        theirs = columns(other.version)
    newer_here = (
        "SELECT 1 FROM attempt AS own WHERE own.run = theirs.run AND"
        " own.acquisition = theirs.acquisition AND own.axes = theirs.axes AND own.at >= theirs.at"
    )
    db = ledger._db
    try:
        db.execute("ATTACH DATABASE ? AS other", (str(copy),))
        try:
            with db:
                for table in ("run", "acquisition"):
                    db.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}")  # noqa: S608
                return db.execute(
                    f"INSERT INTO main.attempt ({columns(SCHEMA)})"  # noqa: S608
                    f" SELECT {theirs} FROM other.attempt AS theirs"
                    f" WHERE NOT EXISTS ({newer_here}) ORDER BY id"
                ).rowcount
        finally:
            db.execute("DETACH DATABASE other")
    except sqlite3.Error as error:
        raise LedgerError(f"{copy} cannot be taken over into {ledger.path}: {error}") from error


def rebuild(
    ledger: Ledger,
    run: str,
    acquisition: str,
    frames: Iterable[tuple[str, Mapping[str, Any]]],
) -> int:
    """Record frames that are in the refocused dataset but not in the ledger.

    There are such frames if a process was killed between writing the two, or if the
    ledger was lost.

    Parameters
    ----------
    ledger : Ledger
        Open for writing.
    run, acquisition : str
        Of the dataset.
    frames : iterable of (str, mapping)
        Canonical axes and metadata of each frame of the dataset; the metadata's
        ``refocusd`` object says what became of it.  Read one by one.

    Returns
    -------
    int
        Number of frames recorded.

    Raises
    ------
    LedgerError
        If the ledger cannot be written.
    """
    # If an attempt failed, the frame in the dataset belongs to a later attempt.
    lost = (
        (axes, metadata)
        for axes, metadata in frames
        if ledger.state_of(run, acquisition, axes) not in WRITTEN
    )
    recorded = 0
    attempts = _attempts(run, acquisition, lost)
    while batch := list(itertools.islice(attempts, BATCH)):
        ledger.record(batch)
        recorded += len(batch)
    return recorded


def _attempts(
    run: str,
    acquisition: str,
    frames: Iterable[tuple[str, Mapping[str, Any]]],
) -> Iterator[Attempt]:
    for axes, metadata in frames:
        ours = metadata.get("refocusd")
        if not isinstance(ours, Mapping) or ours.get("run") != run:
            log.warning("frame %s does not say that run %s made it: not recorded", axes, run)
            continue
        state = ours.get("state")
        if state not in WRITTEN:
            log.warning("frame %s has the state %r: not recorded", axes, state)
            continue
        yield Attempt(
            run=run,
            acquisition=acquisition,
            axes=axes,
            state=state,
            reason=str(ours.get("reason") or ""),
            live=bool(ours.get("live", False)),
            latency_ms=_number(ours.get("latency_ms")),
            engine_ms=_number(ours.get("engine_ms")),
            facts={name: value for name, value in ours.items() if name not in _NOT_FACTS},
            checksum=_checksum(ours.get("checksum")),
            raw_checksum=_checksum(ours.get("raw_checksum")),
        )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _checksum(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 1 << 64 else None


def _damage(path: Path) -> str:
    """Describe what is wrong with a ledger; empty if it is sound. Reads the whole file once.

    Raises
    ------
    LedgerError
        If it has a newer schema, which is not damage.
    """
    try:
        with closing(connect(path, read_only=True)) as db:
            newer = version_of(db) > SCHEMA
    except (OSError, sqlite3.Error) as error:
        return str(error)
    try:
        with Ledger(path, read_only=True) as ledger:
            ledger.check()
            len(ledger)  # checks that its tables exist
    except LedgerError as error:
        if newer:
            raise
        return str(error.__cause__ or error)
    return ""


def _set_aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in itertools.count():
        aside = path.with_name(f"{path.name}.damaged-{stamp}" + (f"-{number}" if number else ""))
        if not aside.exists():
            break
    try:
        for suffix in _SIDE_FILES:
            side = path.with_name(path.name + suffix)
            if side.exists():
                files.replace(side, aside.with_name(aside.name + suffix))
        files.replace(path, aside)
    except OSError as error:
        raise LedgerError(
            f"the damaged ledger {path} cannot be set aside ({error.strerror or error}): close the "
            "program that holds it open"
        ) from error
    return aside
