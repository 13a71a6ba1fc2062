"""OME-Zarr datasets as `OmeZarrSink` writes them."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ome_zarr.frame_list import FrameList
from refocusd.formats.ome_zarr.layout import chunk_path, frames_path, own_attributes
from refocusd.formats.tiff.page import MAX_FRAME_BYTES, PageFormat
from refocusd.frame import Pixels, canonical_axes


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
        self._list = FrameList(frames_path(self.path))
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
            summary = own_attributes(self.path).get("summary")
            self._summary = summary if isinstance(summary, dict) else {}
        return self._summary

    @property
    def finished(self) -> bool:
        """Never known: frames may always be added."""
        return False

    def refresh(self) -> list[str]:
        """Find the frames that were appended since the last call; their keys.

        Raises
        ------
        InputError
            As when opening; the frames known so far stay readable.
        """
        fresh = []
        for start, line in self._list.fresh():
            if line.nbytes > self._max_frame_bytes:
                raise self._damaged(
                    f"a frame of {line.shape[1]}×{line.shape[0]} px is above the limit of "
                    f"{self._max_frame_bytes} bytes"
                )
            key = canonical_axes(line.axes)
            # A frame is listed again if it was rewritten after its pixels were lost: the last line counts.
            self._frames[key] = len(self._starts)
            self._starts.append(start)
            fresh.append(key)
        return fresh

    def _format(self, key: str) -> PageFormat:
        return self._list.line_at(self._starts[self._frames[key]], key).format

    def _metadata(self, key: str) -> dict[str, Any]:
        return self._list.metadata_at(self._starts[self._frames[key]], key)

    def close(self) -> None:
        """Nothing stays open between reads."""

    def _pixels(self, key: str) -> Pixels:
        line = self._list.line_at(self._starts[self._frames[key]], key)
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
        form = line.format
        stored = np.frombuffer(data, form.dtype.newbyteorder("<")).reshape(line.shape)
        return stored.astype(form.dtype)
