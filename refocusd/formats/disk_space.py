"""Disk space: what a dataset needs, what is free, and the error when it runs out."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from refocusd.errors import DiskFullError, OutputError

GIB = 1024**3
#: Bytes per frame besides its pixels: metadata (Micro-Manager gives up to 147 keys),
#: the TIFF directory and the index record.
METADATA_BYTES = 8192
#: Left free for the raw dataset's last frames, the system and others.
RESERVE_BYTES = 2 * GIB

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL, ERROR_FILE_TOO_LARGE, ERROR_DISK_QUOTA_EXCEEDED: Python
#: translates only one of them to a fitting `errno`.
_FULL_WINDOWS = {39, 112, 223, 1295}
#: Where long paths are not enabled, Windows reports a longer path as missing; the limit is 259
#: characters for a file and 247 for a folder.
MAX_PATH = 247
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def free_space_needed(frame_bytes: int, frames: int) -> int:
    """Bytes that a refocused dataset will take.

    Parameters
    ----------
    frame_bytes : int
        Bytes of one frame's pixels (height x width x bytes per pixel).
    frames : int
        Frames of the acquisition.
    """
    return frames * (frame_bytes + METADATA_BYTES)


def check_free_space(path: Path, needed_bytes: int, reserve_bytes: int = RESERVE_BYTES) -> None:
    """Check that the disk of `path` has room for what will be written there.

    Parameters
    ----------
    path : Path
        Where the dataset will be; it need not exist yet.
    needed_bytes : int
        Bytes that will be written, e.g. from `free_space_needed`.
    reserve_bytes : int
        Bytes that must stay free besides.

    Raises
    ------
    DiskFullError
        If there is less.
    OutputError
        If the free space cannot be determined.
    """
    try:
        free = shutil.disk_usage(nearest(path)).free
    except OSError as error:
        raise write_error(error, path, "asking for the free space") from error
    missing = needed_bytes + reserve_bytes - free
    if missing > 0:
        raise DiskFullError(
            f"{path}: the disk has {free / GIB:.2f} GiB free, but the dataset needs "
            f"{needed_bytes / GIB:.2f} GiB and {reserve_bytes / GIB:.2f} GiB are kept in reserve: "
            f"free {missing / GIB:.2f} GiB more, or choose another --output"
        )


def nearest(path: Path) -> Path:
    """The file or folder itself, or the nearest folder above it that exists."""
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    return there


def write_error(error: OSError, path: Path, doing: str) -> OutputError:
    """Turn the system's error about a file into an `OutputError` (a `DiskFullError` if that is the reason).

    Parameters
    ----------
    error : OSError
    path : Path
        The dataset's folder.
    doing : str
        What was tried, e.g. ``"writing frame {...}"``.
    """
    kind: type[OutputError] = OutputError
    place = str(error.filename or path)
    if error.errno in _FULL or getattr(error, "winerror", None) in _FULL_WINDOWS:
        kind = DiskFullError
        advice = "the disk is full: free some space there, then the frame can be written again"
    elif error.errno in _FORBIDDEN:
        advice = (
            "writing is not permitted there: change the folder's permissions, close the program "
            "that holds it open, or choose another --output"
        )
    elif error.errno == errno.ENAMETOOLONG or (
        hasattr(error, "winerror") and error.errno == errno.ENOENT and len(place) > MAX_PATH
    ):
        advice = (
            f"the path has {len(place)} characters, too many: choose an --output with a shorter one"
        )
    else:
        advice = "see that the disk is connected and writable, or choose another --output"
    return kind(f"{doing} in {path} failed ({error.strerror or error}): {advice}")
