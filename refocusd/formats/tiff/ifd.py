"""The directories of a TIFF file (IFDs), read strictly.

General TIFF libraries repair what they read: strips that are missing are made
up, sizes that disagree are logged, a broken chain of pages ends early.  That is
right for looking at a picture and wrong here, where a page too few or a frame
of another size must be an error before an acquisition is replayed.  So every
offset, count and size is checked against the file, and nothing is mended.

Source: TIFF 6.0 (Adobe 1992) and the BigTIFF design (AWare Systems 2007).
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from refocusd.errors import InputError

__all__ = ["MAX_PAGES", "Directory", "Tag", "TiffStructure"]

#: More pages than any recording has; a chain that goes on is taken for corrupt.
MAX_PAGES = 1 << 20
#: More entries than any page has (vendors write some dozens).
MAX_ENTRIES = 1024
#: Longest value of one tag: descriptions of 100 000 planes take some 30 MiB.
MAX_TAG_BYTES = 1 << 28

#: Bytes and struct code of each type of value (TIFF 6.0 p. 15, BigTIFF 16-18).
_TYPES: Mapping[int, tuple[int, str]] = {
    1: (1, "B"),
    2: (1, "s"),
    3: (2, "H"),
    4: (4, "I"),
    5: (8, "II"),
    6: (1, "b"),
    7: (1, "s"),
    8: (2, "h"),
    9: (4, "i"),
    10: (8, "ii"),
    11: (4, "f"),
    12: (8, "d"),
    13: (4, "I"),
    16: (8, "Q"),
    17: (8, "q"),
    18: (8, "Q"),
}
_UNSIGNED = (1, 3, 4, 13, 16, 18)
_RATIONAL = 5


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry of a directory: where its values are, and how many.

    Parameters
    ----------
    kind : int
        TIFF type, 1-18.
    count : int
        Number of values (characters, of a text).
    offset : int
        Place of the first value in the file, in bytes.
    """

    kind: int
    count: int
    offset: int


@dataclass(frozen=True, slots=True)
class Directory:
    """One IFD: what is said of one page.

    Parameters
    ----------
    offset : int
        Its place in the file, in bytes.
    tags : mapping of int to Tag
        By tag number; of tags given twice the first.
    """

    offset: int
    tags: Mapping[int, Tag]


