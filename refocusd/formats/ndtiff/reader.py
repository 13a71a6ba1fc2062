"""NDTiff datasets: finished, being written now, or left behind by a killed process."""

from __future__ import annotations

import io
import json
import stat
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.ndtiff.index import IndexEntry, NDTiffIndex
from refocusd.formats.recording import MAX_FRAME_BYTES
from refocusd.formats.tiff.arrangement import json_object
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Axes, AxisValue, Frame, canonical_axes, checked_pixels

__all__ = ["NDTiffReader"]

_MAGIC, _SUMMARY_MAGIC = 483729, 2355492
_MAX_SUMMARY_BYTES = 1 << 26


class NDTiffReader:
    """The frames of one NDTiff dataset, by their axes; may be used from several threads.

    Only ordinary reads; the dataset is never changed, locked or memory-mapped,
    and may grow meanwhile (`refresh`).

    Parameters
    ----------
    path : str or Path
        The dataset's folder.
    max_frame_bytes : int
        A frame that claims to be larger is an error.

    Raises
    ------
    InputError
        If there is no index, or a record before its last is damaged, names a
        file outside the dataset, or describes a frame that cannot be used.

    Examples
    --------
    >>> reader = NDTiffReader("data/run_1")  # doctest: +SKIP
    >>> frame = reader.read({"time": 0, "z": 3})  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.path = Path(path)
        self._index = NDTiffIndex(self.path, max_frame_bytes)
        self._entries: dict[str, IndexEntry] = {}
        self._waiting: dict[str, IndexEntry] = {}
        self._summary: dict[str, Any] | None = None
        self._lock = threading.RLock()
        self._file: tuple[str, io.FileIO] | None = None
        self.refresh()

    def axes_keys(self) -> list[str]:
        """Canonical keys of the frames that can be read, in the order of the index.

        Of frames written twice the last counts, in the place of the first.
        """
        with self._lock:
            return list(self._entries)

    def missing_keys(self) -> list[str]:
        """Keys that the index names, but whose bytes are not in their file (yet)."""
        with self._lock:
            return list(self._waiting)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    @property
    def summary(self) -> dict[str, Any]:
        """Summary metadata of the first file; empty while there is none.

        Raises
        ------
        InputError
            If the file's header is damaged.
        """
        with self._lock:
            if self._summary is None:
                first = next(iter(self._entries.values()), None)
                if first is None:
                    return {}
                self._summary = self._read_summary(first.file)
            return self._summary

    def refresh(self) -> list[str]:
        """Take up what was appended since.

        Returns
        -------
        list of str
            Keys of frames that can be read now and could not before, or that
            were written again.

        Raises
        ------
        InputError
            As when opening; the frames known so far stay readable.
        """
        with self._lock:
            found = self._waiting
            try:
                self._index.append_to(found)
            finally:
                fresh = self._take_whole(found)
            return fresh

    def format_of(self, axes: Axes | str) -> PageFormat:
        """Shape and type of a frame, without reading it.

        Raises
        ------
        InputError
            If the dataset has no such frame.
        """
        return self._entry(axes)[1].format

    def metadata(self, axes: Axes | str) -> dict[str, Any]:
        """Read what the microscope said of a frame.

        Raises
        ------
        InputError
            If the dataset has no such frame, or its metadata is damaged.
        """
        key, entry = self._entry(axes)
        what = f"the metadata of frame {key}"
        data = bytearray(entry.metadata_length)
        self._read_into(entry.file, entry.metadata_offset, memoryview(data), what)
        # Files end the text with NUL, or pad it with blanks.
        text = bytes(data).rstrip(b"\0").decode("utf-8", "replace")
        metadata = json_object(text) if text.strip() else {}
        if metadata is None:
            raise self._damaged(f"{what} is not JSON")
        return metadata

    def read(self, axes: Axes | str) -> Frame:
        """One frame with its metadata, read from disk now.

        Parameters
        ----------
        axes : mapping of str to int or str, or str
            The frame's axes, or their canonical key.

        Raises
        ------
        InputError
            If the dataset has no such frame, or it cannot be read.
        """
        key, entry = self._entry(axes)
        form = entry.format
        frame = np.empty((form.height, form.width), form.dtype.newbyteorder("<"))
        buffer = frame.reshape(-1).view(np.uint8).data
        self._read_into(entry.file, entry.offset, buffer, f"frame {key}")
        return Frame(
            checked_pixels(frame.astype(form.dtype, copy=False)), _axes_of(key), self.metadata(key)
        )

    def close(self) -> None:
        """Close the open file until the next read; closing twice does no harm."""
        with self._lock:
            if self._file is not None:
                self._file[1].close()
                self._file = None

    def _entry(self, axes: Axes | str) -> tuple[str, IndexEntry]:
        key = axes if isinstance(axes, str) else canonical_axes(axes)
        entry = self._entries.get(key)
        if entry is None:
            where = "not written yet" if key in self._waiting else "not in its index"
            raise InputError(f"{self.path} has no frame {key}: it is {where}")
        return key, entry

    def _take_whole(self, found: dict[str, IndexEntry]) -> list[str]:
        """Keep the entries whose bytes are in their file; the rest waits."""
        sizes: dict[str, int] = {}
        fresh = []
        self._waiting = {}
        for key, entry in found.items():
            if entry.file not in sizes:
                sizes[entry.file] = self._size_of(entry.file)
            if entry.end <= sizes[entry.file]:
                self._entries[key] = entry
                fresh.append(key)
            else:
                self._waiting[key] = entry
        return fresh

    def _size_of(self, name: str) -> int:
        try:
            status = (self.path / name).stat()
        except OSError:
            # A file that is not there (any more) has none of its frames.
            return 0
        return status.st_size if stat.S_ISREG(status.st_mode) else 0

    def _read_summary(self, name: str) -> dict[str, Any]:
        words = bytearray(28)
        self._read_into(name, 0, memoryview(words), "the header")
        order, _, magic, _, third, fourth, fifth = struct.unpack("<2sHxxxxIIIII", words)
        if order != b"II" or magic != _MAGIC:
            raise self._damaged(f"{name} does not start as an NDTiff file")
        # Version 2 has no minor version in front of the summary.
        mark, length, start = (
            (fourth, fifth, 28) if fourth == _SUMMARY_MAGIC else (third, fourth, 24)
        )
        if mark != _SUMMARY_MAGIC or length > min(_MAX_SUMMARY_BYTES, self._size_of(name)):
            raise self._damaged(f"{name} has no summary metadata in its header")
        data = bytearray(length)
        self._read_into(name, start, memoryview(data), "the summary metadata")
        text = bytes(data).rstrip(b"\0").decode("utf-8", "replace").strip()
        # pycromanager writes null where there is nothing to say.
        summary = {} if text in ("", "null") else json_object(text)
        if summary is None:
            raise self._damaged(f"the summary metadata of {name} is not JSON")
        return summary

    def _read_into(self, name: str, offset: int, buffer: memoryview, what: str) -> None:
        filled = 0
        with self._lock:
            try:
                if self._file is None or self._file[0] != name:
                    self.close()
                    self._file = (name, io.FileIO(self.path / name, "r"))
                self._file[1].seek(offset)
                while filled < len(buffer):
                    got = self._file[1].readinto(buffer[filled:])
                    if not got:
                        break
                    filled += got
            except OSError as error:
                raise InputError(
                    f"{self.path / name} cannot be read ({error.strerror}): check the disk"
                ) from error
        if filled < len(buffer):
            raise self._damaged(f"{name} ends within {what}")

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path} is damaged or incomplete: {what}; copy the dataset again")


def _axes_of(key: str) -> dict[str, AxisValue]:
    axes: dict[str, AxisValue] = json.loads(key)
    return axes
