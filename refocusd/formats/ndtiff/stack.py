"""One TIFF of an NDTiff dataset, to which frames are appended."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from refocusd import files
from refocusd.formats.ndtiff import layout as ndtiff
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Pixels

PART = ".part"


@dataclass(frozen=True, slots=True)
class _Tail:
    """End of the committed part, and the place of the pointer that will link the next frame."""

    end: int
    pointer: int

    @classmethod
    def after(cls, last: ndtiff.IndexEntry) -> _Tail:
        """Tail of a file whose last frame this is; a NUL ends its metadata."""
        return cls(last.end + 1, last.offset - ndtiff.IFD_BYTES + ndtiff.NEXT_IFD_POINTER)


def stack_name(number: int) -> str:
    """File name of a dataset's n-th TIFF, as ndstorage names it."""
    return f"NDTiffStack_{number}.tif" if number else "NDTiffStack.tif"


def part_name(number: int) -> str:
    """Name of the n-th TIFF as long as no frame is in it."""
    return stack_name(number) + PART


class StackFile:
    """A TIFF that is whole at every moment, also without its writer.

    Until it holds its first frame, the file is called ``*.tif.part``: readers
    open every ``*.tif`` of the folder, and a TIFF must hold at least one page.

    A frame is appended, then either committed or undone by `restore`; committed
    frames are never touched.
    """

    def __init__(self, path: Path, where: Path, committed: _Tail) -> None:
        self._path = path
        self._where = where
        self._committed = committed
        self._file = _open(where)

    @classmethod
    def create(cls, path: Path, header: bytes) -> StackFile:
        """Start a file without frames; a ``.part`` that a killed writer left is replaced."""
        part = _part(path)
        with files.open_file(part, "w") as file:
            write_all(file, header)
        return cls(path, part, _Tail(len(header), ndtiff.FIRST_IFD_POINTER))

    @classmethod
    def after_header(cls, path: Path, header_bytes: int) -> StackFile:
        """Open an existing file that has no valid frame."""
        where = path if path.exists() else _part(path)
        return cls(path, where, _Tail(header_bytes, ndtiff.FIRST_IFD_POINTER))

    @classmethod
    def after_frame(cls, path: Path, last: ndtiff.IndexEntry) -> StackFile:
        """Open an existing file, to be continued after its last indexed frame."""
        return cls(path, path, _Tail.after(last))

    @staticmethod
    def set_aside(path: Path) -> None:
        """Hide a file without a valid frame from readers; it is replaced later."""
        if path.exists():
            files.replace(path, _part(path))

    def end_with(self, pixels: Pixels, metadata: bytes) -> int:
        """Length that the file would have with one more frame, in bytes."""
        return ndtiff.frame_end(self._committed.end, pixels, metadata)

    def append(
        self, pixels: Pixels, metadata: bytes, pixel_size_um: float | None
    ) -> ndtiff.IndexEntry:
        """Write a frame and link it into the chain of IFDs.

        Parameters
        ----------
        pixels : ndarray of uint8 or uint16, shape (height, width)
            C-contiguous, little-endian.
        metadata : bytes
            JSON.
        pixel_size_um : float or None
            Width of a pixel in the specimen in um.
        """
        start = ndtiff.ifd_offset_after(self._committed.end)
        self._file.seek(start)
        write_all(self._file, ndtiff.pack_ifd(start, pixels, len(metadata), pixel_size_um))
        write_all(self._file, pixels.data.cast("B"))
        write_all(self._file, metadata + b"\0")
        # Only now is the frame complete: a reader that follows the chain may find it.
        self._point(self._committed.pointer, start)
        if self._where != self._path:
            if self._path.exists():
                raise FileExistsError(17, "it exists already", str(self._path))
            self._move(self._path)
        first_pixel = start + ndtiff.IFD_BYTES
        height, width = pixels.shape
        form = PageFormat(height, width, pixels.dtype)
        return ndtiff.IndexEntry(
            self._path.name, first_pixel, form, first_pixel + pixels.nbytes, len(metadata)
        )

    def commit(self, entry: ndtiff.IndexEntry) -> None:
        """Keep the frame that was appended."""
        self._committed = _Tail.after(entry)

    def restore(self) -> None:
        """Cut off everything after the last committed frame."""
        if self._file.closed:
            self._file = _open(self._where)
        has_frames = self._committed.pointer != ndtiff.FIRST_IFD_POINTER
        if not has_frames and self._where == self._path:
            self._move(_part(self._path))
        self._point(self._committed.pointer, 0)
        self._file.truncate(self._committed.end)

    def close(self) -> None:
        """Close the file; there is nothing to finish."""
        self._file.close()

    def _point(self, pointer: int, ifd_offset: int) -> None:
        self._file.seek(pointer)
        write_all(self._file, ifd_offset.to_bytes(4, "little"))

    def _move(self, to: Path) -> None:
        self._file.close()  # Windows cannot rename an open file
        try:
            files.replace(self._where, to)
            self._where = to
        finally:
            self._file = _open(self._where)


def write_all(file: io.FileIO, data: bytes | memoryview) -> None:
    """Write all of `data` at the file's current position."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[file.write(rest) :]
        except OSError as error:
            raise files.native(error) from None


def _open(path: Path) -> io.FileIO:
    return files.open_file(path, "r+")


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)