class TiffStructure:
    """Header and directories of one open TIFF file.

    Parameters
    ----------
    path : Path
        Opened for unbuffered, ordinary reads; never memory-mapped.

    Raises
    ------
    InputError
        If the file cannot be read or is not a TIFF.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = io.FileIO(path, "r")
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror or error}): check the path and its permissions"
            ) from error
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._file.close()

    def damaged(self, what: str) -> InputError:
        """Make the error for a file of which `what` is wrong."""
        return InputError(
            f"{self.path} is damaged or incomplete: {what}; copy the file again, or export it anew"
        )

    def read_at(self, offset: int, length: int, what: str) -> bytes:
        """Exactly `length` bytes from `offset`.

        Raises
        ------
        InputError
            If they do not all lie in the file; `what` says what they hold.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.damaged(
                f"{what} lies at byte {offset} to {offset + length} of a file of {self.size} bytes"
            )
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer), what)
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview, what: str) -> None:
        """Fill `buffer` (of bytes) from `offset`.

        Raises
        ------
        InputError
            If the file ends before, or the disk fails.
        """
        filled = 0
        try:
            self._file.seek(offset)
            while filled < len(buffer):
                got = self._file.readinto(buffer[filled:])
                if not got:
                    break
                filled += got
        except (OSError, OverflowError) as error:
            raise InputError(f"{self.path} cannot be read at byte {offset}: {error}") from error
        if filled < len(buffer):
            raise self.damaged(f"the file ends within {what}")

    def directories(self) -> Iterator[Directory]:
        """All pages in file order, each checked.

        Raises
        ------
        InputError
            If the chain leaves the file, returns to a page, or has over 2^20 of them.
        """
        seen: set[int] = set()
        offset = self._first
        while offset:
            if offset in seen:
                raise self.damaged(f"page {len(seen)} leads back to an earlier one")
            if len(seen) >= MAX_PAGES:
                raise self.damaged(f"it has more than {MAX_PAGES} pages")
            directory, offset_of_next = self._directory(offset, len(seen))
            seen.add(offset)
            yield directory
            offset = offset_of_next

    def directory(self, offset: int) -> Directory:
        """Read the directory at a place that `directories` gave before."""
        return self._directory(offset, None)[0]

    def numbers(self, directory: Directory, code: int, *, most: int = 1) -> tuple[int, ...]:
        """Unsigned integers of a tag; empty if it is absent.

        Raises
        ------
        InputError
            If they are of another type or more than `most`.
        """
        tag = directory.tags.get(code)
        if tag is None:
            return ()
        if tag.kind not in _UNSIGNED:
            raise self.damaged(f"tag {code} of a page has type {tag.kind}, not an unsigned integer")
        if not 0 < tag.count <= most:
            raise self.damaged(f"tag {code} of a page has {tag.count} values, not 1 to {most}")
        size, letter = _TYPES[tag.kind]
        data = self.read_at(tag.offset, size * tag.count, f"tag {code} of a page")
        return struct.unpack(f"{self.order}{tag.count}{letter}", data)

    def number(self, directory: Directory, code: int, default: int) -> int:
        """Read the unsigned integer of a tag, or `default` if it is absent."""
        values = self.numbers(directory, code)
        return values[0] if values else default

    def rational(self, directory: Directory, code: int) -> float | None:
        """Read the fraction of a tag; None if it is absent, of another type or not positive."""
        tag = directory.tags.get(code)
        if tag is None or tag.kind != _RATIONAL or tag.count != 1:
            return None
        data = self.read_at(tag.offset, 8, f"tag {code} of a page")
        numerator, denominator = struct.unpack(f"{self.order}II", data)
        return numerator / denominator if numerator and denominator else None

    def text(self, directory: Directory, code: int) -> str | None:
        """Read the text of a tag without trailing NULs; None if it is absent or of another type."""
        tag = directory.tags.get(code)
        if tag is None or tag.kind not in (1, 2, 7):
            return None
        data = self.read_at(tag.offset, tag.count, f"tag {code} of a page").rstrip(b"\0")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data.decode("latin-1")

    def _read_header(self) -> None:
        if self.size == 0:
            raise InputError(f"{self.path} is an empty file: copy it again, or export it anew")
        head = self.read_at(0, min(16, self.size), "the header").ljust(16, b"\0")
        self.order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        version = struct.unpack(f"{self.order or '<'}H", head[2:4])[0]
        if not self.order or version not in (42, 43):
            raise InputError(
                f"{self.path} is not a TIFF file (it starts with {head[:4]!r}): give a TIFF, an "
                "OME-TIFF, an NDTiff dataset or a folder of TIFFs"
            )
        self._big = version == 43
        if self._big:
            if struct.unpack(f"{self.order}HH", head[4:8]) != (8, 0):
                raise self.damaged("its BigTIFF header does not have offsets of 8 bytes")
            self._first = struct.unpack(f"{self.order}Q", head[8:16])[0]
        else:
            self._first = struct.unpack(f"{self.order}I", head[4:8])[0]
        if self._first == 0:
            raise self.damaged("it holds no page")

    def _directory(self, offset: int, page: int | None) -> tuple[Directory, int]:
        what = "a page's directory" if page is None else f"the directory of page {page}"
        count_code, entry_bytes, pointer = ("Q", 20, "Q") if self._big else ("H", 12, "I")
        count_bytes, pointer_bytes = (
            struct.calcsize(f"<{count_code}"),
            struct.calcsize(f"<{pointer}"),
        )
        (count,) = struct.unpack(
            f"{self.order}{count_code}", self.read_at(offset, count_bytes, what)
        )
        if not 0 < count <= MAX_ENTRIES:
            raise self.damaged(f"{what} has {count} entries")
        start = offset + count_bytes
        data = self.read_at(start, count * entry_bytes + pointer_bytes, what)
        tags: dict[int, Tag] = {}
        for index in range(count):
            at = index * entry_bytes
            code, kind = struct.unpack_from(f"{self.order}HH", data, at)
            (values,) = struct.unpack_from(f"{self.order}{pointer}", data, at + 4)
            if kind not in _TYPES:
                # TIFF 6.0 asks readers to skip types they do not know.
                continue
            length = values * _TYPES[kind][0]
            place = start + at + 4 + pointer_bytes
            if length > pointer_bytes:
                (place,) = struct.unpack_from(
                    f"{self.order}{pointer}", data, at + 4 + pointer_bytes
                )
            if length > MAX_TAG_BYTES or place + length > self.size:
                raise self.damaged(
                    f"tag {code} in {what} has {length} bytes at byte {place} of a file of "
                    f"{self.size} bytes"
                )
            tags.setdefault(code, Tag(kind, values, place))
        (following,) = struct.unpack_from(f"{self.order}{pointer}", data, count * entry_bytes)
        return Directory(offset, tags), following
