"""The bytes of NDTiff 3.x: file header, TIFF directory (IFD), index record.

Source: ndstorage 0.1.18 (``ndtiff_file.py``, ``ndtiff_index.py``), the Java
reader and writer of micro-manager/NDStorage, and TIFF 6.0.  Layout of a file::

    header   "II" 42, u32 offset of the first IFD, u32 483729, u32 3, u32 3,
             u32 2355492, u32 length, summary metadata (JSON)
    frame    IFD of 13 entries, u32 offset of the next IFD, 2 rationals,
             pixels, metadata (JSON), NUL
    frame    ...

What differs from ndstorage's writer, each within both formats:

- the *next* pointer of the last IFD is 0, and that of the header of an empty
  file too, so that the chain of IFDs ends in the file at any moment;
- IFDs start at 2 modulo 4, which aligns that pointer (one write changes it
  whole) and the pixels;
- 8-bit frames say so; text is ASCII (the Java reader decodes the index in the
  platform's character set) and ends in NUL, as TIFF asks of text;
- index records are padded with blanks behind the axes' JSON, so that none
  straddles a page of the file cache: a killed process leaves whole records.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from refocusd.errors import OutputError
from refocusd.frame import Axes, Pixels, canonical_axes

__all__ = [
    "FIRST_IFD_POINTER",
    "IFD_BYTES",
    "INDEX_NAME",
    "MAX_RECORD_BYTES",
    "NEXT_IFD_POINTER",
    "PIXEL_TYPES",
    "IndexRecord",
    "frame_end",
    "ifd_offset_after",
    "json_bytes",
    "pack_header",
    "pack_ifd",
    "pack_record",
    "read_header",
    "read_record",
]

INDEX_NAME = "NDTiff.index"
MAJOR, MINOR = 3, 3
NDTIFF_MAGIC, SUMMARY_MAGIC = 483729, 2355492
_HEADER = struct.Struct("<2sHIIIIII")
_ENTRY = struct.Struct("<HHII")
_PLACE = struct.Struct("<8I")

ENTRIES = 13
#: Where a file's header keeps the offset of the first IFD.
FIRST_IFD_POINTER = 4
#: Where an IFD keeps the offset of the next one, from its own start.
NEXT_IFD_POINTER = 2 + ENTRIES * _ENTRY.size
#: From an IFD's start to its pixels.
IFD_BYTES = NEXT_IFD_POINTER + 4 + 2 * 8

#: Pixel types of the index that are written here.
PIXEL_TYPES: Mapping[np.dtype[Any], int] = {np.dtype(np.uint8): 0, np.dtype(np.uint16): 1}

#: Smallest page of a file cache; larger ones are multiples of it.
PAGE_BYTES = 4096
#: Longest index record; that much of a page is kept for the next one.
MAX_RECORD_BYTES = 1024

_SHORT, _LONG, _RATIONAL, _ASCII = 3, 4, 5, 2
_CENTIMETRE, _NO_UNIT = 3, 1


@dataclass(frozen=True, slots=True)
class IndexRecord:
    """Where one frame lies: a record of ``NDTiff.index``.

    Parameters
    ----------
    axes : mapping of str to int or str
    filename : str
        TIFF in the dataset's folder.
    pixel_offset, metadata_offset, metadata_length : int
        In bytes, in that file.
    height, width : int
        In pixels.
    pixel_type : int
        0 for 8 bits, 1 for 16 bits.
    """

    axes: Axes
    filename: str
    pixel_offset: int
    height: int
    width: int
    pixel_type: int
    metadata_offset: int
    metadata_length: int

    @property
    def ifd_offset(self) -> int:
        """Where the frame's IFD starts (in files written here)."""
        return self.pixel_offset - IFD_BYTES

    @property
    def end(self) -> int:
        """First byte behind the frame (in files written here)."""
        return self.metadata_offset + self.metadata_length + 1


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """ASCII JSON of metadata; numpy's numbers and arrays as plain ones.

    Raises
    ------
    TypeError, ValueError
        If something in it has no JSON form.
    """
    text = json.dumps(value, default=_plain).encode("ascii")
    # TIFF keeps up to four bytes in the entry itself, NDTiff always elsewhere.
    return text.ljust(4)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r} of type {type(value).__name__} has no JSON form")


def pack_header(summary: bytes) -> bytes:
    """Header of a TIFF that holds no frame yet."""
    fixed = _HEADER.pack(b"II", 42, 0, NDTIFF_MAGIC, MAJOR, MINOR, SUMMARY_MAGIC, len(summary))
    return fixed + summary


def read_header(file: BinaryIO) -> bytes:
    """Summary metadata (JSON) from a TIFF's header.

    Raises
    ------
    ValueError
        If it is no whole header of NDTiff 3.
    """
    fixed = file.read(_HEADER.size)
    if len(fixed) < _HEADER.size:
        raise ValueError("the file is shorter than a header")
    order, magic, _, ndtiff, major, _, summary_magic, length = _HEADER.unpack(fixed)
    if (order, magic, ndtiff, major, summary_magic) != (
        b"II",
        42,
        NDTIFF_MAGIC,
        MAJOR,
        SUMMARY_MAGIC,
    ):
        raise ValueError("the file's header is not that of NDTiff 3")
    here = file.tell()
    if length > file.seek(0, 2) - here:
        raise ValueError("the file ends within its summary metadata")
    file.seek(here)
    summary = file.read(length)
    if len(summary) < length:
        raise ValueError("the file ends within its summary metadata")
    return summary


