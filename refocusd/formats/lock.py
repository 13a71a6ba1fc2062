"""One writer a dataset: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import io
import sys

from refocusd.errors import OutputError

#: Byte that Windows locks: far behind every index, for its locks bind readers too.
LOCKED_BYTE = 2**31 - 2

#: In the error of a lock that is held: who sees it may wait.
BEING_WRITTEN = "is being written by another process"
#: What the system says when somebody else holds the lock.
HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


def lock_for_writing(file: io.FileIO) -> None:
    """Take the lock of an open file, until it is closed or the process ends.

    A file system without locks (some network shares) is written without one.

    Raises
    ------
    OutputError
        If another writer holds it.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise OutputError(
                f"{file.name} {BEING_WRITTEN}: wait until it has finished, or stop it, then try again"
            ) from error
