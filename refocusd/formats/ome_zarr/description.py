"""How the images of an OME-Zarr dataset are described while frames come."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.formats.ome_zarr import documents
from refocusd.formats.ome_zarr.contents import Contents, Image
from refocusd.formats.ome_zarr.documents import MAX_CHANNELS, ChannelLook
from refocusd.formats.ome_zarr.files import Files, remove_file, remove_part
from refocusd.formats.ome_zarr.layout import FrameLine
from refocusd.formats.scale import channel_label, scale_of
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import AxisValue, Metadata, Pixels

__all__ = ["Description"]


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

    def put(self, image: Image, line: FrameLine, pixels: Pixels, metadata: Metadata) -> None:
        """Describe an image with one more frame, as far as that changes something."""
        is_new = image.grid == (0, 0, 0)
        if is_new:
            image.scale = scale_of(metadata, self._summary)
        channel = line.at[1]
        is_new_channel = channel not in image.looks and channel < MAX_CHANNELS
        if is_new_channel:
            # The channel's first frame decides on its own.
            label = self._label(line.axes.get("channel"), channel)
            self._files.on_undo(lambda: image.looks.pop(channel, None))
            image.looks[channel] = ChannelLook.of(label, pixels)
        grid = image.grid_with(line.at)
        if grid != image.grid:
            self._put_array(image, grid, line.format)
        if is_new_channel or grid[1] != image.grid[1]:
            self._put_image(image, grid[1], line.format)
        if is_new:
            self._put_collection(image.number + 1)

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
        form = self._contents.format
        if form is None:
            self._files.put("zarr.json", documents.group_document({}))
        else:
            for image in images:
                self._recall(image, form)
                self._put_array(image, image.grid, form)
                self._put_image(image, image.grid[1], form)
            self._put_collection(len(images))
        self._files.keep()

    def _label(self, value: AxisValue | None, place: int) -> str:
        return channel_label(value, self._summary) or f"channel {place}"

    def _put_array(self, image: Image, grid: tuple[int, int, int], form: PageFormat) -> None:
        self._files.put(f"{image.number}/0/zarr.json", documents.array_document(grid, form))

    def _put_image(self, image: Image, channels: int, form: PageFormat) -> None:
        """Describe an image in its group, and in the root as long as it is the only one."""
        top = _top(form)
        shown = []
        if channels <= MAX_CHANNELS:
            # A channel without a frame is there because its number is below another's.
            shown = [
                image.looks.get(place)
                or ChannelLook(self._label(image.slots[1].value(place), place), 0.0, top)
                for place in range(channels)
            ]
        places = {f"{image.number}/zarr.json": "0"}
        if image.number == 0 and len(self._contents.images) < 2:
            places["zarr.json"] = "0/0"
        more = {"refocusd": {"axes": image.axes}}
        for name, array in places.items():
            document = documents.image_document(array, image.name, image.scale, shown, top, more)
            self._files.put(name, document)

    def _put_collection(self, images: int) -> None:
        if images > 1:
            self._files.put("OME/zarr.json", documents.series_document(images))
            self._files.put("zarr.json", documents.collection_document())

    def _recall(self, image: Image, form: PageFormat) -> None:
        """Take an image's scale and looks from its document; if it is lost, they are unknown."""
        place = self._path / str(image.number) / "zarr.json"
        with contextlib.suppress(FileNotFoundError, ValueError):
            image.scale, looks = documents.read_image_document(place.read_bytes())
            image.looks = {
                place: look
                for place, look in enumerate(looks[: image.grid[1]])
                if (look.black, look.white) != (0.0, _top(form))
            }


def _top(form: PageFormat) -> float:
    return float(np.iinfo(form.dtype).max)