def ifd_offset_after(end: int) -> int:
    """First place for an IFD at or behind `end`: 2 modulo 4."""
    return end + (2 - end) % 4


def frame_end(end: int, pixels: Pixels, metadata: bytes) -> int:
    """Where a file that ends at `end` would end with one more frame."""
    return ifd_offset_after(end) + IFD_BYTES + pixels.nbytes + len(metadata) + 1


def pack_ifd(
    offset: int, pixels: Pixels, metadata_length: int, pixel_size_um: float | None
) -> bytes:
    """IFD of a frame that starts at `offset`, the last one of its file.

    Parameters
    ----------
    offset : int
        Where the IFD will be; the pixels follow it and the metadata these.
    pixels : ndarray of uint8 or uint16, shape (height, width)
    metadata_length : int
        Bytes of the metadata's JSON.
    pixel_size_um : float or None
        Width of a pixel in the specimen in um, if known.
    """
    height, width = pixels.shape
    resolution = _pixels_per_centimetre(pixel_size_um)
    small_values = offset + NEXT_IFD_POINTER + 4
    entries = (
        (256, _LONG, 1, width),
        (257, _LONG, 1, height),
        (258, _SHORT, 1, 8 * pixels.itemsize),
        (259, _SHORT, 1, 1),  # no compression
        (262, _SHORT, 1, 1),  # zero is black
        (273, _LONG, 1, offset + IFD_BYTES),
        (277, _SHORT, 1, 1),  # samples per pixel
        (278, _LONG, 1, height),  # one strip
        (279, _LONG, 1, pixels.nbytes),
        (282, _RATIONAL, 1, small_values),
        (283, _RATIONAL, 1, small_values + 8),
        (296, _SHORT, 1, _CENTIMETRE if resolution else _NO_UNIT),
        (51123, _ASCII, metadata_length + 1, offset + IFD_BYTES + pixels.nbytes),
    )
    rational = struct.pack("<II", *(resolution or Fraction(1)).as_integer_ratio())
    return b"".join(
        (
            struct.pack("<H", ENTRIES),
            *(_ENTRY.pack(*entry) for entry in entries),
            struct.pack("<I", 0),
            rational,
            rational,
        )
    )


def _pixels_per_centimetre(pixel_size_um: float | None) -> Fraction | None:
    """Resolution as a rational of two 32-bit numbers, if there is one."""
    if not pixel_size_um or not math.isfinite(pixel_size_um) or pixel_size_um < 0:
        return None
    resolution = (10_000 / Fraction(pixel_size_um)).limit_denominator(10_000)
    return resolution if 0 < resolution.numerator < 2**32 else None


def pack_record(record: IndexRecord, position: int) -> bytes:
    """Index record to be written at byte `position` of the index.

    Raises
    ------
    OutputError
        If the axes' names and values are too long for one record.
    """
    axes = json.dumps(dict(record.axes)).encode("ascii")
    filename = record.filename.encode("ascii")
    length = 8 + len(axes) + len(filename) + _PLACE.size
    if length > MAX_RECORD_BYTES:
        raise OutputError(
            f"the axes {canonical_axes(record.axes)} take {length} bytes in {INDEX_NAME}, more "
            f"than the {MAX_RECORD_BYTES} of a record: shorten the names of axes or channels"
        )
    room = -(position + length) % PAGE_BYTES
    if room < MAX_RECORD_BYTES:
        axes = axes.ljust(len(axes) + room)
    return b"".join(
        (
            struct.pack("<I", len(axes)),
            axes,
            struct.pack("<I", len(filename)),
            filename,
            _PLACE.pack(
                record.pixel_offset,
                record.width,
                record.height,
                record.pixel_type,
                0,  # pixels are not compressed
                record.metadata_offset,
                record.metadata_length,
                0,  # nor is the metadata
            ),
        )
    )


def read_record(index: BinaryIO) -> IndexRecord | None:
    """Next record of an index; None at its end, or where it is torn."""
    try:
        axes = json.loads(_read_text(index))
        filename = _read_text(index)
        place = _PLACE.unpack(index.read(_PLACE.size))
    except (struct.error, ValueError):
        return None
    if not isinstance(axes, dict):
        return None
    pixel_offset, width, height, pixel_type, _, metadata_offset, metadata_length, _ = place
    return IndexRecord(
        axes, filename, pixel_offset, height, width, pixel_type, metadata_offset, metadata_length
    )


def _read_text(index: BinaryIO) -> str:
    (length,) = struct.unpack("<I", index.read(4))
    if not 0 < length <= PAGE_BYTES:
        raise ValueError(f"a text of {length} bytes")
    text = index.read(length)
    if len(text) < length:
        raise ValueError("the index ends within a text")
    return text.decode("ascii")
