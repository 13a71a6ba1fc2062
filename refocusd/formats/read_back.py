"""Refocused datasets read back: to verify, to export, to go on where one stopped.

=================  ==========================================================
`RefocusedReader`  what can be read of a dataset of either kind
`read_back`        opens one: `NDTiffReader` or `OmeZarrReader`
=================  ==========================================================
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.formats.ndtiff.recording import ndtiff_folder
from refocusd.formats.ome_zarr.layout import (
    FrameLine,
    chunk_path,
    frames_path,
    is_omezarr,
    lines_behind,
    metadata_of,
    read_line_at,
    read_lines,
    read_own_attributes,
)
from refocusd.formats.recording import MAX_FRAME_BYTES
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Axes, Frame, Pixels, canonical_axes

__all__ = ["OmeZarrReader", "RefocusedReader", "read_back"]


class RefocusedReader(Protocol):
    """The frames of one dataset, by their axes; it may grow meanwhile (`refresh`)."""

    path: Path

    @property
    def summary(self) -> dict[str, Any]:
        """Summary metadata of the acquisition."""

    def axes_keys(self) -> list[str]:
        """Canonical keys of the frames that can be read, in the order of writing."""

    def __len__(self) -> int: ...

    def __contains__(self, key: str) -> bool: ...

    def refresh(self) -> list[str]:
        """Take up what was appended since; the keys of those frames."""

    def format_of(self, axes: Axes | str) -> PageFormat:
        """Shape and type of a frame, without reading it."""

    def metadata(self, axes: Axes | str) -> dict[str, Any]:
        """Read what was said of a frame."""

    def read(self, axes: Axes | str) -> Frame:
        """One frame with its metadata, by its axes or their canonical key.

        Raises
        ------
        InputError
            If the dataset has no such frame, or it cannot be read.
        """

    def close(self) -> None:
        """Close all files; closing twice does no harm."""


def read_back(path: str | Path) -> RefocusedReader:
    """Open a dataset that a sink wrote, of either kind; raw NDTiff datasets too.

    Raises
    ------
    InputError
        If there is no such dataset, or it is damaged.
    """
    path = Path(path)
    try:
        if is_omezarr(path):
            return OmeZarrReader(path)
        folder = ndtiff_folder(path) if path.exists() else None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): check it and its permissions"
        ) from error
    if folder is None:
        what = (
            "holds neither an NDTiff dataset nor an OME-Zarr one of refocusd"
            if path.exists()
            else "does not exist"
        )
        raise InputError(f"{path} {what}: give the folder of a dataset, e.g. run_1_refocused")
    return NDTiffReader(folder)


class OmeZarrReader:
    """The frames of a dataset that `OmeZarrSink` wrote; for one thread.

    Reads the list of frames and their pixels, without the zarr library.

    Parameters
    ----------
    path : str or Path
        The dataset's folder.
    max_frame_bytes : int
        A frame that claims to be larger is an error.

    Raises
    ------
    InputError
        If there is no list of frames, or a line before its last is damaged.
    """

    def __init__(self, path: str | Path, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.path = Path(path)
        self._max_frame_bytes = max_frame_bytes
        self._numbers: dict[str, int] = {}
        #: First byte of each line of the list that counts.
        self._starts = array("Q")
        self._end = 0
        self._summary: dict[str, Any] | None = None
        self.refresh()

    def axes_keys(self) -> list[str]:
        """Canonical keys of the frames that can be read, in the order of writing."""
        return list(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, key: str) -> bool:
        return key in self._numbers

    @property
    def summary(self) -> dict[str, Any]:
        """Summary metadata of the acquisition.

        Raises
        ------
        InputError
            If they cannot be read.
        """
        if self._summary is None:
            try:
                summary = read_own_attributes(self.path).get("summary")
            except (OSError, ValueError) as error:
                raise self._damaged(f"its summary metadata cannot be read ({error})") from error
            self._summary = summary if isinstance(summary, dict) else {}
        return self._summary

    def refresh(self) -> list[str]:
        """Take up what was appended since; the keys of those frames.

        Raises
        ------
        InputError
            As when opening; the frames known so far stay readable.
        """
        fresh = []
        try:
            with frames_path(self.path).open("rb") as file:
                file.seek(self._end)
                for start, length, line in read_lines(file):
                    if line.nbytes > self._max_frame_bytes:
                        raise self._damaged(
                            f"a frame of {line.shape[1]}×{line.shape[0]} px is above the limit of "
                            f"{self._max_frame_bytes} bytes"
                        )
                    key = canonical_axes(line.axes)
                    # Written again after its pixels were lost: the last line counts.
                    self._numbers[key] = len(self._starts)
                    self._starts.append(start)
                    self._end = start + length
                    fresh.append(key)
                if lines_behind(file, self._end):
                    raise self._damaged(f"its list of frames is illegible at byte {self._end}")
        except OSError as error:
            raise InputError(
                f"{frames_path(self.path)} cannot be read ({error.strerror}): check the disk"
            ) from error
        return fresh

    def format_of(self, axes: Axes | str) -> PageFormat:
        """Shape and type of a frame, without reading it.

        Raises
        ------
        InputError
            If the dataset has no such frame.
        """
        return _format(self._line(axes)[0])

    def metadata(self, axes: Axes | str) -> dict[str, Any]:
        """Read what was said of a frame.

        Raises
        ------
        InputError
            If the dataset has no such frame, or its line is damaged.
        """
        return self._metadata(*self._line(axes))

    def read(self, axes: Axes | str) -> Frame:
        """One frame with its metadata, read from disk now.

        Raises
        ------
        InputError
            If the dataset has no such frame, or it cannot be read.
        """
        line, text = self._line(axes)
        return Frame(self._pixels(line), line.axes, self._metadata(line, text))

    def close(self) -> None:
        """Nothing stays open between reads."""

    def _pixels(self, line: FrameLine) -> Pixels:
        chunk = chunk_path(line)
        try:
            data = (self.path / chunk).read_bytes()
        except FileNotFoundError as error:
            raise self._damaged(f"{chunk} is missing") from error
        except OSError as error:
            raise InputError(
                f"{self.path / chunk} cannot be read ({error.strerror}): check the disk"
            ) from error
        if len(data) != line.nbytes:
            raise self._damaged(f"{chunk} has {len(data)} bytes instead of {line.nbytes}")
        form = _format(line)
        stored = np.frombuffer(data, form.dtype.newbyteorder("<")).reshape(line.shape)
        return stored.astype(form.dtype)

    def _line(self, axes: Axes | str) -> tuple[FrameLine, bytes]:
        key = axes if isinstance(axes, str) else canonical_axes(axes)
        number = self._numbers.get(key)
        if number is None:
            raise InputError(f"{self.path} has no frame {key}: it is not in its list of frames")
        try:
            found = read_line_at(self.path, self._starts[number])
        except OSError as error:
            raise InputError(
                f"{frames_path(self.path)} cannot be read ({error.strerror}): check the disk"
            ) from error
        if found is None or canonical_axes(found[0].axes) != key:
            raise self._damaged(f"its list of frames has changed where {key} was")
        return found

    def _metadata(self, line: FrameLine, text: bytes) -> dict[str, Any]:
        try:
            return metadata_of(text)
        except ValueError as error:
            key = canonical_axes(line.axes)
            raise self._damaged(f"the metadata of frame {key} cannot be read ({error})") from error

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path} is damaged or incomplete: {what}; copy the dataset again")


def _format(line: FrameLine) -> PageFormat:
    return PageFormat(*line.shape, np.dtype(line.dtype))
