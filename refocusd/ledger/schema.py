"""The ledger's tables, and the upgrade of those of an older refocusd."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from urllib.parse import quote

from refocusd.errors import LedgerError
from refocusd.files import for_its_user
from refocusd.ledger.attempt import Attempt

#: Increased when a table changes; a file with a newer schema is refused.
SCHEMA = 2
#: The oldest schema that is still read, and is upgraded when opened for writing.
OLDEST = 1

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
    latency_ms REAL, engine_ms REAL, facts TEXT NOT NULL,
    checksum INTEGER, raw_checksum INTEGER);  -- XXH3 of the pixels, as signed 64-bit numbers
CREATE INDEX IF NOT EXISTS attempt_of_frame ON attempt (run, acquisition, axes);
"""
#: How long to wait for a file that another process has locked, in ms.
BUSY_MS = 5000
#: Columns of `attempt` that schema 1 does not have.
_SINCE_2 = ("checksum", "raw_checksum")
#: Columns that hold an `Attempt`.
ATTEMPT = tuple(field.name for field in fields(Attempt))


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open a file, for reading only, or for writing; it is then created if it does not exist.

    Raises
    ------
    OSError, sqlite3.Error
    """
    if read_only:
        # Not `as_uri`: SQLite refuses the server name of a Windows share there.
        name = path.resolve().as_posix()
        root = "//" if name.startswith("//") else ""
        db = sqlite3.connect(f"file:///{root}{quote(name.lstrip('/'))}?mode=ro", uri=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives the files beside it the same mode.
        os.close(for_its_user(str(path), os.O_RDWR | os.O_CREAT))
        db = sqlite3.connect(path)
    # Set this first: a process that upgrades the file may lock it for a moment.
    db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return db


def open_file(path: Path, *, read_only: bool) -> tuple[sqlite3.Connection, int]:
    """Open a ledger; it is upgraded when opened for writing, and left as it is for reading.

    Returns
    -------
    sqlite3.Connection
    int
        The schema that the file has.

    Raises
    ------
    LedgerError
        If the file cannot be opened, is not a ledger, or has a newer schema.
    """
    db: sqlite3.Connection | None = None
    try:
        db = connect(path, read_only=read_only)
        if not read_only:
            # A killed process loses nothing that was committed. Only a power cut can
            # lose the last moments, and those frames are then pending again.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
        version = version_of(db)
        if not read_only:
            version = _prepare(db, version)
        if OLDEST <= version <= SCHEMA:
            return db, version
    except (OSError, sqlite3.Error) as error:
        if db is not None:
            db.close()
        raise LedgerError(
            f"the ledger {path} cannot be opened ({error}); name a folder on a local disk as "
            "`ledgers` in the settings"
        ) from error
    db.close()
    raise LedgerError(
        f"the ledger {path} has schema {version}, this refocusd has {SCHEMA}; use the "
        "refocusd that wrote it, or name another folder as `ledgers`"
    )


def version_of(db: sqlite3.Connection) -> int:
    """Schema of an open file; 0 for an empty one."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _prepare(db: sqlite3.Connection, version: int) -> int:
    """Create the tables of an empty file, or upgrade those of an older schema.

    Nothing is lost if the process is killed meanwhile: each step is one
    transaction, and is repeated if it was not committed.

    Returns
    -------
    int
        The schema that the file has now.
    """
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
        return SCHEMA
    if version == 1:
        db.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have upgraded it while this one waited for the lock.
            there = {row[1] for row in db.execute("PRAGMA table_info(attempt)")}
            for column in _SINCE_2:
                if column not in there:
                    db.execute(f"ALTER TABLE attempt ADD COLUMN {column} INTEGER")
            db.execute("PRAGMA user_version = 2")
        except sqlite3.Error:
            db.rollback()
            raise
        db.commit()
        return 2
    return version


def columns(version: int, names: Iterable[str] = ATTEMPT) -> str:
    """Columns of `attempt` in a query; NULL for those that the file's schema does not have."""
    return ", ".join("NULL" if version < 2 and name in _SINCE_2 else name for name in names)
