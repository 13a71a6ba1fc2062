"""Which frames of a Zarr array are stored: a chunk without a file reads as its fill value.

An array has room for frames that were never acquired, or not yet: only the files, and in a
sharded array their indices, tell which ones were.
"""

from __future__ import annotations

import itertools
import math
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import zarr


FrameState = Literal["absent", "partial", "whole"]
#: Offset of a chunk that a shard does not hold.
_EMPTY = np.uint64(2**64 - 1)


class StoredChunks:
    """The chunks and shards of one array on disk.

    Parameters
    ----------
    array : zarr.Array
    folder : Path
        Folder of the array.
    """

    def __init__(self, array: zarr.Array[Any], folder: Path) -> None:
        self._folder = folder
        self._metadata = array.metadata
        self._shape = array.shape
        self._chunks = array.chunks
        #: Shape of the part that one file holds.
        self._files = array.shards or array.chunks
        #: Shards that were read: their stamp, and which chunks they hold.
        self._indices: dict[Path, tuple[tuple[int, int], Any]] = {}
        self._index_form = _index_form(array) if array.shards else None

    @property
    def frames_a_file(self) -> int:
        """How many frames share a file that is written as a whole."""
        return 1 if self._index_form else math.prod(self._files[:-2])

    @property
    def block(self) -> tuple[int, ...]:
        """How many frames, along each outer axis, are decoded together."""
        return tuple(self._chunks[:-2])

    def state(self, index: tuple[int, ...]) -> FrameState:
        """Whether all, some or none of a frame's chunks are stored."""
        there = {at: self._has(at, index) for at in self._files_of(index)}
        if all(there.values()):
            return "whole"
        # Zarr would block on a pipe, and read a folder as zeros.
        odd = (
            not has and stamp_of(path := self._path(at)) is None and path.exists()
            for at, has in there.items()
        )
        return "partial" if any(there.values()) and not any(odd) else "absent"

    def stamps(self, index: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Modification time (ns) and size of the existing files that hold a frame."""
        found = (stamp_of(self._path(coordinates)) for coordinates in self._files_of(index))
        return tuple(stamp for stamp in found if stamp is not None)

    def _files_of(self, index: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        outer = tuple(at // size for at, size in zip(index, self._files, strict=False))
        tiles = (
            range(math.ceil(n / size))
            for n, size in zip(self._shape[-2:], self._files[-2:], strict=True)
        )
        for tile in itertools.product(*tiles):
            yield (*outer, *tile)

    def _path(self, coordinates: tuple[int, ...]) -> Path:
        return self._folder / self._metadata.encode_chunk_key(coordinates)

    def _has(self, coordinates: tuple[int, ...], index: tuple[int, ...]) -> bool:
        path = self._path(coordinates)
        stamp = stamp_of(path)
        if stamp is None or self._index_form is None:
            return stamp is not None
        known = self._indices.get(path)
        if known is None or known[0] != stamp:
            known = self._indices[path] = (stamp, self._read_index(path))
        if known[1] is None:
            return False  # its writer is at work, or was killed
        inside = tuple(
            (at % outer) // inner
            for at, outer, inner in zip(index, self._files, self._chunks, strict=False)
        )
        # At the border a shard has room for chunks that lie outside the image.
        rows, columns = (
            math.ceil((side - at * outer) / inner)
            for side, at, outer, inner in zip(
                self._shape[-2:], coordinates[-2:], self._files[-2:], self._chunks[-2:], strict=True
            )
        )
        return bool(known[1][inside][:rows, :columns].all())

    def _read_index(self, path: Path) -> Any:
        """Which chunks a shard holds, an array of bool; None if its index is not (yet) whole."""
        assert self._index_form is not None
        at_end, checked = self._index_form
        grid = tuple(a // b for a, b in zip(self._files, self._chunks, strict=True))
        size = 16 * math.prod(grid) + (4 if checked else 0)
        try:
            with path.open("rb") as file:
                if at_end:
                    file.seek(-size, 2)
                data = file.read(size)
        except OSError:  # also a file that is shorter than that
            return None
        if len(data) != size:
            return None
        if checked:
            import google_crc32c

            if google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
                return None
            data = data[:-4]
        offsets = np.frombuffer(data, "<u8").reshape(*grid, 2)[..., 0]
        return offsets != _EMPTY


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Modification time (ns) and size (bytes) of a file; None if there is no such file."""
    stamp = place_stamp(path)
    return stamp[:2] if stamp and stat.S_ISREG(stamp[2]) else None


def place_stamp(path: Path) -> tuple[int, int, int] | None:
    """Modification time (ns), size (bytes) and mode of a file or folder; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_mode


def _index_form(array: zarr.Array[Any]) -> tuple[bool, bool]:
    """Whether the index of a shard is at its end, and whether it has a checksum."""
    codecs: Sequence[Any] = getattr(array.metadata, "codecs", ())
    (codec,) = (c for c in codecs if hasattr(c, "index_codecs"))
    names = [type(inner).__name__ for inner in codec.index_codecs]
    return str(getattr(codec.index_location, "value", codec.index_location)) == "end", (
        "Crc32cCodec" in names
    )
