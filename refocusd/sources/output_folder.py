"""The output folder of an acquisition that keeps no raw data on disk."""

from __future__ import annotations

import re
import time
from pathlib import Path

from refocusd.datasets.run_folder import made_by, refocused_path

#: Characters of an acquisition's name that the folder takes over: Windows limits the whole path.
MAX_NAME = 60


def output_folder(
    folder: Path, name: str, started_s: float | None = None, acquisition: str = ""
) -> Path:
    """The output of an acquisition: ``<name>_<date>-<time>_refocused`` in `folder`.

    Parameters
    ----------
    folder : Path
    name : str
    started_s : float, optional
        When it was begun, in seconds since 1970; now by default.
    acquisition : str
        Its id: where a folder of that name is its own already, it is that one.  Otherwise the
        folder does not exist yet.
    """
    # Windows takes a name of a device for the device, whatever comes after the first dot.
    stem = re.sub(r"[^\w.-]+", "_", name[:MAX_NAME]).strip("._") or "MDA"
    stem = re.sub(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(?=\.)", r"\1_", stem)
    begun = time.strftime("%Y%m%d-%H%M%S", time.localtime(started_s))
    wanted = refocused_path(folder / f"{stem}_{begun}")
    number, free = 1, wanted
    while free.exists() and not (acquisition and made_by(free).get("acquisition") == acquisition):
        number += 1
        free = wanted.with_name(f"{wanted.name}_{number}")
    return free.absolute()
