"""Describes the images of an OME-Zarr dataset while frames are added."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.formats.ome_zarr import documents
from refocusd.formats.ome_zarr.contents import Contents, Image
from refocusd.formats.ome_zarr.documents import MAX_CHANNELS, ChannelLook
from refocusd.formats.ome_zarr.files import put_changed, remove_file, remove_part
from refocusd.formats.ome_zarr.frame_list import FrameLine
from refocusd.formats.scale import (
    Scale,
    channel_colour,
    channel_label,
    scale_of,
    z_position_um,
    z_step_um,
)
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import AxisValue, Metadata, Pixels


class Description:
    """Writes what readers need to find the frames: arrays, images, their collection.

    Each document is replaced whole, inner ones first: at any moment, everything
    that is described exists.

    Parameters
    ----------
    path : Path
        The dataset's folder.
    summary : mapping
        Summary metadata of the acquisition.
    contents : Contents
        The frames that are in the dataset.
    """

    def __init__(self, path: Path, summary: Mapping[str, Any], contents: Contents) -> None:
        self._path = path
        self._summary = summary
        self._contents = contents

    def add(
        self, image: Image, line: FrameLine, pixels: Pixels, metadata: Metadata
    ) -> dict[int, ChannelLook]:
        """Update the description of an image for one more frame, if that changes anything.

        Returns
        -------
        dict of int to ChannelLook
            Looks of the image's channels, once the frame is in the dataset.
        """
        is_new = image.grid == (0, 0, 0)
        if is_new and (place := str(metadata.get("PositionName") or "")) not in ("", "Default"):
            rest = (f"{name} {at}" for name, at in image.axes.items() if name != "position")
            image.title = ", ".join([place, *rest])
        scale, image.scale = image.scale, self._scale_with(image, line, metadata)
        looks, channel = image.looks, line.at[1]
        if channel not in looks and channel < MAX_CHANNELS:
            # Only the channel's first frame decides.
            value = line.axes.get("channel")
            colour = channel_colour(value, self._summary)
            label = channel_label(value, self._summary, metadata) or f"channel {channel}"
            look = ChannelLook.of(label, pixels, colour)
            looks = {**looks, channel: look}
        grid = image.grid_with(line.at)
        if grid != image.grid:
            self._put_array(image, grid, line.format)
        changes = looks is not image.looks or image.scale != scale
        if is_new or changes or grid[1] != image.grid[1]:
            self._put_image(image, grid[1], looks, line.format)
        if is_new:
            self._put_collection(image.number + 1)
        return looks

    def _scale_with(self, image: Image, line: FrameLine, metadata: Metadata) -> Scale:
        """Scale of an image with one more frame: two planes of a stack give their distance."""
        scale = image.scale if image.grid != (0, 0, 0) else scale_of(metadata, self._summary)
        z, um = line.axes.get("z"), z_position_um(metadata)
        time, channel, _ = line.at
        if scale.z_um is None and isinstance(z, int) and um is not None and channel < MAX_CHANNELS:
            # Channels may change within a plane: each has a last plane of its own.
            last = image.last_planes.get(channel)
            image.last_planes[channel] = (time, (z, um))
            if last is not None and last[0] == time:
                return replace(scale, z_um=z_step_um(last[1], (z, um)))
        return scale

    def restore(self, touched: int, images: Iterable[Image]) -> None:
        """Describe exactly the frames that there are, whatever a failed frame left behind.

        Parameters
        ----------
        touched : int
            Number of the image that was written last.
        images : iterable of Image
            The images to describe again.

        Raises
        ------
        OSError
            If a document cannot be replaced.
        """
        count = len(self._contents.images)
        documents_touched = [f"{touched}/0/zarr.json", f"{touched}/zarr.json"]
        if touched >= count:
            for name in documents_touched:
                remove_file(self._path, name)
        if count < 2:
            remove_file(self._path, "OME/zarr.json")
        for name in (*documents_touched, "OME/zarr.json", "zarr.json"):
            remove_part(self._path, name)
        form = self._contents.format
        if form is None:
            self._put("zarr.json", documents.group_document({}))
            return
        # If the failed image was the second, the root describes the first one again.
        for image in images if count > 1 else self._contents.images.values():
            self._put_array(image, image.grid, form)
            self._put_image(image, image.grid[1], image.looks, form)
        self._put_collection(count)

    def recall(self) -> None:
        """Take scales and looks from the images' documents; those of a lost document stay unknown."""
        for image in self._contents.images.values():
            place = self._path / str(image.number) / "zarr.json"
            with contextlib.suppress(FileNotFoundError, ValueError):
                document = place.read_bytes()
                image.title, image.scale, looks = documents.read_image_document(document)
                image.looks = {
                    number: look
                    for number, look in enumerate(looks[: image.grid[1]])
                    if (look.black, look.white) != (0.0, _top(self._contents.format))
                }

    def _put(self, name: str, document: bytes) -> None:
        put_changed(self._path / name, document)

    def _label(self, value: AxisValue | None, place: int) -> str:
        return channel_label(value, self._summary) or f"channel {place}"

    def _put_array(self, image: Image, grid: tuple[int, int, int], form: PageFormat) -> None:
        self._put(f"{image.number}/0/zarr.json", documents.array_document(grid, form))

    def _put_image(
        self, image: Image, channels: int, looks: Mapping[int, ChannelLook], form: PageFormat
    ) -> None:
        """Describe an image in its group, and in the root as long as it is the only one."""
        top = _top(form)
        shown = []
        if channels <= MAX_CHANNELS:
            # A channel without a frame is listed if its number is below that of one with frames.
            shown = [
                looks.get(place)
                or ChannelLook(self._label(image.slots[1].value(place), place), 0.0, top)
                for place in range(channels)
            ]
        places = {f"{image.number}/zarr.json": "0"}
        if image.number == 0 and len(self._contents.images) < 2:
            places["zarr.json"] = "0/0"
        more = {"refocusd": {"axes": image.axes}}
        for name, array in places.items():
            document = documents.image_document(
                {array: 1}, image.name, image.scale, shown, top, more
            )
            self._put(name, document)

    def _put_collection(self, images: int) -> None:
        if images > 1:
            self._put("OME/zarr.json", documents.series_document(images))
            self._put("zarr.json", documents.collection_document())


def _top(form: PageFormat | None) -> float:
    return 0.0 if form is None else float(np.iinfo(form.dtype).max)
