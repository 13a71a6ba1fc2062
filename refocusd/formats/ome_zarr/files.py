"""Files of a dataset, put in place whole and removed without a trace."""

from __future__ import annotations

import contextlib
import io
import os
import time
from pathlib import Path

from refocusd.formats.ndtiff.stack import write_all

__all__ = ["put", "remove_file", "remove_part"]

PART = ".part"
#: Windows replaces no file that a reader has open at that moment.
_REPLACE_TRIES, _REPLACE_WAIT_S = 50, 0.02


def put(place: Path, data: bytes | memoryview) -> None:
    """Write a file, or replace it: readers find the old bytes or the new ones."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = _part(place)
    try:
        with io.FileIO(part, "w") as file:
            write_all(file, data)
        for left in reversed(range(_REPLACE_TRIES)):
            try:
                part.replace(place)
                break
            except PermissionError:
                if os.name != "nt" or not left:
                    raise
                time.sleep(_REPLACE_WAIT_S)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def remove_file(path: Path, name: str) -> None:
    """Remove a file of the dataset in `path`, begun or whole, with folders that become empty."""
    remove_part(path, name)
    (path / name).unlink(missing_ok=True)
    for folder in Path(name).parents[:-1]:
        try:
            (path / folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return  # other frames are in it


def remove_part(path: Path, name: str) -> None:
    """Remove what a killed writer left of a file that it had begun."""
    _part(path / name).unlink(missing_ok=True)


def _part(place: Path) -> Path:
    return place.with_name(place.name + PART)
