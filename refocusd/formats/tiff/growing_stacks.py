"""Micro-Manager's image stack files (``*_MMStack_Pos0.ome.tif``) while they are written.

A dataset is a folder with a file or more for each position.  Each file starts with Micro-Manager's
header, summary and index map; the map's entry is written before the frame, so the chain of
directories decides.  The OME-XML comes last: a first page with a description is a file that is
done.

Source: micro-manager ``MultipageTiffWriter.java``, ``FileSet.java``.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.formats.growing import GrowingFrames
from refocusd.formats.tiff.arrangement import (
    from_micromanager,
    json_object,
    without_constant_axes,
)
from refocusd.formats.tiff.growing_file import GrowingFile, Opener, Page, open_file
from refocusd.frame import AxisValue, Frame, canonical_axes

__all__ = ["GrowingStacks", "is_stack_name"]

_NAME = re.compile(r"MMStack.*\.tiff?$", re.IGNORECASE)
_INDEX_MAP_OFFSET, _INDEX_MAP, _SUMMARY = 54773648, 3453623, 2355492
_MAP_AXES = ("channel", "z", "time", "position")
_MOST_SUMMARY = 1 << 26
#: What the summary calls the number of frames along each axis.
_SIZES = {"time": "Frames", "z": "Slices", "channel": "Channels", "position": "Positions"}
#: Pages taken in one look; more follow at the next.
_MOST_PAGES = 512


def is_stack_name(name: str) -> bool:
    """Whether a file of this name is one of Micro-Manager's image stacks."""
    return _NAME.search(name) is not None


class GrowingStacks(GrowingFrames):
    """A `GrowingDataset` of image stack files in one folder.

    Axes along which the summary announces one frame only are left out, as `open_recording`
    leaves out those that turned out to be constant.

    Parameters
    ----------
    path : Path
        Their folder.
    opener : callable
        Opens the files.
    """

    def __init__(self, path: Path, opener: Opener = open_file) -> None:
        super().__init__(path, opener)
        self._summary: Mapping[str, Any] = {}
        #: Where the next directory of each file is or will be; 0 behind its last.
        self._next: dict[str, int] = {}
        self._first: dict[str, int] = {}

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the first file's header says; empty while there is none."""
        return self._summary

    @property
    def finished(self) -> bool:
        """Whether every file has its description: they are written together, at the end."""
        try:
            names = self._names()
            return bool(names) and all(self._is_done(name) for name in names)
        except OSError:
            return False

    def refresh(self) -> list[str]:
        """Take up what was written since."""
        names = self._names()
        if not names and self._first:
            raise FileNotFoundError(f"the image stacks of {self.path} are gone")
        fresh: list[str] = []
        for name in names:
            if self._next.get(name) != 0:
                fresh += self._from_chain(name)
        return fresh

    def read(self, key: str) -> Frame:
        """One frame with its metadata; named by its file, as in a recording."""
        frame = super().read(key)
        metadata = {**frame.metadata, "FileName": self._place(key)[0]}
        return Frame(frame.pixels, frame.axes, metadata)

    def _is_done(self, name: str) -> bool:
        if name not in self._first:
            return False
        page = self._in(name).page(self._first[name])
        return page is not None and page.described

    def _from_chain(self, name: str) -> list[str]:
        file = self._in(name)
        if name not in self._first:
            order, first, mark = file.words(0, 3)
            if order & 0xFFFF != 0x4949 or mark != _INDEX_MAP_OFFSET or not first:
                return []
            self._summary = self._summary or _summary_of(file)
            if not self._summary:
                return []  # the header is being written; without it frames cannot be named
            self._first[name] = self._next[name] = first
        fresh: list[str] = []
        for _ in range(_MOST_PAGES):
            page = file.page(self._next[name])
            if page is None:
                break
            key = self._key(page, file)
            if not key or page.place is None:
                self._unusable[key] = f"a page of {name} {page.trouble or 'has no axes'}"
            else:
                if key not in self._frames:
                    fresh.append(key)
                self._frames[key] = (name, page.place)
            if page.following <= page.offset:
                # 0 behind the last page of a file that is full or done; else it is damaged.
                self._next[name] = 0
                break
            self._next[name] = page.following
        return fresh

    def _key(self, page: Page, file: GrowingFile) -> str:
        said = page.metadata
        mapped = _in_map(file, page.offset) if "FrameIndex" not in said else None
        try:
            placed = from_micromanager([said], [mapped], dict(self._summary))
        except InputError:
            return ""
        if placed is None:
            return ""
        return canonical_axes(self._varying(placed.frames[0].axes))

    def _varying(self, axes: Mapping[str, AxisValue]) -> dict[str, AxisValue]:
        """Axes without those that the summary says are constant."""
        constant = {
            axis
            for axis, size in _SIZES.items()
            if self._summary.get(size) == 1 and isinstance(axes.get(axis), int)
        }
        kept = {axis: value for axis, value in axes.items() if axis not in constant}
        return kept or without_constant_axes([axes])[0]

    def _names(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.path) if is_stack_name(entry.name))


def _summary_of(file: GrowingFile) -> Mapping[str, Any]:
    mark, length = file.words(32, 2)
    if mark != _SUMMARY or length > _MOST_SUMMARY:
        return {}
    return json_object(file.bytes_at(40, length).decode("utf-8", "replace")) or {}


def _in_map(file: GrowingFile, offset: int) -> dict[str, int] | None:
    """Axes of the directory at a place, by the file's index map."""
    (where,) = file.words(12, 1)
    mark, count = file.words(where, 2)
    if mark != _INDEX_MAP:
        return None
    data = file.bytes_at(where + 8, min(count, 1 << 20) * 20)
    for *places, at in struct.iter_unpack("<5I", data[: len(data) // 20 * 20]):
        if at == offset:
            return dict(zip(_MAP_AXES, places, strict=True))
        if not at:
            break
    return None
