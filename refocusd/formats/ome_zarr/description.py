"""How the images of an OME-Zarr dataset are described while frames come."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refocusd.formats.ome_zarr import documents
from refocusd.formats.ome_zarr.contents import Contents, Image
from refocusd.formats.ome_zarr.documents import MAX_CHANNELS, ChannelLook
from refocusd.formats.ome_zarr.files import Files, remove_file, remove_part
from refocusd.formats.ome_zarr.layout import FrameLine
from refocusd.formats.ome_zarr.scale import Scale, channel_label, scale_of
from refocusd.frame import Metadata, Pixels

__all__ = ["Description"]

_TOP = {"uint8": 255.0, "uint16": 65535.0}


class Description:
    """Writes what readers need to find the frames: arrays, images, their collection.

    Each document is replaced whole, inner ones first: at any moment all that is
    described is there.

    Parameters
    ----------
    files : Files
        Through which every change can be undone.
    path : Path
        The dataset's folder.
    summary : mapping
        Summary metadata of the acquisition.
    contents : Contents
        The frames that are in the dataset.
    """

    def __init__(
        self, files: Files, path: Path, summary: Mapping[str, Any], contents: Contents
    ) -> None:
        self._files = files
        self._path = path
        self._summary = summary
        self._contents = contents

    def put(
        self, image: Image, line: FrameLine, pixels: Pixels, metadata: Metadata
    ) -> tuple[Scale, dict[int, ChannelLook]]:
        """Describe an image with one more frame, as far as that changes something.

        Returns
        -------
        scale : Scale
        looks : dict of int to ChannelLook
            What the image is to remember once the frame is kept.
        """
        is_new = image.grid == (0, 0, 0)
        scale = scale_of(metadata, self._summary) if is_new else image.scale
        looks = self._looks_with(image, line, pixels)
        grid = image.grid_with(line.at)
        if grid != image.grid:
            self._put_array(image, grid, line.shape, line.dtype)
        if looks is not image.looks or grid[1] != image.grid[1]:
            self._put_image(image, grid[1], line.dtype, looks, scale)
        if is_new:
            self._put_collection(image.number + 1)
        return scale, looks

    def renew(self, touched: int) -> None:
        """Describe the frames that there are, and no more, whatever a killed writer left.

        Parameters
        ----------
        touched : int
            Number of the image that was written last.

        Raises
        ------
        OSError
            If a document cannot be replaced.
        """
        images = self._contents.images.values()
        documents_touched = [f"{touched}/0/zarr.json", f"{touched}/zarr.json"]
        if touched >= len(images):
            for name in documents_touched:
                remove_file(self._path, name)
        if len(images) < 2:
            remove_file(self._path, "OME/zarr.json")
        for name in (*documents_touched, "OME/zarr.json", "zarr.json"):
            remove_part(self._path, name)
        if self._contents.layout is None:
            self._files.put("zarr.json", documents.group_document({}))
        else:
            shape, dtype = self._contents.layout
            for image in images:
                self._recall(image, dtype)
                self._put_array(image, image.grid, shape, dtype)
                self._put_image(image, image.grid[1], dtype, image.looks, image.scale)
            self._put_collection(len(images))
        self._files.keep()

    def _looks_with(self, image: Image, line: FrameLine, pixels: Pixels) -> dict[int, ChannelLook]:
        """Looks of the image's channels; a channel's first frame decides on its own."""
        place = line.at[1]
        if place in image.looks or place >= MAX_CHANNELS:
            return image.looks
        label = channel_label(line.axes.get("channel"), self._summary) or f"channel {place}"
        return {**image.looks, place: ChannelLook.of(label, pixels)}

    def _put_array(
        self, image: Image, grid: tuple[int, int, int], shape: tuple[int, int], dtype: str
    ) -> None:
        document = documents.array_document(grid, shape, dtype)
        self._files.put(f"{image.number}/0/zarr.json", document)

    def _put_image(
        self,
        image: Image,
        channels: int,
        dtype: str,
        looks: Mapping[int, ChannelLook],
        scale: Scale,
    ) -> None:
        """Describe an image in its group, and in the root as long as it is the only one."""
        top = _TOP[dtype]
        shown = (
            [looks.get(place) or self._unseen(image, place, top) for place in range(channels)]
            if channels <= MAX_CHANNELS
            else []
        )
        more = {"refocusd": {"axes": image.axes}}
        document = documents.image_document("0", image.name, scale, shown, top, more)
        self._files.put(f"{image.number}/zarr.json", document)
        if image.number == 0 and len(self._contents.images) < 2:
            document = documents.image_document("0/0", image.name, scale, shown, top, more)
            self._files.put("zarr.json", document)

    def _unseen(self, image: Image, place: int, top: float) -> ChannelLook:
        """Look of a channel without a frame: its number is below another's."""
        value = image.slots[1].value(place)
        label = channel_label(value, self._summary) or f"channel {place}"
        return ChannelLook(label, 0.0, top)

    def _put_collection(self, images: int) -> None:
        if images > 1:
            self._files.put("OME/zarr.json", documents.series_document(images))
            self._files.put("zarr.json", documents.collection_document())

    def _recall(self, image: Image, dtype: str) -> None:
        """Take an image's scale and looks from its document; if it is lost, they are unknown."""
        place = self._path / str(image.number) / "zarr.json"
        with contextlib.suppress(FileNotFoundError, ValueError):
            image.scale, looks = documents.read_image_document(place.read_bytes())
            image.looks = {
                place: look
                for place, look in enumerate(looks[: image.grid[1]])
                if (look.black, look.white) != (0.0, _TOP[dtype])
            }
