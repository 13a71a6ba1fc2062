"""One page of a TIFF: its header, checked against the bytes that are there."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import imagecodecs
import numpy as np
from tifffile import COMPRESSION, TiffPage

from refocusd.errors import InputError
from refocusd.formats.tiff.page import SLIDE_PX, PageFormat
from refocusd.formats.tiff.strict import StrictTiff
from refocusd.frame import MIN_SIDE, Pixels, checked_pixels

_NONE, _LZW, _DEFLATE, _PACKBITS, _OLD_DEFLATE, _ZSTD = 1, 5, 8, 32773, 32946, 50000
#: Most bytes that one compressed byte can stand for: LZW has 12-bit codes for
#: up to 4096 bytes, Deflate 258 bytes in 2 bits, PackBits 128 in 2 bytes; zstd
#: has no bound, so a generous one is used.  A higher ratio is a wrong size in the
#: header, which is found before memory is allocated for it.
_EXPANSION = {_LZW: 2731, _DEFLATE: 1032, _OLD_DEFLATE: 1032, _PACKBITS: 64, _ZSTD: 1 << 15}
_DECODERS: Mapping[int, Callable[..., bytes | bytearray]] = {
    _LZW: imagecodecs.lzw_decode,
    _PACKBITS: imagecodecs.packbits_decode,
    _ZSTD: imagecodecs.zstd_decode,
}
_PHOTOMETRIC = {
    0: "stored inverted (white is zero)",
    2: "RGB",
    3: "in palette colours",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELab",
}
_SAMPLE_FORMAT = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}


@dataclass(frozen=True, slots=True)
class _Segment:
    """A strip or tile: where its bytes are, and which pixels they hold."""

    offset: int
    length: int
    top: int
    left: int
    rows: int
    columns: int

    def nbytes(self, bits: int) -> int:
        """Bytes of its decoded pixels, of `bits` bits each."""
        return self.rows * math.ceil(self.columns * bits / 8)


@dataclass(frozen=True, slots=True)
class PageLayout:
    """The places of the pixels of one page, checked against the file."""

    format: PageFormat
    compression: int
    differences: bool
    #: Bits of a pixel in the file; pixels of 9 to 15 bits are packed, and each row begins on a byte.
    bits: int
    segments: tuple[_Segment, ...]

    @property
    def contiguous_offset(self) -> int | None:
        """Where the frame starts if its bytes lie uncompressed in one piece, else None."""
        if self.compression != _NONE or self.differences or self.bits % 8:
            return None
        end = self.segments[0].offset
        for segment in self.segments:
            if segment.offset != end or segment.columns != self.format.width:
                return None
            end += segment.length
        return (
            self.segments[0].offset if end - self.segments[0].offset == self.format.nbytes else None
        )

    def read(self, file: StrictTiff, shift: int = 0) -> Pixels:
        """Read the page's pixels.

        Parameters
        ----------
        file : StrictTiff
        shift : int
            Offset in bytes from this page's pixels, for frames that follow them
            without a directory of their own.

        Raises
        ------
        InputError
            If decoding fails, or gives another number of pixels than the header states.
        """
        start = self.contiguous_offset
        if start is not None:
            dtype = np.dtype(f"{file.order}u{self.format.dtype.itemsize}")
            frame = np.empty((self.format.height, self.format.width), dtype)
            file.read_into(start + shift, frame.reshape(-1).view(np.uint8).data, "a frame")
            return checked_pixels(frame.astype(self.format.dtype, copy=False))
        return checked_pixels(
            self.read_part(file, slice(0, self.format.height), slice(0, self.format.width))
        )

    @property
    def in_parts(self) -> bool:
        """Whether the page is large, and can be read without holding all of it."""
        pixels = self.format.height * self.format.width
        largest = max(segment.rows * segment.columns for segment in self.segments)
        return pixels > SLIDE_PX and (largest <= SLIDE_PX or self.contiguous_offset is not None)

    def read_part(self, file: StrictTiff, rows: slice, columns: slice) -> Pixels:
        """Read part of the page; only the strips or tiles that it touches are decoded.

        Raises
        ------
        InputError
            As `read`.
        """
        dtype = np.dtype(f"{file.order}u{self.format.dtype.itemsize}")
        part = np.empty((rows.stop - rows.start, columns.stop - columns.start), dtype)
        start = self.contiguous_offset
        if start is not None:
            for row, line in enumerate(part, rows.start):
                place = (row * self.format.width + columns.start) * dtype.itemsize
                file.read_into(start + place, line.view(np.uint8).data, "a frame")
            return part.astype(self.format.dtype, copy=False)
        part = part.view(self.format.dtype)
        for segment in self.segments:
            down = _overlap(rows, segment.top, segment.rows)
            across = _overlap(columns, segment.left, segment.columns)
            if down and across:
                block = self._block(file, segment)
                part[down[0], across[0]] = block[down[1], across[1]]
        return part

    def _block(self, file: StrictTiff, segment: _Segment) -> Pixels:
        """The pixels of one strip or tile."""
        data = file.read_at(segment.offset, segment.length, "a strip or tile")
        wanted = segment.nbytes(self.bits)
        decoded = _decoded(file, data, self.compression, wanted)
        if self.bits % 8:
            plain = imagecodecs.packints_decode(
                decoded, self.format.dtype, self.bits, runlen=segment.columns
            )
            return np.asarray(plain).reshape(segment.rows, segment.columns)
        raw = np.frombuffer(decoded, np.dtype(f"{file.order}u{self.format.dtype.itemsize}"))
        block: Pixels = raw.reshape(segment.rows, segment.columns).astype(self.format.dtype)
        if self.differences:
            # TIFF 6.0 section 14: rows hold differences modulo 2^bits.
            np.cumsum(block, axis=1, dtype=self.format.dtype, out=block)
        return block


def _overlap(wanted: slice, start: int, length: int) -> tuple[slice, slice] | None:
    """Overlap of a strip or tile with the wanted part: its place in the part, and in the strip or tile."""
    first, end = max(wanted.start, start), min(wanted.stop, start + length)
    if first >= end:
        return None
    return slice(first - wanted.start, end - wanted.start), slice(first - start, end - start)


def is_reduced(file: StrictTiff, page: TiffPage) -> bool:
    """Whether a page is a thumbnail or mask of another one, not a frame."""
    return bool(file.number(page, 254, 0) & 0b101) or file.number(page, 255, 1) == 2


def page_format(file: StrictTiff, page: TiffPage, number: int, most_bytes: int) -> PageFormat:
    """Size and type that a page's header states.

    Raises
    ------
    InputError
        For colour, signed, floating-point or odd bit depths, frames under 16
        px a side, or above `most_bytes` if they can only be read as a whole.
    """
    what = f"page {number} of {file.path}"
    channels = file.number(page, 277, 1)
    photometric = file.number(page, 262, 1)
    if photometric == 3 and _is_grey_ramp(file, page):
        photometric = 1
    if channels > 1 or photometric in _PHOTOMETRIC:
        kind = _PHOTOMETRIC.get(photometric, f"of {channels} samples per pixel")
        raise InputError(
            f"{what} is {kind}; refocusd takes the camera's counts, one channel a frame: split the "
            "channels or convert to plain greyscale without changing values"
        )
    (bits,) = file.numbers(page, 258) or (1,)
    sample = file.number(page, 339, 1)
    if not 8 <= bits <= 16 or sample in _SAMPLE_FORMAT:
        raise InputError(
            f"{what} has {bits}-bit {_SAMPLE_FORMAT.get(sample, 'unsigned')} pixels; refocusd takes "
            "camera counts of 8 to 16 bits, unsigned: save the raw counts, not a scaled copy"
        )
    width, height = file.number(page, 256, 0), file.number(page, 257, 0)
    if min(width, height) < MIN_SIDE or file.number(page, 32997, 1) != 1:
        raise InputError(
            f"{what} is {width}×{height} px; the smallest side taken is {MIN_SIDE} px"
            if min(width, height) < MIN_SIDE
            else f"{what} is a volume (tag ImageDepth): export it with one page a plane"
        )
    form = PageFormat(height, width, np.dtype(f"u{math.ceil(bits / 8)}"))
    # A large page in tiles is read tile by tile.
    tiled = 322 in page.tags and height * width > SLIDE_PX
    if form.nbytes > most_bytes and not tiled:
        raise InputError(
            f"{what} promises a frame of {form}, {form.nbytes} bytes, above the limit of "
            f"{most_bytes}: the file is damaged, or max_frame_bytes must be raised"
        )
    return form


def _is_grey_ramp(file: StrictTiff, page: TiffPage) -> bool:
    """Whether a colour table changes nothing: many programs write one with grey images."""
    table = file.numbers(page, 320, most=3 << 16)
    levels = len(table) // 3
    ramp = np.arange(levels) * (257 if levels == 256 else 1)
    return levels in (1 << 8, 1 << 16) and bool((np.reshape(table, (3, -1)) == ramp).all())


def page_layout(file: StrictTiff, page: TiffPage, number: int, most_bytes: int) -> PageLayout:
    """The checked places of a page's pixels: nothing missing, nothing left over.

    Raises
    ------
    InputError
        As `page_format`, and if strips or tiles do not add up to the frame, lie
        outside the file or are compressed in a way that is not read here.
    """
    form = page_format(file, page, number, most_bytes)
    compression = file.number(page, 259, _NONE)
    predictor, bits = file.number(page, 317, 1), file.number(page, 258, 1)
    if compression != _NONE and compression not in _EXPANSION:
        known = compression in {int(scheme) for scheme in COMPRESSION}
        name = COMPRESSION(compression).name if known else f"scheme {compression}"
        raise InputError(
            f"page {number} of {file.path} is compressed by {name}; refocusd reads uncompressed, LZW, "
            "Deflate, PackBits and Zstandard pages: export it with one of these"
        )
    if predictor not in (1, 2) or (predictor == 2 and bits % 8) or file.number(page, 266, 1) != 1:
        raise file.damaged(
            f"page {number} has predictor {predictor} or a bit order that has no meaning here"
        )
    segments = tuple(_segments(file, page, number, form))
    for segment in segments:
        wanted = segment.nbytes(bits)
        if compression == _NONE and segment.length != wanted:
            raise file.damaged(
                f"a strip or tile of page {number} has {segment.length} bytes, where {form} needs {wanted}"
            )
        if compression != _NONE and wanted > segment.length * _EXPANSION[compression]:
            raise file.damaged(
                f"{segment.length} compressed bytes of page {number} cannot hold the {wanted} that the "
                "header promises"
            )
        if segment.offset + segment.length > file.size:
            raise file.damaged(
                f"pixels of page {number} lie at byte {segment.offset} to "
                f"{segment.offset + segment.length} of a file of {file.size} bytes"
            )
    return PageLayout(form, compression, predictor == 2, bits, segments)


def _segments(
    file: StrictTiff, page: TiffPage, number: int, form: PageFormat
) -> Iterator[_Segment]:
    """Strips or tiles of a page; the last strip may be shorter than the others, a tile may not."""
    tiled = 322 in page.tags
    if tiled:
        columns, rows, codes = file.number(page, 322, 0), file.number(page, 323, 0), (324, 325)
    else:
        rows = min(file.number(page, 278, form.height), form.height)
        columns, codes = form.width, (273, 279)
    # TIFF 6.0 section 15 requires multiples of 16; a tile far larger than its frame is a wrong size.
    least, most = (16, 4096) if tiled else (1, 0)
    if not least <= columns <= form.width + most or not least <= rows <= form.height + most:
        raise file.damaged(f"page {number} has strips or tiles of {columns}×{rows} px for {form}")
    across, down = math.ceil(form.width / columns), math.ceil(form.height / rows)
    offsets, lengths = (file.numbers(page, code, most=across * down) for code in codes)
    if not len(offsets) == len(lengths) == across * down:
        raise file.damaged(
            f"page {number} needs {across * down} strips or tiles, and has {len(offsets)} of them "
            f"with {len(lengths)} sizes"
        )
    for index, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        top, left = index // across * rows, index % across * columns
        high = rows if tiled else min(rows, form.height - top)
        yield _Segment(offset, length, top, left, high, columns)


def _decoded(file: StrictTiff, data: bytes, compression: int, wanted: int) -> bytes:
    """Decode to exactly `wanted` bytes; a decompression bomb must not fill the memory."""
    if compression == _NONE:
        return data
    try:
        if compression in (_DEFLATE, _OLD_DEFLATE):
            decoded = zlib.decompressobj().decompress(data, wanted + 1)
        else:
            decoded = bytes(_DECODERS[compression](data, out=wanted + 1))
    except (zlib.error, RuntimeError, ValueError, MemoryError) as error:
        raise file.damaged(f"a strip or tile cannot be decoded ({error})") from error
    if len(decoded) != wanted:
        raise file.damaged(
            f"a strip or tile decodes to {'more than ' if len(decoded) > wanted else ''}"
            f"{min(len(decoded), wanted)} bytes, where the header promises {wanted}"
        )
    return decoded
