"""Micro-Manager's image stack files (``*_MMStack_Pos0.ome.tif``), finished or being written.

A dataset is a folder with one or more files for each position.  Each file starts with Micro-Manager's
header, summary and index map; the map's entry is written before the frame, so the chain of
directories decides which frames exist.  The OME-XML comes last: once the first page has a
description, the file is finished.

Source: micro-manager ``MultipageTiffWriter.java``, ``FileSet.java``.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.files import open_shared
from refocusd.formats.metadata import java_text, json_object
from refocusd.formats.placed_frames import PlacedFrames
from refocusd.formats.tiff.growing_file import GrowingFile, Opener, Page, writer_mark
from refocusd.formats.tiff.micromanager import named_axes, said_axes
from refocusd.frame import AxisValue, canonical_axes
from refocusd.profiles.microscope_metadata import pixel_um_of, plausible_pixel_um

log = logging.getLogger(__name__)

_NAME = re.compile(r"MMStack.*\.tiff?$", re.IGNORECASE)
#: Numbers that open the blocks of a stack (micro-manager.org, "Micro-Manager File Formats").
_INDEX_MAP_OFFSET, _INDEX_MAP, _SUMMARY = 54773648, 3453623, 2355492
#: Columns of the index map; the fifth is the offset of the frame's directory.
_MAP_AXES = ("channel", "z", "time", "position")
_MOST_MAPPED = 1 << 20
_MOST_SUMMARY = 1 << 26
#: Zeros at the end of a file that was never finished.
_UNWRITTEN_BYTES = 1 << 12


def is_stack_name(name: str) -> bool:
    """Whether a file of this name is one of Micro-Manager's image stacks."""
    return _NAME.search(name) is not None


def is_stack(path: Path) -> bool:
    """Whether a file has the header of Micro-Manager's image stacks, whatever its name."""
    return writer_mark(path) == _INDEX_MAP_OFFSET


