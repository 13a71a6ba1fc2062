"""Refocused OME-Zarr stores with the layout of a raw one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.formats.ome_zarr.chunks import stamp_of
from refocusd.formats.ome_zarr.layout import (
    OWN_GROUP,
    lines_behind,
    metadata_of,
    read_line_of,
    read_lines,
)
from refocusd.formats.ome_zarr.mirror_layout import listed, read_attributes
from refocusd.formats.ome_zarr.store_reader import StoreReader
from refocusd.formats.tiff.page import MAX_FRAME_BYTES
from refocusd.frame import canonical_axes

__all__ = ["MirrorReader"]


class MirrorReader(StoreReader):
    """The frames of a store that `MirrorSink` or the jobs of a cluster wrote; for one thread.

    Those that its lists name, and whose pixels are there.

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
        #: By list: up to where it was read, and its stamp then.
        self._read_to: dict[Path, tuple[int, object]] = {}
        #: By frame: its list, and where its line starts.
        self._lines: dict[str, tuple[Path, int]] = {}
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
        said = read_attributes(self.path / OWN_GROUP)
        summary, mark = said.get("summary"), said.get("refocusd")
        return {**(summary if isinstance(summary, dict) else {}), "refocusd": mark}

    @property
    def finished(self) -> bool:
        """Never known: frames may always be added."""
        return False

    def refresh(self) -> list[str]:
        """Take up the frames that were listed since.

        Raises
        ------
        InputError
            As when opening.
        """
        super()._take_up_images(anew=self._has_unknown_images())
        fresh: list[str] = []
        for position, place in listed(self.path):
            stamp = stamp_of(place)
            end, before = self._read_to.get(place, (0, None))
            if stamp == before:
                continue
            fresh += self._read_list(position, place, end)
        return fresh

    def _has_unknown_images(self) -> bool:
        return any(position not in self._images for position, _ in listed(self.path))

    def _read_list(self, position: str, place: Path, end: int) -> list[str]:
        each = self._images.get(position)
        if each is None:
            return []
        fresh, stamp = [], stamp_of(place)
        try:
            with place.open("rb") as file:
                file.seek(end)
                for start, length, line in read_lines(file):
                    end = start + length
                    key, index = canonical_axes(line.axes), each.image.index_of(line.axes)
                    if any(at >= n for at, n in zip(index, each.image.array.shape, strict=False)):
                        # Raw has grown, and the arrays with it.
                        self._take_up_images(anew=True)
                        each = self._images[position]
                    if each.stored.state(index) == "absent":
                        continue
                    self._frames[key] = (position, index)
                    self._lines[key] = (place, start)
                    fresh.append(key)
                if lines_behind(file, end):
                    raise self._damaged(f"{place} is illegible at byte {end}")
        except OSError as error:
            raise InputError(
                f"{place} cannot be read ({error.strerror}): check the disk"
            ) from error
        self._read_to[place] = (end, stamp)
        return fresh

    def _check(self) -> None:
        """Whatever there is may be read: it was written frame by frame."""

    def _metadata(self, key: str) -> dict[str, Any]:
        place, start = self._lines[key]
        try:
            found = read_line_of(place, start)
            if found is None or canonical_axes(found[0].axes) != key:
                raise self._damaged(f"{place} has changed where {key} was")
            return metadata_of(found[1])
        except ValueError as error:
            raise self._damaged(f"the metadata of frame {key} cannot be read ({error})") from error
        except OSError as error:
            raise InputError(
                f"{place} cannot be read ({error.strerror}): check the disk"
            ) from error
