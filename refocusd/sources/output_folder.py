"""The output folder of an acquisition that keeps no raw data on disk."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

from refocusd.datasets.run_folder import made_by, refocused_path

#: At most this many characters of an acquisition's name are used: Windows limits the whole path.
MAX_NAME = 60
_lock = threading.Lock()
#: Outputs of acquisitions that this process has begun.
_given: set[Path] = set()


def output_folder(
    folder: Path, name: str, started_s: float | None = None, acquisition: str = ""
) -> Path:
    """The output of an acquisition: ``<name>_<date>-<time>_refocused`` in `folder`.

    Parameters
    ----------
    folder : Path
    name : str
    started_s : float, optional
        When it was begun, in seconds since 1970; by default now.
    acquisition : str
        Its id.  A folder of that name that this acquisition has made already is used again; otherwise
        the folder returned does not exist yet.
    """
    # On Windows the name of a device means the device, whatever comes after the first dot.
    stem = re.sub(r"[^\w.-]+", "_", name[:MAX_NAME]).strip("._") or "MDA"
    stem = re.sub(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(?=\.)", r"\1_", stem)
    begun = time.strftime("%Y%m%d-%H%M%S", time.localtime(started_s))
    wanted = refocused_path(folder / f"{stem}_{begun}")
    number, free = 1, wanted.absolute()
    with _lock:
        while not _is_free(free, acquisition):
            number += 1
            free = free.with_name(f"{wanted.name}_{number}")
        if not acquisition:
            _given.add(free)
    return free


def _is_free(folder: Path, acquisition: str) -> bool:
    if acquisition:
        return not folder.exists() or made_by(folder).get("acquisition") == acquisition
    # The daemon makes the folder when the first frame comes; the next acquisition may begin before that.
    return not (folder.exists() or folder in _given)
