"""Refocused OME-Zarr stores with the layout of a raw one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.ome_zarr.frame_list import FrameList
from refocusd.formats.ome_zarr.layout import own_attributes
from refocusd.formats.ome_zarr.mirror.layout import listed
from refocusd.formats.ome_zarr.store.chunks import stamp_of
from refocusd.formats.ome_zarr.store.grid import GridFrames
from refocusd.formats.ome_zarr.store.reader import StoreReader
from refocusd.formats.tiff.page import MAX_FRAME_BYTES
from refocusd.frame import canonical_axes


class MirrorReader(StoreReader):
    """The frames of a store that `MirrorSink` or the jobs of a cluster wrote; for one thread.

    A frame counts if a list names it and its pixels are there.

    Parameters
    ----------
    path : Path
    max_frame_bytes : int
        A frame that claims to be larger is an error.

    Raises
    ------
    InputError
        If a list of frames is damaged before its last line, or the store cannot be read.
    """

    def __init__(self, path: Path, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        #: By position: the list, and the stamp that it had when it was read.
        self._lists: dict[str, tuple[FrameList, object]] = {}
        super().__init__(path, max_frame_bytes=max_frame_bytes)
        self.source = "refocusd's lists of frames"
        self.name = self.path.name
        self.catch_up_from = ""

    @property
    def summary(self) -> dict[str, Any]:
        """Summary metadata of the raw dataset.

        Raises
        ------
        InputError
            If they cannot be read.
        """
        said = own_attributes(self.path)
        summary, mark = said.get("summary"), said.get("refocusd")
        return {**(summary if isinstance(summary, dict) else {}), "refocusd": mark}

    @property
    def finished(self) -> bool:
        """Never known: frames may always be added."""
        return False

    def refresh(self) -> list[str]:
        """Find the frames that were listed since the last call.

        Raises
        ------
        InputError
            As when opening.
        """
        super()._take_up_images(anew=self._has_unknown_images())
        fresh: list[str] = []
        for position, place in listed(self.path):
            lines, before = self._lists.get(position, (FrameList(place), None))
            stamp = stamp_of(place)
            if stamp != before and position in self._images:
                fresh += self._read_list(position, lines)
                self._lists[position] = (lines, stamp)
        return fresh

    def _has_unknown_images(self) -> bool:
        return any(position not in self._images for position, _ in listed(self.path))

    def _read_list(self, position: str, lines: FrameList) -> list[str]:
        each, fresh = self._images[position], []
        for start, line in lines.fresh():
            key, index = canonical_axes(line.axes), each.image.index_of(line.axes)
            if any(at >= n for at, n in zip(index, each.image.array.shape, strict=False)):
                # Raw has grown, and the arrays with it.
                self._take_up_images(anew=True)
                each = self._images[position]
            if each.stored.state(index) == "absent":
                continue
            self._frames.add(key, (position, index), start + 1)
            fresh.append(key)
        return fresh

    def _check(self) -> None:
        """Do nothing: every listed frame can be read, as each was written by itself."""

    def _refuse(self, position: str, error: InputError) -> None:  # noqa: ARG002
        raise error

    def _metadata(self, key: str) -> dict[str, Any]:
        start = self._frames.number(key) - 1
        return self._lists[self._frames[key][0]][0].metadata_at(start, key)

    def _no_frames(self) -> GridFrames:
        # Start of each frame's line, counted from 1: 0 means that there is no frame.
        return GridFrames(np.uint64)
