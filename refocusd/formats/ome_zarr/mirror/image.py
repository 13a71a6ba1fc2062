"""One image of a refocused store with the layout of a raw one: its arrays and its list of frames."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError, OutputError
from refocusd.files import open_file
from refocusd.formats.disk_space import write_error
from refocusd.formats.lock import open_locked
from refocusd.formats.ndtiff.stack import write_all
from refocusd.formats.ome_zarr.files import put
from refocusd.formats.ome_zarr.frame_list import FrameLine, damaged_list, lines_of, pack_line
from refocusd.formats.ome_zarr.mirror.layout import frame_wise, list_path, put_like
from refocusd.formats.ome_zarr.store.chunks import StoredChunks
from refocusd.formats.ome_zarr.store.frame_notes import XML
from refocusd.formats.ome_zarr.store.groups import is_store
from refocusd.formats.ome_zarr.store.image import OmeImage, open_array, part_of
from refocusd.formats.sink import WrittenKeys, json_bytes
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Axes, AxisValue, Metadata, Pixels, canonical_axes

if TYPE_CHECKING:
    import zarr


#: Largest side of the part that is reduced at a time, px of the lower resolution.
MAX_PART_PX = 2048


def create_image(raw_image: OmeImage, path: Path) -> None:
    """Create the group and empty arrays of one image; existing ones are left as they are.

    Call `create_outer_groups` afterwards.

    Parameters
    ----------
    raw_image : OmeImage
    path : Path
        The refocused store.

    Raises
    ------
    OSError, InputError
    """
    folder = path / raw_image.position
    for level in raw_image.levels:
        _put_array(raw_image.folder / level, folder / level)
    put_like(raw_image.folder, folder)


def create_outer_groups(positions: Iterable[str], raw: Path, path: Path) -> None:
    """Make the groups around new images, the outermost last: everything that is described exists.

    Parameters
    ----------
    positions : iterable of str
        Of the images; all those of a plate at once, as its own group describes all of its wells.
    raw, path : Path
        The raw store, and the refocused one.

    Raises
    ------
    OSError, InputError
    """
    outer = {group for position in positions for group in Path(position).parents}
    for group in sorted(outer, key=lambda group: -len(group.parts)):
        if is_store(raw / group):
            put_like(raw / group, path / group)
    # In the layout of bioformats2raw this group has the order of the images.
    if (raw / "OME").is_dir():
        put_like(raw / "OME", path / "OME")
    if (raw / XML).is_file():
        put(path / XML, (raw / XML).read_bytes())


def _put_array(raw: Path, place: Path) -> None:
    name = "zarr.json" if (raw / "zarr.json").is_file() else ".zarray"
    try:
        document = json.loads((raw / name).read_text(encoding="utf-8"))
        text = json.dumps(frame_wise(document), indent=2).encode()
    except FileNotFoundError as error:
        raise InputError(
            f"{raw} is named as a resolution of its image, and is not there: copy the store again"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{raw / name} cannot be read as a Zarr array ({error})") from error
    put(place / name, text)


class MirrorImage:
    """Writes the frames of one image, for one thread.

    Parameters
    ----------
    path : Path
        The refocused store.
    position : str
        Path of the image in it.
    keys : WrittenKeys, optional
        Receives the canonical axes of its frames.
    lock : bool
        Hold the lock of its list; not needed by a process that holds the lock of the whole store.

    Raises
    ------
    OutputError
        If another process writes this image, or its list of frames is damaged.
    InputError
        If its arrays cannot be opened.
    OSError
    """

    def __init__(
        self, path: Path, position: str, keys: WrittenKeys | None = None, *, lock: bool = True
    ) -> None:
        self.path = path
        self.keys = WrittenKeys() if keys is None else keys
        self.image = OmeImage.open(path / position, position)
        self._levels: list[zarr.Array[Any]] = [
            open_array(self.image.folder / level, writable=True) for level in self.image.levels
        ]
        self._stored = StoredChunks(self.image.array, self.image.folder / self.image.levels[0])
        self._list = list_path(path, position)
        self._lock: io.FileIO | None = None
        #: Nothing follows the last whole line of the list.
        self._clean = False
        try:
            if lock:
                self._lock = open_locked(self._list)
            self._end = self._read() if self._list.exists() else 0
        except BaseException:
            self.close()
            raise

    @property
    def format(self) -> PageFormat:
        """Shape and type of its frames."""
        return self.image.format

    def write(self, pixels: Pixels, axes: dict[str, AxisValue], metadata: Metadata) -> None:
        """Add one frame that is not written yet: its pixels, then the line that lists it.

        Raises
        ------
        OutputError
            If the image has no place for it, or the disk refuses.
        """
        text = json_bytes(metadata, f"the metadata of frame {canonical_axes(axes)}")
        with self._or_taken_back(axes):
            self.append(pixels, axes, text)

    def append(self, pixels: Pixels, axes: dict[str, AxisValue], text: bytes) -> None:
        """As `write`, but raises the system's `OSError`; then call `take_back`."""
        index = self.place(axes)
        for number, level in enumerate(self._levels):
            _write_level(level, index, pixels, self._levels[0].shape if number else level.shape)
        self._enlist(axes, text)

    def write_part(
        self, pixels: Pixels, axes: dict[str, AxisValue], rows: slice, columns: slice
    ) -> None:
        """Write part of a frame, which counts once `finish` lists it.

        Raises
        ------
        OutputError
            As `write`.
        """
        try:
            self._levels[0][part_of(self.place(axes), rows, columns)] = pixels
        except OSError as error:
            raise write_error(error, self.path, f"writing {canonical_axes(axes)}") from error

    def read_part(self, axes: Axes, rows: slice, columns: slice) -> Pixels:
        """Part of a frame as it was written."""
        part = np.asarray(self._levels[0][part_of(self.place(axes), rows, columns)])
        return np.ascontiguousarray(part, dtype=self.format.dtype)

    def finish(self, axes: dict[str, AxisValue], metadata: Metadata) -> None:
        """Make the lower resolutions of a frame that was written in parts, and list it.

        Raises
        ------
        OutputError
            As `write`.
        """
        text = json_bytes(metadata, f"the metadata of frame {canonical_axes(axes)}")
        with self._or_taken_back(axes):
            index = self.place(axes)
            finer = (self._levels[0], index)
            for level in self._levels[1:]:
                plane = _plane_of(level, index, self._levels[0].shape)
                if plane is None:
                    break
                _reduce_by_parts(finer, (level, plane))
                finer = (level, plane)
            self._enlist(axes, text)

    @contextmanager
    def _or_taken_back(self, axes: Axes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.take_back()
            raise write_error(error, self.path, f"writing frame {canonical_axes(axes)}") from error

    def unfinished(self, axes: Axes) -> Path:
        """File for noting which parts of a frame are written, until `finish` lists it."""
        return self._list.with_suffix(f".{'-'.join(map(str, self.place(axes)))}.tiles")

    @property
    def file_shape(self) -> tuple[int, int]:
        """Height and width of the part that one file holds, px."""
        files = self._levels[0].shards or self._levels[0].chunks
        return files[-2], files[-1]

    def _enlist(self, axes: dict[str, AxisValue], text: bytes) -> None:
        if not self._clean:
            # Not earlier: a process that only reads must not cut off what a cluster's job is writing.
            self.take_back()
            self._clean = True
        at = dict(zip(self.image.outer, self.place(axes), strict=True))
        line = FrameLine(
            axes,
            0,
            (at.get("time", 0), at.get("channel", 0), at.get("z", 0)),
            (self.format.height, self.format.width),
            self.format.dtype.name,
        )
        packed = pack_line(line, text)
        # Not kept open: a plate may have more images than a process may have open files.
        with open_file(self._list, "a") as file:
            write_all(file, packed)
        self._end += len(packed)
        self.keys.add(canonical_axes(axes))

    def place(self, axes: Axes) -> tuple[int, ...]:
        """Index of a frame in the array.

        Raises
        ------
        OutputError
            If there is none.
        """
        try:
            index = self.image.index_of(axes)
        except InputError as error:
            raise OutputError(str(error)) from error
        if any(at >= size for at, size in zip(index, self.image.array.shape, strict=False)):
            raise OutputError(
                f"{self.image.folder} has room for {self.image.array.shape[:-2]} frames, and none for "
                f"{canonical_axes(axes)}"
            )
        return index

    def take_back(self) -> None:
        """Remove whatever follows the last whole line of the list."""
        if self._list.exists():
            os.truncate(self._list, self._end)

    def close(self) -> None:
        """Release the lock of the list."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _read(self) -> int:
        """Read the frames of the list whose pixels are there; return the end of its last whole line."""
        end = 0
        try:
            for _, line_end, line in lines_of(self._list):
                end = line_end
                key = canonical_axes(line.axes)
                # A frame whose pixels were lost (a power failure) may be written again.
                if key not in self.keys and self._stored.state(self.place(line.axes)) != "absent":
                    self.keys.add(key)
        except ValueError as error:
            raise damaged_list(self._list, end) from error
        return end


def _write_level(
    array: zarr.Array[Any], index: tuple[int, ...], pixels: Pixels, full: tuple[int, ...]
) -> None:
    """Write a frame at one resolution, if that has a plane of its own for it."""
    place = _plane_of(array, index, full)
    if place is None:
        return
    shape = (array.shape[-2], array.shape[-1])
    array[place] = pixels if pixels.shape == shape else reduced(pixels, shape)


def _plane_of(
    array: zarr.Array[Any], index: tuple[int, ...], full: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Index of a frame at one resolution; None if that has no plane of its own for it."""
    place = []
    for at, size, whole in zip(index, array.shape, full, strict=False):
        step = max(1, round(whole / size))
        if at % step or at // step >= size:
            return None  # resolutions with fewer planes take the first of those that they replace
        place.append(at // step)
    return tuple(place)


def _reduce_by_parts(
    finer: tuple[zarr.Array[Any], tuple[int, ...]], coarser: tuple[zarr.Array[Any], tuple[int, ...]]
) -> None:
    """Make a plane of one resolution from that of the finer one, a few chunks at a time."""
    (source, here), (target, there) = finer, coarser
    shape = target.shape[-2:]
    steps = [max(1, round(n / m)) for n, m in zip(source.shape[-2:], shape, strict=True)]
    files = (target.shards or target.chunks)[-2:]
    sides = [min(side, MAX_PART_PX) for side in files]
    for top in range(0, shape[0], sides[0]):
        for left in range(0, shape[1], sides[1]):
            rows = slice(top, min(top + sides[0], shape[0]))
            columns = slice(left, min(left + sides[1], shape[1]))
            above = slice(rows.start * steps[0], rows.stop * steps[0])
            beside = slice(columns.start * steps[1], columns.stop * steps[1])
            part = np.asarray(source[part_of(here, above, beside)])
            wanted = (rows.stop - rows.start, columns.stop - columns.start)
            target[part_of(there, rows, columns)] = _means(part, wanted, steps)


def reduced(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    """A frame at a lower resolution: each pixel is the mean of those that it replaces."""
    steps = [max(1, round(n / m)) for n, m in zip(pixels.shape, shape, strict=True)]
    return _means(pixels, shape, steps)


def _means(pixels: NDArray[Any], shape: tuple[int, int], steps: Sequence[int]) -> Pixels:
    wanted = [m * step for m, step in zip(shape, steps, strict=True)]
    cut: NDArray[Any] = pixels[: wanted[0], : wanted[1]]
    missing = [(0, max(0, n - m)) for n, m in zip(wanted, cut.shape, strict=True)]
    if any(after for _, after in missing):
        cut = np.pad(cut, missing, mode="edge")
    blocks = cut.reshape(shape[0], steps[0], shape[1], steps[1])
    # A 32-bit sum holds 65 536 counts of 16 bits, far more than one pixel replaces.
    total = blocks.sum(axis=(1, 3), dtype=np.uint32)
    count = steps[0] * steps[1]
    means: Pixels = ((total + count // 2) // count).astype(pixels.dtype)
    return means
