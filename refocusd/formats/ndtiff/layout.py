"""The bytes of NDTiff 3.x: file header, TIFF directory (IFD), index record.

Source: ndstorage 0.1.18 (``ndtiff_file.py``, ``ndtiff_index.py``), the Java
reader and writer of micro-manager/NDStorage, and TIFF 6.0.  Layout of a file::

    header   "II" 42, u32 offset of the first IFD, u32 483729, u32 3, u32 3,
             u32 2355492, u32 length, summary metadata (JSON)
    frame    IFD of 13 entries, u32 offset of the next IFD, 2 rationals,
             pixels, metadata (JSON), NUL
    frame    ...

Differences from ndstorage's writer, all of them valid in both formats:

- the *next* pointer of the last IFD is 0, as is the pointer in the header of an
  empty file, so that the chain of IFDs ends within the file at any moment;
- IFDs start at 2 modulo 4, which aligns the pixels and that pointer (so that
  one write changes all of it);
- 8-bit frames are marked as such; text is ASCII (the Java reader decodes the
  index in the platform's character set) and ends in NUL, as TIFF requires;
- index records are padded with blanks after the axes' JSON, so that none
  straddles a page of the file cache: a killed process leaves whole records.
"""

from __future__ import annotations

import functools
import json
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from refocusd.errors import OutputError
from refocusd.formats.metadata import java_text
from refocusd.formats.tiff.page import PageFormat, Place
from refocusd.frame import Axes, Pixels, canonical_axes

INDEX_NAME = "NDTiff.index"
MAJOR, MINOR = 3, 3
NDTIFF_MAGIC, SUMMARY_MAGIC = 483729, 2355492
_HEADER = struct.Struct("<2sHIIIIII")
_ENTRY = struct.Struct("<HHII")
_PLACE = struct.Struct("<8I")

#: Bytes in front of the summary metadata.
HEADER_BYTES = _HEADER.size
ENTRIES = 13
#: Where a file's header keeps the offset of the first IFD.
FIRST_IFD_POINTER = 4
#: Where an IFD keeps the offset of the next one, from its own start.
NEXT_IFD_POINTER = 2 + ENTRIES * _ENTRY.size
#: From an IFD's start to its pixels.
IFD_BYTES = NEXT_IFD_POINTER + 4 + 2 * 8

#: Pixel types of the index: 8, 16, 10, 12, 14 and 11 bits; 2 is RGB.
_DTYPES: Mapping[int, np.dtype[Any]] = {0: np.dtype(np.uint8)} | dict.fromkeys(
    (1, 3, 4, 5, 6), np.dtype(np.uint16)
)
_RGB = 2

#: Smallest page of a file cache; larger ones are multiples of it.
PAGE_BYTES = 4096
#: Longest index record that is written; if a page has less room left, the record before fills it up.
MAX_RECORD_BYTES = 1024
#: A length of axes or file name above these is damage, not a long text.
_MAX_AXES_BYTES, _MAX_NAME_BYTES = 1 << 16, 1 << 10

_SHORT, _LONG, _RATIONAL, _ASCII = 3, 4, 5, 2
_CENTIMETRE, _NO_UNIT = 3, 1
#: What the index says about a frame.
IndexEntry = Place


def pack_header(summary: bytes) -> bytes:
    """Header of a TIFF that holds no frame yet."""
    fixed = _HEADER.pack(b"II", 42, 0, NDTIFF_MAGIC, MAJOR, MINOR, SUMMARY_MAGIC, len(summary))
    return fixed + summary


def summary_place(header: bytes) -> tuple[int, int]:
    """Where the summary metadata start in a TIFF, and their length, both in bytes.

    Parameters
    ----------
    header : bytes
        The first `HEADER_BYTES` of the file.

    Raises
    ------
    ValueError
        If it is not the header of an NDTiff file of version 2 or 3.
    """
    if len(header) < _HEADER.size:
        raise ValueError("the file is shorter than a header")
    order, magic, _, ndtiff, _, minor, mark, length = _HEADER.unpack_from(header)
    if (order, magic, ndtiff) != (b"II", 42, NDTIFF_MAGIC):
        raise ValueError("the file's header is not that of NDTiff")
    if mark == SUMMARY_MAGIC:
        return _HEADER.size, length
    if minor == SUMMARY_MAGIC:
        # Version 2 has no minor version in front of the summary.
        return _HEADER.size - 4, mark
    raise ValueError("the file has no summary metadata in its header")


