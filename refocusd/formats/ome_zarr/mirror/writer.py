"""OME-Zarr sink with the layout of a raw store: the same plate, images, names and resolutions."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refocusd.errors import InputError, OutputError
from refocusd.formats.disk_space import write_error
from refocusd.formats.lock import open_locked
from refocusd.formats.ome_zarr.layout import OWN_GROUP, marked_summary, summary_to_continue
from refocusd.formats.ome_zarr.mirror.image import MirrorImage, create_image, create_outer_groups
from refocusd.formats.ome_zarr.mirror.layout import (
    LISTS,
    MIRROR,
    listed,
    lock_path,
    put_like,
)
from refocusd.formats.ome_zarr.store.groups import image_folders, is_below, is_store, read_group
from refocusd.formats.ome_zarr.store.image import OmeImage
from refocusd.formats.ome_zarr.store.reader import STORE
from refocusd.formats.sink import Sink, Written, opened_files, refuse_existing
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import AxisValue, Metadata, Pixels

#: Most images whose arrays are kept open.
MAX_OPEN = 256


class MirrorSink(Sink):
    """A refocused OME-Zarr store beside a raw one, made by `create` or `append`.

    Groups and arrays are those of the raw store, of the same versions of Zarr and OME-Zarr, with
    the same axes, scales, channels, resolutions and compression; but a chunk or shard holds one
    frame, so that it is written once and whole.  `refocusd.formats.ome_zarr.mirror.layout` shows the
    files.

    Parameters
    ----------
    path : Path
    summary : mapping
    lock : io.FileIO
    """

    def __init__(self, path: Path, summary: Mapping[str, Any], lock: io.FileIO) -> None:
        super().__init__(path, summary, Written())
        self._lock = lock
        # If raw is not a store, this store already has the images for all of its frames.
        self._raw = Path(str(summary.get(STORE, path)))
        self._images: dict[str, MirrorImage] = {}
        self._dirty_image: MirrorImage | None = None

    @classmethod
    def create(cls, path: Path, summary: Mapping[str, Any], raw: Path) -> MirrorSink:
        """Make the whole store, with all of its images empty.

        Parameters
        ----------
        path : Path
            Folder that does not exist yet (or is empty).
        summary : mapping
            Summary metadata of the raw dataset.
        raw : Path
            The raw store.

        Raises
        ------
        OutputError
            If the folder exists or cannot be made.
        InputError
            If the raw store cannot be read.
        """
        plain = marked_summary(summary, MIRROR)
        with opened_files(path, "starting a dataset") as files:
            if not path.is_dir() or any(path.iterdir()):
                refuse_existing(path)
            lock = files.enter_context(open_locked(lock_path(path)))
            put_like(raw, path / OWN_GROUP, {"refocusd": MIRROR, "summary": plain})
            made = []
            for position, folder in image_folders(raw).items():
                # An image that another program has only begun is made with its first frame; one that
                # cannot be refocused is left out.
                with contextlib.suppress(InputError):
                    image = OmeImage.open(folder, position)
                    if not image.trouble:
                        create_image(image, path)
                        made.append(position)
            create_outer_groups(made, raw, path)
            # The folder of the lists comes last: a store with one is a dataset.
            (path / OWN_GROUP / LISTS).mkdir()
        return cls(path, plain, lock)

    @classmethod
    def append(cls, path: Path) -> MirrorSink:
        """Continue a store that `create` started, whatever ended its writer.

        Raises
        ------
        OutputError
            If refocusd did not write it, if a list of frames is damaged, or if another process
            is writing it.
        """
        with opened_files(path, "opening the dataset for appending") as files:
            lock = files.enter_context(open_locked(lock_path(path)))
            sink = cls(path, summary_to_continue(path, MIRROR), lock)
            for position, _ in listed(path):
                before = len(sink._written.keys)
                with MirrorImage(path, position, sink._written.keys, lock=False) as image:
                    if len(sink._written.keys) > before:
                        sink._written.format = image.format
        return sink

    def make_room(self, axes: dict[str, AxisValue]) -> None:
        """Create or enlarge the image of a frame, if the raw store was extended.

        Raises
        ------
        OutputError
            If the raw store has no such image, or the disk refuses.
        """
        try:
            self._image(axes)
            # Closed, so that the job that writes it can take its lock.
            self._images.pop(str(axes.get("position", ""))).close()
        except OSError as error:
            raise write_error(error, self.path, "making an image") from error

    def _opened(self, position: str) -> MirrorImage:
        if len(self._images) >= MAX_OPEN:
            self._images.pop(next(iter(self._images))).close()
        # Locked: a cluster's job that outlived its command may still be at work.
        image = MirrorImage(self.path, position, self._written.keys)
        self._images[position] = image
        return image

    def _refuse_unfit(self, key: str, axes: dict[str, AxisValue], form: PageFormat) -> None:
        image = self._image(axes)  # its list of frames may have to be read first
        super()._refuse_unfit(key, axes, form)
        if form != image.format:
            raise OutputError(
                f"frame {key} has {form}, but its image in {self.path} has {image.format}"
            )
        image.place(axes)

    def _image(self, axes: dict[str, AxisValue]) -> MirrorImage:
        """The image of a frame; it is made or enlarged now if it is new in raw, or has grown there."""
        position = str(axes.get("position", ""))
        found = self._images.get(position)
        try:
            if found is not None:
                index = found.image.index_of(axes)
                if all(at < n for at, n in zip(index, found.image.array.shape, strict=False)):
                    return found
            folder = self._raw / position
            said = read_group(folder) if not position or is_below(position) else None
            if said is None or not said.multiscales:
                raise OutputError(
                    f"{self._raw} has no image at {position or 'its root'} (any more): the frame has no "
                    f"place in {self.path}"
                )
            raw_image = OmeImage.open(folder, position)
            grown = found is not None and raw_image.array.shape != found.image.array.shape
            if grown or not is_store(self.path / position):
                create_image(raw_image, self.path)
                create_outer_groups([position], self._raw, self.path)
            if found is not None:
                if not grown:
                    return found
                found.close()
            return self._opened(position)
        except InputError as error:
            raise OutputError(str(error)) from error

    def _append(
        self,
        pixels: Pixels,
        axes: dict[str, AxisValue],
        text: bytes,
        metadata: Metadata,  # noqa: ARG002 (`text` is the same)
    ) -> None:
        image = self._dirty_image = self._image(axes)
        image.append(pixels, axes, text)
        self._written.format = image.format
        self._dirty_image = None

    def _undo(self) -> None:
        if self._dirty_image is not None:
            self._dirty_image.take_back()
            self._dirty_image = None

    def _close_files(self) -> None:
        for image in self._images.values():
            image.close()
        self._lock.close()
