"""Files of a dataset, put in place whole and removed without a trace."""

from __future__ import annotations

import contextlib
from pathlib import Path

from refocusd import files
from refocusd.formats.ndtiff.stack import write_all

PART = ".part"


def put(place: Path, data: bytes | memoryview) -> None:
    """Write a file, or replace it: readers find the old bytes or the new ones."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = _part(place)
    try:
        with files.open_file(part, "w") as file:
            write_all(file, data)
        files.replace(part, place)
    except OSError:
        with contextlib.suppress(OSError):
            files.remove(part)
        raise


def put_changed(place: Path, data: bytes) -> None:
    """As `put`, unless the file holds these bytes already."""
    with contextlib.suppress(FileNotFoundError):
        if place.read_bytes() == data:
            return
    put(place, data)


def remove_file(path: Path, name: str) -> None:
    """Remove a file of the dataset in `path`, begun or whole, with folders that become empty."""
    remove_part(path, name)
    files.remove(path / name, missing_ok=True)
    for folder in Path(name).parents[:-1]:
        try:
            (path / folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return  # other frames are in it


def remove_part(path: Path, name: str) -> None:
    """Remove the part of a file that a killed writer had begun."""
    files.remove(_part(path / name), missing_ok=True)


def _part(place: Path) -> Path:
    return place.with_name(place.name + PART)
