"""One writer for each dataset: a lock that ends with the process that holds it."""

from __future__ import annotations

import io
import os
from pathlib import Path

from refocusd import files
from refocusd.errors import OutputError

#: Part of the error about a lock that is held: a caller that can wait recognises it by this text.
BEING_WRITTEN = "is being written by another process"


def lock_for_writing(file: io.FileIO) -> None:
    """Lock an open file until it is closed or the process ends.

    A file system without locks (some network shares) is written without one.

    Raises
    ------
    OutputError
        If another writer holds it.
    """
    if not files.lock(file.fileno()):
        raise OutputError(
            f"{file.name} {BEING_WRITTEN}: wait until it has finished, or stop it, then try again"
        )


def open_locked(path: Path) -> io.FileIO:
    """Open a file, which is created if it is missing, and take its lock.

    Raises
    ------
    OutputError
        If another writer holds it.
    OSError
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = files.open_file(path, "r+", lambda name, how: os.open(name, how | os.O_CREAT, 0o666))
    try:
        lock_for_writing(file)
    except BaseException:
        file.close()
        raise
    return file
