"""NDTiff datasets by their index: finished, being written now, or left behind by a killed process."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
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
from refocusd.formats.tiff.growing_file import GrowingFile, Opener, Page, writer_mark
from refocusd.formats.tiff.page import MAX_FRAME_BYTES, Place
from refocusd.frame import canonical_axes

log = logging.getLogger(__name__)

#: Version 2 keeps a multi-resolution dataset's frames in this folder.
FULL_RESOLUTION = "Full resolution"
#: Bytes of Java's index until it is truncated at the end (NDStorage, ``IndexWriter.java``).
PRESIZED_INDEX = 25 << 20
_MAX_SUMMARY_BYTES = 1 << 26
#: ``run_NDTiffStack.tif``, ``run_NDTiffStack_1.tif``, ...; Java's first has its prefix alone.
_STACK = re.compile(r"NDTiffStack(?:_(\d+))?\.tif$", re.IGNORECASE)
#: From a directory's pointer to the next one up to its pixels: the pointer and two resolutions.
_POINTER_BEFORE_PIXELS = 4 + 16


class NDTiffReader(PlacedFrames):
    """The frames of one NDTiff dataset, by its index; may be used from several threads.

    A frame that the index names, but whose bytes are not in their file, is missing
    until a `refresh` finds them.  A frame that is RGB or of another unusable type is
    listed like the others, and `unfit`.

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
        file outside the dataset, or no frame can be used.

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
        if self._frames and all(map(self.unfit, self._frames)):
            self.first_key()  # says why; no file is opened for it
        if self._index.torn:
            self.source += ", which ends within a record: frames after it are left out"

    @property
    def summary(self) -> dict[str, Any]:
        """Summary metadata of the first file; empty while there is no file.

        Raises
        ------
        InputError
            If the file's header is damaged.
        """
        if self._summary is None and self._frames:
            name = next(iter(self._frames.values())).file
            with self._reading(name) as file:
                self._summary = summary_of(file)
                if self._summary is None and file.first_directory(NDTIFF_MAGIC):
                    self._summary = {}
                    self.source += ", without the summary, which is damaged"
            if self._summary is None:
                raise self._damaged(f"{name} does not start as an NDTiff file with a summary")
        return super().summary

    @property
    def finished(self) -> bool:
        """Whether its index is closed, and every frame that the index names is there."""
        return not self._waiting and not index_is_open(self.path)

    def missing_keys(self) -> list[str]:
        """Frames that the index names, but whose bytes are not in their file (yet)."""
        with self._lock:
            return list(self._waiting)

    def missing_files(self) -> list[str]:
        """Files that the index names, but that do not exist."""
        with self._lock:
            names = {entry.file for entry in self._waiting.values()}
        return sorted(name for name in names if not (self.path / name).exists())

    def _metadata(self, key: str) -> dict[str, Any]:
        return named_channel(super()._metadata(key), key, lambda: self.summary)

    def refresh(self) -> list[str]:
        """Find the frames that were appended since the last call."""
        with self._lock:
            earlier, self._waiting = self._waiting, {}
            sizes: dict[str, int] = {}
            fresh: dict[str, None] = {}
            for key, entry in itertools.chain(earlier.items(), self._index.entries()):
                if entry.file not in sizes:
                    sizes[entry.file] = self._size_of(entry.file)
                if entry.trouble or entry.end <= sizes[entry.file]:
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
    """Whether the Java writer of a dataset has not truncated its index yet.

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
    """The folder that users regard as the dataset: this one, or the one around ``Full resolution``."""
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
    # Opening a pipe of that name would block.
    found = (entry for entry in path.glob(f"*/{INDEX_NAME}") if entry.is_file())
    inner = sorted(entry.parent for entry in found)
    # Our own output lies beside its raw dataset, or inside it if that is a drive's root.
    names = {"", *(folder.name for folder in inner)}
    inner = [f for f in inner if REFOCUSED_NAME.sub("", f.name) not in names - {f.name}]
    if len(inner) > 1:
        raise InputError(
            f"{path} holds {len(inner)} NDTiff datasets ({', '.join(f.name for f in inner[:5])}"
            f"{', ...' if len(inner) > 5 else ''}): give one of them"
        )
    return inner[0] if inner else None


class GrowingNDTiff(PlacedFrames):
    """An NDTiff dataset by its index, and by its directories where the index lags.

    Java pre-sizes the index to 25 MiB of zeros and adds a frame's entry once the frame is written;
    Python buffers its index, so that frames are in the stack long before they are in the index.  So
    the index is read first, and then the chain of directories is followed from the last frame that
    the index names.

    Parameters
    ----------
    path : Path
        Folder of ``NDTiff.index``.
    opener : callable
        Opens the stacks.
    """

    source = "NDTiff's index and directories"

    def __init__(self, path: Path, opener: Opener = open_shared) -> None:
        super().__init__(path, opener, name=place_of(path.resolve()).name, growing=True)
        self.catch_up_from = str(self.path)
        self._index = NDTiffIndex(self.path, MAX_FRAME_BYTES)
        self._index_trouble = ""
        #: Keys that were found in the chain, and are not in the index yet.
        self._ahead: set[str] = set()
        #: Where the next directory of each stack is or will be, and its last frame's place.
        self._next: dict[str, int] = {}
        self._last: dict[str, Place] = {}
        #: Whether Java's index was seen at its full size; truncating it is the writer's last step.
        self._seen_open = False

    @property
    def summary(self) -> dict[str, Any]:
        """Summary metadata in the first stack's header; empty while there is none."""
        if not self._summary and (stacks := self._stacks()):
            with suppress(OSError), self._reading(stacks[0]) as file:
                self._summary = summary_of(file)
        return super().summary

    @property
    def finished(self) -> bool:
        """Whether its writer is done.

        It has then truncated the index, or the last stack after its last frame, and the index lists
        all frames.
        """
        try:
            if index_is_open(self.path) or (self._ahead and not self._index_trouble):
                return False
            if self._seen_open and self._frames:
                # The stacks may be truncated later, when Micro-Manager's window is closed.
                return True
            stacks = self._stacks()
            last = self._last.get(stacks[-1]) if stacks else None
            if last is None:
                return False
            end = last.metadata_offset + last.metadata_length
            if os.stat(self.path / stacks[-1]).st_size > end + 1:  # noqa: PTH116
                return False
            with self._reading(stacks[-1]) as file:
                pointer = file.words(last.offset - _POINTER_BEFORE_PIXELS, 1)
        except OSError:
            return False
        return pointer == (0,)

    def unlisted(self) -> set[str]:
        """Frames that the dataset's own index does not name (yet)."""
        return set(self._ahead)

    def refresh(self) -> list[str]:
        """Find the frames that were written since the last call."""
        # An unreachable index raises, and the caller waits; a damaged one is done without.
        size = os.stat(self.path / INDEX_NAME).st_size  # noqa: PTH116
        self._seen_open |= size == PRESIZED_INDEX
        fresh = self._from_index()
        # Earlier stacks are full: the index has them.
        for stack in self._stacks()[-2:]:
            fresh += self._from_chain(stack)
        return fresh

    def _metadata(self, key: str) -> dict[str, Any]:
        return named_channel(super()._metadata(key), key, lambda: self.summary)

    def _from_index(self) -> list[str]:
        fresh = []
        try:
            for key, entry in self._index.entries():
                if self._note(key, entry):
                    fresh.append(key)
                self._ahead.discard(key)
        except InputError as error:
            if isinstance(error.__cause__, OSError):
                raise OSError(str(error)) from error
            if not self._index_trouble:
                log.warning("%s: its frames are found without the index from here on", error)
            self._index_trouble = str(error)
        return fresh

    def _note(self, key: str, place: Place) -> bool:
        """Note a frame; return whether it is new and can be used."""
        name = place.file
        end = place.metadata_offset + place.metadata_length
        is_later = end + end % 2 > self._next.get(name, 0)
        if is_later:
            # Directories begin on a word.
            self._next[name] = end + end % 2
            self._last[name] = place
        if place.trouble:
            self._unusable[key] = f"the frame {place.trouble}"
            return False
        known = self._frames.get(key)
        if known is not None and (known.file, known.offset) != (place.file, place.offset):
            if not is_later:
                return False  # of an index that lags behind the chain: it was replaced since
            self._replaced.append(key)
        self._frames[key] = place
        return known is None

    def _from_chain(self, name: str) -> list[str]:
        """New frames of a stack, after the last one known."""
        fresh: list[str] = []
        with self._reading(name) as file:
            if name not in self._next:
                if not (first := file.first_directory(NDTIFF_MAGIC)):
                    return []
                self._next[name] = first
            for page in file.pages(self._next[name]):
                self._take(page, fresh)
                # 0 after the last page of a stack that is full or done.
                self._next[name] = max(self._next[name], page.following)
        return fresh

    def _take(self, page: Page, fresh: list[str]) -> None:
        axes = page.metadata.get("Axes")
        try:
            key = canonical_axes(axes) if isinstance(axes, dict) and axes else ""
        except InputError:
            key = ""
        if not key and not page.place.trouble:
            return  # the index will say which frame it is
        if self._note(key, page.place):
            fresh.append(key)
            self._ahead.add(key)

    def _stacks(self) -> list[str]:
        """Names of the stacks, by number; if none has such a name, those that the index gave.

        Raises
        ------
        OSError
        """
        numbered = []
        for entry in os.scandir(self.path):
            match = _STACK.search(entry.name)
            if match:
                numbered.append((int(match[1] or 0), entry.name))
        return [name for _, name in sorted(numbered)] or list(self._last)