class MicroManagerStacks(PlacedFrames):
    """The frames of image stack files in one folder, or of one such file.

    Only the summary decides which axes a frame has, because it is there before the first
    frame: an axis along which it announces one frame is left out.

    Parameters
    ----------
    path : Path
        Their folder, or one of them.
    opener : callable
        Opens the files.
    growing : bool
        They are being written: pages that cannot be used are reported by `unusable`, and missing
        parts may still come.

    Raises
    ------
    InputError
        If they are not growing, and a file is damaged or has pages without axes.
    """

    source = "Micro-Manager's metadata"
    _says_depth = True

    def __init__(
        self, path: Path, opener: Opener = open_shared, *, name: str = "", growing: bool = False
    ) -> None:
        super().__init__(path, opener, name=name, growing=growing)
        #: Offsets of the first and the next directory of each file; the next is 0 after the last.
        self._first: dict[str, int] = {}
        self._next: dict[str, int] = {}
        self._maps: dict[str, dict[int, dict[str, AxisValue]]] = {}
        if not growing:
            with self:
                while self.refresh():
                    pass
                for file in self._names():
                    self._check_end(file)
                if self._frames:
                    self.first_key()  # says why none of them can be used

    @property
    def finished(self) -> bool:
        """Whether every file has its description: they are written together, at the end."""
        try:
            names = self._names()
            return bool(names) and all(self._is_done(name) for name in names)
        except OSError:
            return False

    def refresh(self) -> list[str]:
        """Find the frames that were written since the last call."""
        names = self._names()
        if not names and self._first:
            raise FileNotFoundError(f"the image stacks of {self.path} are gone")
        return [
            key for name in names if self._next.get(name) != 0 for key in self._from_chain(name)
        ]

    def _metadata(self, key: str) -> dict[str, Any]:
        metadata = super()._metadata(key)
        if (um := plausible_pixel_um(pixel_um_of(metadata, self.summary))) is not None:
            metadata.setdefault("PixelSizeUm", um)
        return {**metadata, "FileName": self._frames[key].file}

    def _names(self) -> list[str]:
        if self._folder != self.path:
            return [self.path.name]
        return sorted(entry.name for entry in os.scandir(self.path) if is_stack_name(entry.name))

    def _is_done(self, name: str) -> bool:
        if name not in self._first:
            return False
        with self._reading(name) as file:
            page = file.page(self._first[name])
        return page is not None and page.described

    def _from_chain(self, name: str) -> list[str]:
        """New frames of a file, after the last one known."""
        fresh: list[str] = []
        with self._reading(name) as file:
            if name not in self._first and not self._begin(file):
                return []
            for page in file.pages(self._next[name]):
                if key := self._take(page, file):
                    fresh.append(key)
                # 0 after the last page of a file that is full or done; otherwise the file is damaged.
                self._next[name] = page.following if page.following > page.offset else 0
                if page.following and not self._next[name] and not self._growing:
                    raise self._damaged(f"a page of {name} leads back to an earlier one")
        return fresh

    def _begin(self, file: GrowingFile) -> bool:
        """Whether a file's header is there; without its summary frames cannot be named."""
        if not (first := file.first_directory(_INDEX_MAP_OFFSET)):
            return False
        self._summary = self._summary or _summary_of(file)
        if self._growing and not self._summary:
            return False
        self._first[file.path.name] = self._next[file.path.name] = first
        return True

    def _take(self, page: Page, file: GrowingFile) -> str:
        """Note a page's frame; return its key if it is new, otherwise an empty text."""
        try:
            axes = said_axes(page.metadata) or self._mapped_axes(page.offset, file)
        except InputError:
            axes = {}
        key = canonical_axes(named_axes(axes, self.summary)) if axes else ""
        if not key or (page.place.trouble and self._growing):
            trouble = f"a page of {file.path.name} {page.place.trouble or 'has no axes'}"
            if not self._growing:
                raise InputError(f"{self.path} cannot be used: {trouble}")
            self._unusable[key] = trouble
            return ""
        fresh = key not in self._frames
        if not fresh and not self._growing:
            if len(runs := sorted({_NAME.split(name)[0] for name in self._first})) > 1:
                raise InputError(
                    f"{self.path} holds image stacks of {len(runs)} recordings ({', '.join(runs[:3])}): put "
                    "each into a folder of its own"
                )
            raise self._damaged(f"it has two frames with the axes {key}")
        self._frames[key] = page.place
        return key if fresh else ""

    def _mapped_axes(self, offset: int, file: GrowingFile) -> dict[str, AxisValue]:
        """Axes of the directory at a place, by the file's index map."""
        known = self._maps.setdefault(file.path.name, {})
        if offset not in known:
            known.update(_index_map(file))
        return known.get(offset, {})

    def _check_end(self, name: str) -> None:
        """Check that a file ends where its writer ended it, or where the writer died.

        Raises
        ------
        InputError
        """
        if name not in self._first:
            raise self._damaged(f"{name} has no header of Micro-Manager with a page")
        at = self._next[name]
        if not at:
            return
        size = (self._folder / name).stat().st_size
        with self._reading(name) as file:
            rest = file.bytes_at(max(at, size - _UNWRITTEN_BYTES), _UNWRITTEN_BYTES)
        # Files are created at their largest size, and truncated when they are finished.
        if not rest or rest.strip(b"\0"):
            raise self._damaged(f"the page of {name} at byte {at} is not whole")
        log.warning(
            "%s was never finished: Micro-Manager ended, or is still writing; its %d whole frames "
            "are read",
            self._folder / name,
            sum(place.file == name for place in self._frames.values()),
        )


def _summary_of(file: GrowingFile) -> dict[str, Any]:
    mark, length = file.words(32, 2)
    if mark != _SUMMARY or length > _MOST_SUMMARY:
        return {}
    return json_object(java_text(file.bytes_at(40, length))) or {}


def _index_map(file: GrowingFile) -> dict[int, dict[str, AxisValue]]:
    (where,) = file.words(12, 1)
    mark, count = file.words(where, 2)
    if mark != _INDEX_MAP:
        return {}
    data = file.bytes_at(where + 8, min(count, _MOST_MAPPED) * 20)
    rows = struct.iter_unpack("<5I", data[: len(data) // 20 * 20])
    return {at: dict(zip(_MAP_AXES, places, strict=True)) for *places, at in rows if at}
