"""Marks of open acquisitions, so that they are found without opening thousands of ledgers.

``<ledgers>/open/<id>.json`` holds the announcement of an acquisition from the time it
is opened until it is closed with nothing pending. A daemon that starts picks up the
acquisitions that it finds there.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from refocusd.errors import LedgerError
from refocusd.files import read_limited, remove, write_whole

log = logging.getLogger(__name__)

FOLDER = "open"
#: An announcement holds at most 1 MiB of summary metadata, which JSON may escape.
MAX_MARK_BYTES = 8 << 20
_ID = re.compile(r"[0-9a-f-]{36}")


@dataclass(frozen=True, slots=True)
class OpenMark:
    """An acquisition that was open: its id and its announcement (JSON, not yet validated)."""

    acquisition: str
    open_json: bytes


def mark_open(ledgers: str | Path, open_json: bytes, acquisition: str) -> None:
    """Mark an acquisition as open; replaces an earlier mark of it.

    Parameters
    ----------
    ledgers : path
        Folder of the ledgers.
    open_json : bytes
        The announcement: a JSON object with the same ``acquisition``.
    acquisition : str
        UUID.

    Raises
    ------
    LedgerError
        If it cannot be written.
    """
    place = _place(ledgers, acquisition)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, open_json, private=True)
    except OSError as error:
        raise LedgerError(
            f"the open acquisition cannot be noted in {place} ({error.strerror or error}): a daemon "
            "that is killed would not pick it up again; make room there, or name a folder on another "
            "local disk as `ledgers`"
        ) from error


def unmark(ledgers: str | Path, acquisition: str) -> None:
    """Remove the mark of an acquisition that was closed with nothing pending.

    Raises
    ------
    LedgerError
        If the mark cannot be removed.
    """
    place = _place(ledgers, acquisition)
    with suppress(OSError):  # held by another process on Windows
        remove(begin_lock(ledgers, acquisition), missing_ok=True)
    try:
        remove(place, missing_ok=True)
    except OSError as error:
        raise LedgerError(
            f"{place} cannot be removed ({error.strerror or error}): the next daemon will look at "
            "that acquisition once more"
        ) from error


def begin_lock(ledgers: str | Path, acquisition: str) -> Path:
    """File that is locked by the process that begins the output of an acquisition."""
    return _place(ledgers, acquisition).with_suffix(".begin")


def is_marked(ledgers: str | Path, acquisition: str) -> bool:
    """Whether an acquisition is marked as open."""
    return _place(ledgers, acquisition).is_file()


def marked(ledgers: str | Path) -> list[OpenMark]:
    """The acquisitions that were open, the oldest mark first.

    Files that are not marks are named in the log and left alone. If the folder does
    not exist, there are no marks.
    """
    found: list[tuple[float, OpenMark]] = []
    folder = Path(ledgers) / FOLDER
    try:
        files = sorted(folder.glob("*.json"))
    except OSError as error:
        log.warning("the open acquisitions in %s cannot be read: %s", folder, error)
        return []
    for file in files:
        try:
            found.append((file.stat().st_mtime, _read(file)))
        except FileNotFoundError:
            continue  # closed meanwhile
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s is no mark of an open acquisition (%s): left alone", file, error)
    return [mark for _, mark in sorted(found, key=lambda pair: pair[0])]


def _read(file: Path) -> OpenMark:
    acquisition = file.stem
    if not _ID.fullmatch(acquisition):
        raise ValueError("its name is no UUID")
    text = read_limited(file, MAX_MARK_BYTES)
    said = json.loads(text)
    if not isinstance(said, dict) or said.get("acquisition") != acquisition:
        raise ValueError("it is not the announcement of that acquisition")
    return OpenMark(acquisition, text)


def _place(ledgers: str | Path, acquisition: str) -> Path:
    if not _ID.fullmatch(acquisition):
        raise LedgerError(f"{acquisition!r} is no UUID: it cannot name a file of ours")
    return Path(ledgers) / FOLDER / f"{acquisition}.json"
