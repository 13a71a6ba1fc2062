"""A TIFF that another process is writing, read directory by directory.

Micro-Manager and ndstorage create a stack at its largest size (up to 4 GiB of zeros) and
truncate it when they are done, so its size says nothing.  A page is written in one go as directory,
pixels, metadata; the metadata come last, so a page is whole once they are there and are JSON.
The directory holds the offset of the next one before that is written: zeros at that offset mean
"not yet", and an offset of 0 means that the file is finished.

Sources: micro-manager/NDStorage ``NDTiffWriter.java``; ndstorage 0.1.18 ``ndtiff_file.py``;
micro-manager ``MultipageTiffWriter.java``.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.files import open_shared
from refocusd.formats.metadata import java_text, json_object
from refocusd.formats.tiff.page import MAX_FRAME_BYTES, PageFormat, Place
from refocusd.frame import MIN_SIDE, Pixels, checked_pixels

#: Tags.
_WIDTH, _HEIGHT, _BITS, _SAMPLES = 256, 257, 258, 277
_DESCRIPTION, _STRIP, _STRIP_BYTES, _METADATA = 270, 273, 279, 51123
_MARKED_HEADER = struct.Struct("<HHII")
_LITTLE_ENDIAN = 0x4949
#: Micro-Manager writes 13 to 17 entries.
_MOST_ENTRIES = 64
_MOST_METADATA = 1 << 26
#: Most pages read from a growing file in one call; the next call reads more.
_MOST_PAGES = 512

#: Opens a file for unbuffered reads; tests put a slow or failing disk here.
Opener = Callable[[Path], io.RawIOBase]


@dataclass(frozen=True, slots=True)
class Page:
    """One directory of a file that grows.

    Parameters
    ----------
    offset : int
        Of the directory.
    place : Place
        With its `trouble` if the pixels cannot be used.
    metadata : mapping
    following : int
        Where the next directory is or will be; 0 if there will be none.
    described : bool
        Whether the page has a description; that of the first page is written when the file is done.
    """

    offset: int
    place: Place
    metadata: Mapping[str, Any]
    following: int
    described: bool = False


class GrowingFile:
    """One TIFF that may grow while it is read; for one thread.

    Parameters
    ----------
    path : Path
    opener : callable
    says_depth : bool
        Whether pages state their bit depth correctly; otherwise it follows from the length of the
        strip, because ndstorage 0.1.18 states 16 bits for every frame.
    """

    def __init__(
        self, path: Path, opener: Opener = open_shared, *, says_depth: bool = False
    ) -> None:
        self.path = path
        self._says_depth = says_depth
        self._opener = opener
        self._file: io.RawIOBase | None = None

    def close(self) -> None:
        """Close the file until the next read."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def bytes_at(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer where the file ends.

        Raises
        ------
        OSError
        """
        buffer = bytearray(length)
        return bytes(buffer[: self._fill(offset, memoryview(buffer))])

    def words(self, offset: int, count: int) -> tuple[int, ...]:
        """`count` little-endian 32-bit words; zeros beyond the end of the file.

        Raises
        ------
        OSError
        """
        return struct.unpack(f"<{count}I", self.bytes_at(offset, 4 * count).ljust(4 * count, b"\0"))

    def first_directory(self, mark: int) -> int:
        """Offset of the first directory; 0 while there is no header with this writer's mark.

        Raises
        ------
        OSError
        """
        order, first, found = self.words(0, 3)
        return first if order & 0xFFFF == _LITTLE_ENDIAN and found == mark else 0

    def pages(self, offset: int) -> Iterator[Page]:
        """Whole pages from the directory at `offset` on, up to the last one there is (or `_MOST_PAGES`).

        Raises
        ------
        OSError
        """
        for _ in range(_MOST_PAGES):
            page = self.page(offset)
            if page is None:
                return
            yield page
            if page.following <= offset:
                return
            offset = page.following

    def page(self, offset: int) -> Page | None:
        """The page whose directory is at `offset`; None while it is not whole.

        Raises
        ------
        OSError
        """
        head = self.bytes_at(offset, 2 + 12 * _MOST_ENTRIES + 4)
        count = int.from_bytes(head[:2], "little")
        if not 0 < count <= _MOST_ENTRIES or len(head) < 6 + 12 * count:
            return None
        values: dict[int, tuple[int, int]] = {}
        for entry in range(count):
            tag, kind, number, value = struct.unpack_from("<HHII", head, 2 + 12 * entry)
            # A short is stored in the first half of its field.
            plain = value & 0xFFFF if kind == 3 and number == 1 else value
            if tag not in values:
                values[tag] = (number, plain)
        if not {_WIDTH, _HEIGHT, _BITS, _STRIP, _STRIP_BYTES, _METADATA} <= values.keys():
            return None
        (following,) = struct.unpack_from("<I", head, 2 + 12 * count)
        length, where = values[_METADATA]
        metadata = self.metadata(where, length)
        if metadata is None:
            return None
        place = _placed(values, self.path.name, self._says_depth)
        described = values.get(_DESCRIPTION, (0, 0))[0] > 0
        return Page(offset, place, metadata, following, described)

    def metadata(self, offset: int, length: int) -> dict[str, Any] | None:
        """The JSON at `offset`; None while it is not (wholly) there.

        Raises
        ------
        OSError
        """
        if not 0 < length <= _MOST_METADATA:
            return None
        data = self.bytes_at(offset, length)
        if len(data) < length or not data[0]:
            return None
        text = java_text(data.rstrip(b"\0"))
        # It is padded with blanks, and may consist of them only.
        return json_object(text) if text.strip() else {}

    def pixels(self, place: Place, what: str, into: Pixels | None = None) -> Pixels:
        """Pixels of one frame, shape (height, width); they are read into `into`, if that is given.

        Raises
        ------
        InputError
            If the file ends before.
        OSError
        """
        form = place.format
        frame = into
        if frame is None:
            frame = np.empty((form.height, form.width), form.dtype.newbyteorder("<"))
        buffer = frame.reshape(-1).view(np.uint8).data
        if self._fill(place.offset, buffer) < len(buffer):
            raise InputError(f"{self.path} ends within {what}: it was cut, or copied in part")
        return checked_pixels(frame.astype(form.dtype, copy=False), what=what)

    def _fill(self, offset: int, buffer: memoryview) -> int:
        if self._file is None:
            self._file = self._opener(self.path)
        filled = 0
        try:
            self._file.seek(offset)
            while filled < len(buffer):
                # Over a network a read may return less than there is.
                got = self._file.readinto(buffer[filled:])
                if not got:
                    break
                filled += got
        except OSError:
            # After a share came back, its old handles stay broken.
            self.close()
            raise
        return filled


def writer_mark(path: Path) -> int:
    """The number after a TIFF's header that marks the files of Micro-Manager's writers; 0 if there is none."""
    try:
        with open_shared(path) as file:
            head = file.read(12)
    except OSError:
        return 0
    order, _, _, mark = _MARKED_HEADER.unpack(head.ljust(12, b"\0"))
    return int(mark) if order == _LITTLE_ENDIAN else 0


def _placed(values: Mapping[int, tuple[int, int]], file: str, says_depth: bool) -> Place:
    width, height = values[_WIDTH][1], values[_HEIGHT][1]
    count, bits = values[_BITS]
    nbytes = values[_STRIP_BYTES][1]
    form, trouble = PageFormat(height, width, np.dtype(np.uint8)), ""
    if bits == 16 and (says_depth or nbytes != height * width):
        form = PageFormat(height, width, np.dtype(np.uint16))
    if values.get(_SAMPLES, (1, 1))[1] != 1 or count != 1:
        trouble = "is RGB; refocusd takes one channel a frame"
    elif bits not in (8, 16):
        trouble = f"has {bits}-bit pixels; refocusd takes camera counts of 8 or 16 bits"
    elif min(width, height) < MIN_SIDE or form.nbytes > MAX_FRAME_BYTES or form.nbytes != nbytes:
        trouble = f"is {form} in {nbytes} bytes, which is impossible"
    length, where = values[_METADATA]
    return Place(file, values[_STRIP][1], form, where, length, trouble)
