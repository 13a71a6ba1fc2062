"""NDTiff datasets while Micro-Manager (Java) or ndstorage (Python) writes them.

Java pre-sizes the index to 25 MiB of zeros and adds a frame's entry once the frame is written;
Python buffers its index, so that frames are in the stack long before they are in there.  So the
index is read first, and behind the last frame that it names the chain of directories is walked.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.files import open_shared
from refocusd.formats.ndtiff.index import INDEX_NAME, NDTiffIndex
from refocusd.formats.ndtiff.layout import NDTIFF_MAGIC
from refocusd.formats.ndtiff.reader import (
    PRESIZED_INDEX,
    index_is_open,
    named_channel,
    place_of,
    summary_of,
)
from refocusd.formats.placed_frames import PlacedFrames
from refocusd.formats.tiff.growing_file import Opener, Page, Place
from refocusd.formats.tiff.page import MAX_FRAME_BYTES
from refocusd.frame import canonical_axes

log = logging.getLogger(__name__)

#: ``run_NDTiffStack.tif``, ``run_NDTiffStack_1.tif``, ...; Java's first has its prefix alone.
_STACK = re.compile(r"NDTiffStack(?:_(\d+))?\.tif$", re.IGNORECASE)
#: Between a directory's pointer to the next one and its pixels: two resolutions.
_POINTER_BEFORE_PIXELS = 4 + 16


class GrowingNDTiff(PlacedFrames):
    """An NDTiff dataset by its index, and by its directories where the index lags.

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
        #: Keys that the chain gave and the index does not have yet.
        self._ahead: set[str] = set()
        #: Where the next directory of each stack is or will be, and its last frame's place.
        self._next: dict[str, int] = {}
        self._last: dict[str, Place] = {}
        #: Whether Java's index was seen before it was cut, which is the last thing that is written.
        self._seen_open = False

    @property
    def summary(self) -> dict[str, Any]:
        """What the first stack's header says; empty while there is none."""
        if not self._summary and (stacks := self._stacks()):
            with suppress(OSError), self._reading(stacks[0]) as file:
                self._summary = summary_of(file)
        return super().summary

    @property
    def finished(self) -> bool:
        """Whether its index was cut, or its last stack behind its last frame, and the index is complete."""
        try:
            if index_is_open(self.path) or (self._ahead and not self._index_trouble):
                return False
            if self._seen_open and self._frames:
                return True  # the stacks may be cut later: when Micro-Manager's window is closed
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
        """Take up what was written since."""
        # An index that cannot be reached is for the caller, who waits; one that is damaged is not.
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
        """Whether the frame was not known."""
        name = place.file
        end = place.metadata_offset + place.metadata_length
        if end + end % 2 > self._next.get(name, 0):
            # Directories begin on a word.
            self._next[name] = end + end % 2
            self._last[name] = place
        new = key not in self._frames
        self._frames[key] = place
        return new

    def _from_chain(self, name: str) -> list[str]:
        """Frames behind the last one that is known of a stack."""
        fresh: list[str] = []
        with self._reading(name) as file:
            if name not in self._next:
                if not (first := file.first_directory(NDTIFF_MAGIC)):
                    return []
                self._next[name] = first
            for page in file.pages(self._next[name]):
                self._take(page, fresh)
                # 0 behind the last page of a stack that is full or done.
                self._next[name] = max(self._next[name], page.following)
        return fresh

    def _take(self, page: Page, fresh: list[str]) -> None:
        axes = page.metadata.get("Axes")
        try:
            key = canonical_axes(axes) if isinstance(axes, dict) and axes else ""
        except InputError:
            key = ""
        if page.place is None:
            self._unusable[key] = f"the frame {page.trouble}"
            return
        if not key:
            return  # the index will say which frame it is
        if self._note(key, page.place):
            fresh.append(key)
            self._ahead.add(key)

    def _stacks(self) -> list[str]:
        """The stacks by number; what the index names may be called otherwise.

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
