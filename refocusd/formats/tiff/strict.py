"""A TIFF file read by tifffile, with an error where tifffile would repair it.

tifffile repairs files, as is right for viewing a picture: it leaves out a tag that points outside
the file, fills in missing strips, and stops where the chain of pages is broken.  In a recording, a
missing page or a frame of another size must be reported.  So this module walks the chain of pages
before tifffile does, and turns whatever tifffile logs into an error; `page_layout` then checks each
page's tags against the file.  Pages before the end of a broken chain can be used;
`StrictTiff.cut` says that others are lost.
"""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tifffile import TiffFile, TiffPage

from refocusd.errors import InputError
from refocusd.files import open_shared, reading

#: More pages than any recording has; a longer chain counts as damaged.
MAX_PAGES = 1 << 20
#: More entries than any page has (vendors write a few dozen).
MAX_ENTRIES = 1024
#: Most bytes of one tag's values: a description of 100 000 planes takes about 30 MiB.
MAX_TAG_BYTES = 1 << 28
#: TIFF 6.0 asks readers to skip values of types that they do not know; of MetaMorph's own tags
#: (UIC) only some are documented, and none of them says where pixels are.
_HARMLESS = re.compile("invalid data type|uic|TiffTag 336(28|30|31) ", re.IGNORECASE)
_DESCRIPTION = 270
#: Types of unsigned integers; the type of a fraction.
_UNSIGNED, _RATIONAL = (1, 3, 4, 13, 16, 18), 5
_BYTES_OF_TYPE = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class StrictTiff:
    """One open TIFF file; for one thread.

    Parameters
    ----------
    path : Path
        Read with ordinary reads, never memory-mapped.
    offsets : array of int, optional
        Of the pages, if they are known from an earlier opening; otherwise the chain is walked.

    Attributes
    ----------
    size : int
        Of the file, in bytes.
    order : {"<", ">"}
    offsets : array of int
        Offset of each page's directory, in bytes, in the order of the pages.
    cut : str
        Why the chain ends before its last page: it leaves the file, or returns to a page; empty
        if it is whole.
    cut_at : int
        Offset at which the first lost directory should be, in bytes.
    undescribed : set of int
        Directories of pages whose description was cut off: they read as if they had none.

    Raises
    ------
    InputError
        If the file cannot be read, is not a TIFF, has no page, or over 2^20 of them.
    """

    def __init__(self, path: Path, offsets: array[int] | None = None) -> None:
        self.path = path
        self.cut, self.cut_at = "", 0
        #: What is wrong with a directory, by its offset; the chain continues after it.
        self._odd: dict[int, str] = {}
        self.undescribed: set[int] = set()
        self._reopened = offsets is not None
        with reading(path):
            self._file = io.BufferedReader(open_shared(path))
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            first = self._first_page()
            self.offsets = self._walked(first) if offsets is None else offsets
            # TiffFile also reads the first page, which `page` checks against the file.
            with self._strictly("its header", "TiffTag"):
                self._file.seek(0)
                self._tiff = TiffFile(self._file)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._file.close()

    def damaged(self, what: str) -> InputError:
        """Make the error for a damaged file; `what` says what is wrong with it."""
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
        try:
            self._file.seek(offset)
            filled = self._file.readinto(buffer)
        except (OSError, OverflowError) as error:
            raise InputError(f"{self.path} cannot be read at byte {offset}: {error}") from error
        if filled < len(buffer):
            raise self.damaged(f"the file ends within {what}")

    def page(self, offset: int) -> TiffPage:
        """The page whose directory is at `offset`, one of `offsets`, with its tags.

        Raises
        ------
        InputError
        """
        if offset in self._odd:
            raise self.damaged(self._odd[offset])
        known = offset in self.undescribed or self._reopened
        harmless = f"TiffTag {_DESCRIPTION} " if known else ""
        with self._strictly(f"the page at byte {offset}", harmless):
            self._tiff.filehandle.seek(offset)
            return TiffPage(self._tiff, index=0)

    def numbers(self, page: TiffPage, code: int, *, most: int = 1) -> tuple[int, ...]:
        """Unsigned integers of a tag; empty if it is absent.

        Raises
        ------
        InputError
            If they are of another type or more than `most`.
        """
        tag = page.tags.get(code)
        if tag is None:
            return ()
        if tag.dtype not in _UNSIGNED:
            raise self.damaged(
                f"tag {code} of a page has type {tag.dtype}, not an unsigned integer"
            )
        if not 0 < tag.count <= most:
            raise self.damaged(f"tag {code} of a page has {tag.count} values, not 1 to {most}")
        with self._strictly(f"tag {code} of a page"):
            value = tag.value
            return tuple(int(n) for n in (value if isinstance(value, bytes) else np.ravel(value)))

    def number(self, page: TiffPage, code: int, default: int) -> int:
        """The unsigned integer of a tag, or `default` if it is absent."""
        return next(iter(self.numbers(page, code)), default)

    def rational(self, page: TiffPage, code: int) -> float | None:
        """The fraction of a tag; None if it is absent, of another type or not positive."""
        tag = page.tags.get(code)
        if tag is None or tag.dtype != _RATIONAL or tag.count != 1:
            return None
        numerator, denominator = tag.value
        return numerator / denominator if numerator and denominator else None

    def description(self, page: TiffPage) -> str:
        """The description of a page; empty if it has none."""
        with self._strictly("the description of a page"):
            text = page.description
            return text if isinstance(text, str) else ""

    def _first_page(self) -> int:
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
        if self._big and struct.unpack(f"{self.order}HH", head[4:8]) != (8, 0):
            raise self.damaged("its BigTIFF header does not have offsets of 8 bytes")
        pointer = f"{self.order}{'8xQ' if self._big else '4xI'}"
        first: int = struct.unpack_from(pointer, head)[0]
        if first == 0:
            raise self.damaged("it holds no page")
        return first

    def _walked(self, first: int) -> array[int]:
        """Offsets of all directories up to the end of the chain, or up to where it is broken."""
        offsets = array("Q")
        try:
            for offset in self._chain(first):
                offsets.append(offset)
        except InputError as error:
            if len(offsets) in (0, MAX_PAGES) or isinstance(error.__cause__, OSError):
                raise
            self.cut = str(error)
        return offsets

    def _chain(self, offset: int) -> Iterator[int]:
        """Offsets of all directories; the number of their entries is checked."""
        count_format, entry, pointer = ("Q", 20, "Q") if self._big else ("H", 12, "I")
        count_bytes, pointer_bytes = struct.calcsize("<" + count_format), 8 if self._big else 4
        seen: set[int] = set()
        while offset:
            self.cut_at, what = offset, f"the directory of page {len(seen)}"
            if offset in seen:
                raise self.damaged(f"page {len(seen)} leads back to an earlier one")
            if len(seen) >= MAX_PAGES:
                raise self.damaged(f"it has more than {MAX_PAGES} pages")
            head = self.read_at(offset, count_bytes, what)
            (count,) = struct.unpack(self.order + count_format, head)
            if not 0 < count <= MAX_ENTRIES:
                raise self.damaged(f"{what} has {count} entries")
            data = self.read_at(offset + count_bytes, count * entry + pointer_bytes, what)
            for at in range(0, count * entry, entry):
                code, kind, values = struct.unpack_from(f"{self.order}HH{pointer}", data, at)
                (place,) = struct.unpack_from(
                    self.order + pointer, data, at + entry - pointer_bytes
                )
                if code == _DESCRIPTION and values > pointer_bytes and place + values > self.size:
                    self.undescribed.add(offset)
                elif values * _BYTES_OF_TYPE.get(kind, 1) > min(MAX_TAG_BYTES, self.size):
                    self._odd[offset] = f"a tag in {what} has {values} values"
            seen.add(offset)
            yield offset
            (offset,) = struct.unpack_from(self.order + pointer, data, count * entry)

    @contextmanager
    def _strictly(self, what: str, harmless: str = "") -> Iterator[None]:
        """Turn whatever tifffile logs or raises about a damaged file into one `InputError`."""
        said: list[str] = []
        thread = threading.get_ident()

        def note(record: logging.LogRecord) -> bool:
            if record.thread != thread:
                return True
            text = record.getMessage()
            known = (harmless and harmless in text) or _HARMLESS.search(text)
            if record.levelno >= logging.WARNING and not known:
                said.append(text)
            return False

        logger = logging.getLogger("tifffile")
        logger.addFilter(note)
        try:
            yield
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error}") from error
        # Damaged files make it raise nearly anything, MemoryError and AssertionError included.
        except Exception as error:
            raise self.damaged(f"{what} cannot be read ({error!r:.200})") from error
        finally:
            logger.removeFilter(note)
        if said:
            raise self.damaged(f"{what}: {said[0]:.200}")
