"""Files replaced, deleted and written whole, although another program may hold them for a moment.

On Windows a virus scanner, an indexer or a backup opens a file that has just been
written, and a rename, a delete or even an open is refused until it lets go.  The functions here try
again for about 1.5 s, and then raise the system's error.  `open_shared` is the counterpart, and does
not wait: a file that is open here can still be renamed or deleted by others.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import re
import secrets
import shlex
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from refocusd.errors import InputError, OutputError, RefocusdError

#: Waits between attempts, in seconds.
DELAYS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
#: ERROR_ACCESS_DENIED (also a file that is about to be deleted), ERROR_SHARING_VIOLATION,
#: ERROR_LOCK_VIOLATION.
HELD_BY_ANOTHER = frozenset({5, 32, 33})

#: Byte that is locked on Windows: far beyond the end of any index, because a lock there also keeps
#: readers out.
LOCKED_BYTE = 2**31 - 2
#: Error numbers that mean another process holds the lock.
_LOCKED = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})

_Result = TypeVar("_Result")
_file = io.FileIO


if sys.platform == "win32":
    import _winapi
    import msvcrt

    #: FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_SHARE_DELETE: `open` leaves out the last.
    _SHARE_ALL = 1 | 2 | 4

    _get_doserrno = ctypes.CDLL("ucrtbase")._get_doserrno

    def native(error: OSError) -> OSError:
        """The error of a read or write, with Windows' own number: the C library gives only its own.

        It must be called before any other system call fails.
        """
        number = ctypes.c_ulong()
        _get_doserrno(ctypes.byref(number))
        if error.winerror or not number.value:
            return error
        return OSError(0, ctypes.FormatError(number.value), error.filename, number.value)

    class _Reading(io.FileIO):
        """Has Windows' own numbers in its errors."""

        def read(self, size: int | None = -1, /) -> bytes | None:  # type: ignore[override]
            try:
                return super().read(-1 if size is None else size)
            except OSError as error:
                raise native(error) from None

        def readinto(self, buffer: Any, /) -> int | None:
            try:
                return super().readinto(buffer)
            except OSError as error:
                raise native(error) from None

    def _open(name: str, flags: int) -> int:
        """Open an existing file for reading; `io.FileIO` calls this with its own flags."""
        try:
            handle = _winapi.CreateFile(
                name, _winapi.GENERIC_READ, _SHARE_ALL, 0, _winapi.OPEN_EXISTING, 0, 0
            )
        except OSError as error:
            error.filename = name
            raise
        return msvcrt.open_osfhandle(handle, flags)

else:
    _Reading = io.FileIO

    def native(error: OSError) -> OSError:
        """The error itself: only Windows has another number for it."""
        return error

    def _open(name: str, flags: int) -> int:
        """Open an existing file for reading; refuse a pipe or a device, which could block."""
        descriptor = os.open(name, flags | os.O_NONBLOCK)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # reading a folder gives a better error
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", name)


def open_shared(path: Path) -> io.FileIO:
    """Open a file for unbuffered reads, so that others may append to, rename or delete it.

    Raises
    ------
    OSError
    """
    return _Reading(str(path), "r", opener=_open)


def exists(path: Path) -> bool:
    """Whether there is a file or folder; not, where its disk or share does not answer.

    `Path.exists` and the like raise then, before Python 3.13.
    """
    return os.path.exists(path)  # noqa: PTH110


def open_file(path: Path, mode: str, opener: Callable[[str, int], int] | None = None) -> io.FileIO:
    """Open a file as `io.FileIO` does.

    Raises
    ------
    OSError
        If the system still refuses after about 1.5 s.
    """
    return _patiently(lambda: _file(path, mode, opener=opener))


def for_its_user(name: str, flags: int) -> int:
    """Opener that creates files which no other user may read; an existing file keeps its mode."""
    return os.open(name, flags, 0o600)


def in_command(path: str | Path) -> str:
    """A path as it is typed in a terminal, with quotes if it needs them."""
    return in_windows_command(str(path)) if os.name == "nt" else shlex.quote(str(path))


def in_windows_command(path: str) -> str:
    """A path as both cmd and PowerShell take it; `list2cmdline` quotes blanks only, not ``&`` or ``(``."""
    if re.fullmatch(r"[\w.:\\/+~-]+", path):
        return path
    # A backslash before the last quote would make that a part of the path.
    return f'"{path}\\"' if path.endswith("\\") else f'"{path}"'


