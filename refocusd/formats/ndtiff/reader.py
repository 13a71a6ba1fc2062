"""NDTiff datasets by their index: finished, being written now, or left behind by a killed process."""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.files import open_shared
from refocusd.formats.metadata import java_text, json_object
from refocusd.formats.ndtiff.index import INDEX_NAME, NDTiffIndex
from refocusd.formats.ndtiff.layout import HEADER_BYTES, NDTIFF_MAGIC, summary_place
from refocusd.formats.placed_frames import PlacedFrames
from refocusd.formats.refocused_name import REFOCUSED_NAME
from refocusd.formats.scale import channel_label
from refocusd.formats.tiff.growing_file import GrowingFile, Opener, Place, writer_mark
from refocusd.formats.tiff.page import MAX_FRAME_BYTES

#: Version 2 keeps a multi-resolution dataset's frames in this folder.
FULL_RESOLUTION = "Full resolution"
#: Java's index until it is cut at the end (NDStorage, ``IndexWriter.java``).
PRESIZED_INDEX = 25 << 20
_MAX_SUMMARY_BYTES = 1 << 26


class NDTiffReader(PlacedFrames):
    """The frames of one NDTiff dataset, by its index; may be used from several threads.

    A frame that the index names and whose bytes are not in their file is missing
    until a `refresh` finds them.

    Parameters
    ----------
    path : str or Path
        The dataset's folder.
    max_frame_bytes : int
        A frame that claims to be larger is an error.
    opener : callable
        Opens the stacks.

    Raises
    ------
    InputError
        If there is no index, or a record before its last is damaged, names a
        file outside the dataset, or describes a frame that cannot be used.

    Examples
    --------
    >>> reader = NDTiffReader("data/run_1")  # doctest: +SKIP
    >>> frame = reader.read({"time": 0, "z": 3})  # doctest: +SKIP
    """

    source = "NDTiff's index"

    def __init__(
        self,
        path: str | Path,
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        opener: Opener = open_shared,
    ) -> None:
        super().__init__(Path(path), opener, name=place_of(Path(path).resolve()).name)
        self.catch_up_from = str(self.path)
        self._index = NDTiffIndex(self.path, max_frame_bytes)
        self._waiting: dict[str, Place] = {}
        self.refresh()
        if self._index.torn:
            self.source += ", which ends within a record: frames behind it are left out"

    @property
    def summary(self) -> dict[str, Any]:
        """Summary metadata of the first file; empty while there is none.

        Raises
        ------
        InputError
            If the file's header is damaged.
        """
        if self._summary is None and self._frames:
            name = next(iter(self._frames.values())).file
            with self._reading(name) as file:
                self._summary = summary_of(file)
            if self._summary is None:
                raise self._damaged(f"{name} does not start as an NDTiff file with a summary")
        return super().summary

    @property
    def finished(self) -> bool:
        """Whether its index is closed, and every frame that it names is there."""
        return not self._waiting and not index_is_open(self.path)

    def missing_keys(self) -> list[str]:
        """Frames that the index names, but whose bytes are not in their file (yet)."""
        with self._lock:
            return list(self._waiting)

    def missing_files(self) -> list[str]:
        """Files that the index names, and that are not there."""
        with self._lock:
            names = {entry.file for entry in self._waiting.values()}
        return sorted(name for name in names if not (self.path / name).exists())

    def _metadata(self, key: str) -> dict[str, Any]:
        return named_channel(super()._metadata(key), key, lambda: self.summary)

    def refresh(self) -> list[str]:
        """Take up what was appended since."""
        with self._lock:
            earlier, self._waiting = self._waiting, {}
            sizes: dict[str, int] = {}
            fresh: dict[str, None] = {}
            for key, entry in itertools.chain(earlier.items(), self._index.entries()):
                if entry.file not in sizes:
                    sizes[entry.file] = self._size_of(entry.file)
                if entry.end <= sizes[entry.file]:
                    self._frames[key] = entry
                    self._waiting.pop(key, None)
                    fresh[key] = None
                else:
                    self._waiting[key] = entry
            return list(fresh)

    def _size_of(self, name: str) -> int:
        try:
            status = (self.path / name).stat()
        except OSError:
            # A file that is not there (any more) has none of its frames.
            return 0
        return status.st_size if stat.S_ISREG(status.st_mode) else 0


def index_is_open(folder: Path) -> bool:
    """Whether the Java writer of a dataset has not cut its index yet.

    Raises
    ------
    OSError
    """
    return os.stat(folder / INDEX_NAME).st_size == PRESIZED_INDEX  # noqa: PTH116


def summary_of(file: GrowingFile) -> dict[str, Any] | None:
    """Summary metadata in a stack's header; None where it holds none.

    Raises
    ------
    OSError
    """
    try:
        start, length = summary_place(file.bytes_at(0, HEADER_BYTES))
    except ValueError:
        return None
    if length > _MAX_SUMMARY_BYTES:
        return None
    text = java_text(file.bytes_at(start, length).rstrip(b"\0")).strip()
    # pycromanager writes null where there is nothing to say.
    return {} if text in ("", "null") else json_object(text)


def named_channel(
    metadata: dict[str, Any], key: str, summary: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """A frame's metadata with the name of its channel.

    Acquisitions of Micro-Manager's GUI number their channels and name them in the summary only.
    """
    channel = json.loads(key).get("channel")
    if "Channel" in metadata or not isinstance(channel, int):
        return metadata
    with suppress(InputError, OSError):  # a damaged summary: the frame is whole
        name = channel_label(channel, summary())
        if name not in ("", "Default"):
            return {**metadata, "Channel": name}
    return metadata


def place_of(path: Path) -> Path:
    """What its owner takes for a dataset: its folder, or the one around ``Full resolution``."""
    return path.parent if path.name == FULL_RESOLUTION else path


def ndtiff_folder(path: Path) -> Path | None:
    """Find the NDTiff dataset that a path stands for; None if it stands for none.

    Raises
    ------
    InputError
        If it is the parent of several.
    """
    if path.is_file():
        of_dataset = path.name == INDEX_NAME or (
            (path.parent / INDEX_NAME).is_file() and writer_mark(path) == NDTIFF_MAGIC
        )
        return path.parent if of_dataset else None
    for folder in (path, path / FULL_RESOLUTION):
        if (folder / INDEX_NAME).is_file():
            return folder
    # A pipe of that name would be waited for.
    found = (entry for entry in path.glob(f"*/{INDEX_NAME}") if entry.is_file())
    inner = sorted(entry.parent for entry in found)
    names = {folder.name for folder in inner}
    # Our own output lies beside the raw dataset that it was made from.
    inner = [f for f in inner if REFOCUSED_NAME.sub("", f.name) not in names - {f.name}]
    if len(inner) > 1:
        raise InputError(
            f"{path} holds {len(inner)} NDTiff datasets ({', '.join(f.name for f in inner[:5])}"
            f"{', ...' if len(inner) > 5 else ''}): give one of them"
        )
    return inner[0] if inner else None