def ifd_offset_after(end: int) -> int:
    """First place for an IFD at or after `end`: 2 modulo 4."""
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
        Where the IFD will be; the pixels follow it, and the metadata follow the pixels.
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


def pack_record(axes: Axes, entry: IndexEntry, position: int) -> bytes:
    """Index record of a frame, to be written at byte `position` of the index.

    Raises
    ------
    OutputError
        If the axes' names and values are too long for one record.
    """
    text = json.dumps(dict(axes)).encode("ascii")
    name = entry.file.encode("ascii")
    length = 8 + len(text) + len(name) + _PLACE.size
    if length > MAX_RECORD_BYTES:
        raise OutputError(
            f"the axes {canonical_axes(axes)} take {length} bytes in {INDEX_NAME}, more "
            f"than the {MAX_RECORD_BYTES} of a record: shorten the names of axes or channels"
        )
    room = -(position + length) % PAGE_BYTES
    if room < MAX_RECORD_BYTES:
        text = text.ljust(len(text) + room)
    place = _PLACE.pack(
        entry.offset,
        entry.format.width,
        entry.format.height,
        entry.format.dtype.itemsize - 1,
        0,  # pixels are not compressed
        entry.metadata_offset,
        entry.metadata_length,
        0,  # nor is the metadata
    )
    return b"".join((struct.pack("<I", len(text)), text, struct.pack("<I", len(name)), name, place))


def unpack_records(data: bytes) -> Iterator[tuple[int, dict[str, Any], IndexEntry]]:
    """Records from the start of `data` up to the first one that is not whole or not legible.

    Yields
    ------
    int
        First byte after the record.
    dict
        Axes, as in the JSON.
    IndexEntry
        With its `trouble` if the record describes pixels that cannot be used: RGB, compressed or of
        another type.
    """
    end = 0
    while (record := _record_at(data, end)) is not None:
        yield record
        end = record[0]


def is_begun(rest: bytes) -> bool:
    """Whether the bytes after the last legible record can be a record that is being written.

    Micro-Manager writes into zeros, so any part of a record may still be zero.
    """
    rest, at = rest.rstrip(b"\0"), 0
    for longest in (_MAX_AXES_BYTES, _MAX_NAME_BYTES):
        if at + 4 > len(rest):
            return True
        length = int.from_bytes(rest[at : at + 4], "little")
        if not 0 < length <= longest:
            return False
        at += 4 + length
    return len(rest) < at + _PLACE.size


_form = functools.lru_cache(maxsize=64)(PageFormat)


def _record_at(data: bytes, at: int) -> tuple[int, dict[str, Any], IndexEntry] | None:
    texts = []
    for longest in (_MAX_AXES_BYTES, _MAX_NAME_BYTES):
        length = int.from_bytes(data[at : at + 4], "little")
        if not 0 < length <= longest:
            return None
        texts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at + _PLACE.size > len(data):
        return None
    offset, width, height, kind, packed, metadata_offset, metadata_length, packed_too = (
        _PLACE.unpack_from(data, at)
    )
    try:
        axes, name = json.loads(java_text(texts[0])), java_text(texts[1])
    except (ValueError, RecursionError):
        return None
    if not isinstance(axes, dict) or not (width and height and metadata_length):
        return None
    dtype, trouble = _DTYPES.get(kind), ""
    if dtype is None or packed or packed_too:
        what = "RGB" if kind == _RGB else f"of type {kind} or compressed"
        trouble = f"is {what}; refocusd takes one channel a frame, as uint8 or uint16"
    # Frames share equal formats and file names: an index may name a million of them.
    form = _form(height, width, dtype or _DTYPES[0])
    entry = IndexEntry(sys.intern(name), offset, form, metadata_offset, metadata_length, trouble)
    return at + _PLACE.size, axes, entry
