"""OME-Zarr datasets as `OmeZarrSink` writes them."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ome_zarr.layout import (
    FrameLine,
    chunk_path,
    frames_path,
    lines_behind,
    metadata_of,
    read_line_at,
    read_lines,
    read_own_attributes,
)
from refocusd.formats.tiff.page import MAX_FRAME_BYTES, PageFormat
from refocusd.frame import Pixels, canonical_axes

__all__ = ["OmeZarrReader"]


class OmeZarrReader(Dataset):
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

    source = "refocusd's list of frames"
    _frames: dict[str, int]

    def __init__(self, path: str | Path, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        super().__init__(Path(path))
        self._max_frame_bytes = max_frame_bytes
        #: First byte of each line of the list that counts.
        self._starts = array("Q")
        self._end = 0
        self._summary: dict[str, Any] | None = None
        self.refresh()

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

    @property
    def finished(self) -> bool:
        """Never known: frames may always be added."""
        return False

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
                    self._frames[key] = len(self._starts)
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

    def _format(self, key: str) -> PageFormat:
        return _format(self._line(key)[0])

    def _metadata(self, key: str) -> dict[str, Any]:
        try:
            return metadata_of(self._line(key)[1])
        except ValueError as error:
            raise self._damaged(f"the metadata of frame {key} cannot be read ({error})") from error

    def close(self) -> None:
        """Nothing stays open between reads."""

    def _pixels(self, key: str) -> Pixels:
        line = self._line(key)[0]
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

    def _line(self, key: str) -> tuple[FrameLine, bytes]:
        number = self._frames[key]
        try:
            found = read_line_at(self.path, self._starts[number])
        except OSError as error:
            raise InputError(
                f"{frames_path(self.path)} cannot be read ({error.strerror}): check the disk"
            ) from error
        if found is None or canonical_axes(found[0].axes) != key:
            raise self._damaged(f"its list of frames has changed where {key} was")
        return found


def _format(line: FrameLine) -> PageFormat:
    return PageFormat(*line.shape, np.dtype(line.dtype))
