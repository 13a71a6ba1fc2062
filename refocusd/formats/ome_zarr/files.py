"""Files of a dataset, put in place whole, and taken back where a frame fails."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

from refocusd.formats.ndtiff.stack import write_all

__all__ = ["Files", "remove_file", "remove_part"]

PART = ".part"
#: Windows replaces no file that a reader has open at that moment.
_REPLACE_TRIES, _REPLACE_WAIT_S = 50, 0.02


class Files:
    """What one frame changes in a dataset's folder, until it is kept or undone.

    Parameters
    ----------
    path : Path
        The dataset's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._undo: list[Callable[[], object]] = []

    def on_undo(self, action: Callable[[], object]) -> None:
        """Have something done by `undo`; it must do no harm when done twice."""
        self._undo.append(action)

    def put(self, name: str, data: bytes) -> None:
        """Replace a file by these bytes, if they differ: readers find the old or the new."""
        place = self._path / name
        try:
            before = place.read_bytes()
        except FileNotFoundError:
            before = None
        if before == data:
            return
        if before is None:
            self._undo.append(lambda: _remove(place, self._path))
        else:
            kept = before
            self._undo.append(lambda: _replace(place, kept))
        place.parent.mkdir(parents=True, exist_ok=True)
        _replace(place, data)

    def put_chunk(self, name: str, data: memoryview) -> None:
        """Add a file of pixels; nothing of it is seen before it is whole."""
        place = self._path / name
        self._undo.append(lambda: remove_file(self._path, name))
        place.parent.mkdir(parents=True, exist_ok=True)
        _replace(place, data)

    def keep(self) -> None:
        """Keep what was changed."""
        self._undo.clear()

    def undo(self) -> None:
        """Take back what was changed since `keep`, in the same order.

        The pixels come first, so that on a full disk there is room for the rest.

        Raises
        ------
        OSError
            If the system refuses; what is left can be tried again.
        """
        while self._undo:
            self._undo[0]()
            del self._undo[0]


def remove_file(path: Path, name: str) -> None:
    """Remove a file of the dataset in `path`, begun or whole, with folders that become empty."""
    remove_part(path, name)
    _remove(path / name, path)


def remove_part(path: Path, name: str) -> None:
    """Remove what a killed writer left of a file that it had begun."""
    _part(path / name).unlink(missing_ok=True)


def _replace(place: Path, data: bytes | memoryview) -> None:
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


def _remove(place: Path, root: Path) -> None:
    place.unlink(missing_ok=True)
    for folder in place.relative_to(root).parents[:-1]:
        try:
            (root / folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return  # other frames are in it


def _part(place: Path) -> Path:
    return place.with_name(place.name + PART)