def read_limited(path: Path, most_nbytes: int) -> bytes:
    """Content of a file of at most `most_nbytes` bytes; anything larger, or not a file, is refused.

    Raises
    ------
    OSError
        If it cannot be read, is a pipe or a device, or is larger (EFBIG).
    """
    with _patiently(lambda: open_shared(path)) as file:
        data = file.read(most_nbytes + 1) or b""
        while len(data) <= most_nbytes and (more := file.read(most_nbytes + 1 - len(data))):
            data += more
    if len(data) > most_nbytes:
        raise OSError(errno.EFBIG, f"it is larger than {most_nbytes} bytes", str(path))
    return data


def replace(source: Path, target: Path) -> None:
    """Rename a file, over the target if there is one; or a folder, to a name that is free.

    Raises
    ------
    OSError
        If the system still refuses after about 1.5 s.
    """
    _patiently(lambda: source.replace(target))


def remove(path: Path, *, missing_ok: bool = False) -> None:
    """Delete a file.

    Raises
    ------
    OSError
        If the system still refuses after about 1.5 s, or (unless `missing_ok`) there is none.
    """
    _patiently(lambda: path.unlink(missing_ok=missing_ok))


def remove_tree(path: Path) -> bool:
    """Delete a folder and its contents as far as possible; return whether it is gone."""
    for delay_s in (*DELAYS_S, 0.0):
        shutil.rmtree(path, ignore_errors=True)
        if os.name != "nt" or not path.exists():
            break
        time.sleep(delay_s)
    return not path.exists()


def lock(file: int) -> bool:
    """Lock an open file without waiting; the lock lasts until it is closed or the process ends.

    Parameters
    ----------
    file : int
        File descriptor.

    Returns
    -------
    bool
        False if another process holds it; True also on a file system without locks (some network
        shares).
    """
    try:
        if sys.platform == "win32":
            os.lseek(file, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _LOCKED
    return True


@contextmanager
def output(path: Path) -> Iterator[None]:
    """Make the folder of an output file, and turn an `OSError` of the block into one clear error.

    Parameters
    ----------
    path : Path
        The file, which the block writes.

    Raises
    ------
    OutputError
        Names the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}): name another place"
        ) from error


def check_writable(path: Path) -> None:
    """Check, before long work, that a file or folder can be made at this path; make its folder.

    Raises
    ------
    OutputError
    """
    with output(path), tempfile.TemporaryFile(dir=path.parent):
        pass


@contextmanager
def reading(path: Path, kind: type[RefocusdError] = InputError) -> Iterator[None]:
    """Turn an `OSError` of the block into one clear error that names the file or folder.

    Parameters
    ----------
    path : Path
        The file or folder, which the block reads.
    kind : type
        Type of the error to raise.

    Raises
    ------
    RefocusdError
    """
    try:
        yield
    except OSError as error:
        raise kind(
            f"{path} cannot be read ({error.strerror or error}): check it and its permissions"
        ) from error


def write_whole(path: Path, *parts: bytes, private: bool = False) -> None:
    """Write a file so that its readers see the old content or the new, never a part.

    Parameters
    ----------
    path : Path
        In a folder that exists.
    *parts : bytes
        The content.
    private : bool
        Whether other users must not be able to read it.

    Raises
    ------
    OSError
        If it cannot be written.  What was at `path` before is still there.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with open(new, "xb", opener=for_its_user if private else None) as file:
            file.writelines(parts)
            # The content must be on the disk before the file gets its name.
            file.flush()
            os.fsync(file.fileno())
        replace(new, path)
    except BaseException:
        with suppress(OSError):
            remove(new)
        raise


def _patiently(action: Callable[[], _Result]) -> _Result:
    for delay_s in DELAYS_S:
        try:
            return action()
        except OSError as error:
            if not _is_held(error):
                raise
        time.sleep(delay_s)
    return action()


def _is_held(error: OSError) -> bool:
    """Whether another program holds the file, as far as the error shows.

    On other systems than Windows, a lack of permission does not pass.
    """
    number = getattr(error, "winerror", None)
    return refused_to_open(error) or number in HELD_BY_ANOTHER or error.errno == errno.EBUSY


def refused_to_open(error: OSError) -> bool:
    """Whether Windows refused to open a file: there, `open` does not give Windows' own number."""
    return getattr(error, "winerror", 0) is None and error.errno == errno.EACCES
