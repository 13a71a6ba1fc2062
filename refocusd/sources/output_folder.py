"""Where an acquisition that keeps no raw data on disk is refocused into."""

from __future__ import annotations

import re
import time
from pathlib import Path

from refocusd.datasets.run_folder import refocused_path

__all__ = ["fresh_output"]


def fresh_output(folder: Path, name: str) -> Path:
    """A folder that does not exist yet: ``<name>_<date>-<time>_refocused`` in `folder`."""
    stem = re.sub(r"[^\w.-]+", "_", name).strip("._") or "MDA"
    wanted = refocused_path(folder / f"{stem}_{time.strftime('%Y%m%d-%H%M%S')}")
    number, free = 1, wanted
    while free.exists():
        number += 1
        free = wanted.with_name(f"{wanted.name}_{number}")
    return free.absolute()
