"""Datasets whose frames are stored uncompressed at known places in TIFF files that may grow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.files import open_shared
from refocusd.formats.dataset import Dataset
from refocusd.formats.tiff.growing_file import GrowingFile, Opener
from refocusd.formats.tiff.page import PageFormat, Places
from refocusd.frame import Pixels


class PlacedFrames(Dataset):
    """What NDTiff and Micro-Manager's image stacks have in common; safe for several threads.

    Parameters
    ----------
    path : Path
        The dataset's folder, or one file that is read by itself.
    opener : callable
        Opens its files.
    growing : bool
        Another process is writing it: a failed read raises an `OSError`, because a network share
        may come back; otherwise an `InputError`.
    """

    _frames: Places
    #: Whether the bit depth that pages state is right.
    _says_depth = False

    def __init__(
        self, path: Path, opener: Opener = open_shared, *, name: str = "", growing: bool = False
    ) -> None:
        super().__init__(path, name)
        self._frames = Places()
        self._folder = self.path.parent if self.path.is_file() else self.path
        self._opener = opener
        self._growing = growing
        self._lock = threading.RLock()
        self._file: GrowingFile | None = None

    def is_whole(self, key: str) -> bool:
        """Whether pixels and metadata of a frame are on disk: the metadata are written last."""
        place = self._frames[self._key(key)]
        with self._reading(place.file) as file:
            return file.metadata(place.metadata_offset, place.metadata_length) is not None

    def close(self) -> None:
        """Close the open file until the next read."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def unfit(self, key: str) -> str:
        """Why the pixels of a frame cannot be used, though it is whole; empty if they can."""
        return self._frames[key].trouble

    def _format(self, key: str) -> PageFormat:
        return self._frames[key].format

    def _metadata(self, key: str) -> dict[str, Any]:
        place = self._frames[key]
        with self._reading(place.file) as file:
            found = file.metadata(place.metadata_offset, place.metadata_length)
        if found is None:
            if self._growing:
                raise InputError(f"frame {key} of {self.path} is not wholly in {place.file} (yet)")
            raise self._damaged(f"frame {key} is not wholly in {place.file}, or has no metadata")
        return found

    def _pixels(self, key: str) -> Pixels:
        place = self._frames[key]
        if place.trouble:
            raise self._unfit(key)
        with self._reading(place.file) as file:
            return file.pixels(place, f"frame {key}")

    @contextmanager
    def _reading(self, name: str) -> Iterator[GrowingFile]:
        """The file of this name; the one that was open before is closed."""
        path = self._folder / name
        with self._lock:
            if self._file is None or self._file.path != path:
                self.close()
                self._file = GrowingFile(path, self._opener, says_depth=self._says_depth)
            try:
                yield self._file
            except OSError as error:
                if self._growing:
                    raise
                raise InputError(
                    f"{path} cannot be read ({error.strerror or error}): check the disk"
                ) from error
