"""The layout of the OME-Zarr that large frames of a TIFF are refocused into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import ConfigError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ome_zarr.documents import MAX_CHANNELS, ChannelLook, image_document
from refocusd.formats.ome_zarr.files import put
from refocusd.formats.scale import channel_colour, channel_label, scale_of
from refocusd.frame import AxisValue

#: Side of a chunk, and largest side of the lowest resolution, px.
CHUNK_PX = 1024
#: Side of the part whose counts determine the initial display range of a channel, px.
_SHOWN_PX = 2048


def write_slide_layout(slides: Dataset, folder: Path) -> None:
    """Make an image for the frames of a recording: empty arrays, each half as wide as the one before.

    Parameters
    ----------
    slides : Dataset
        Its axes are time, channel and z, or some of these.
    folder : Path
        Where the group will be.

    Raises
    ------
    ConfigError
        If the zarr library is not installed.
    InputError
        If a frame cannot be read.
    """
    try:
        import zarr
    except ImportError as error:
        raise ConfigError(
            f"{slides.path} is large, and refocused in tiles into an OME-Zarr, and zarr is not "
            "installed: pip install 'refocusd[zarr]'"
        ) from error
    keys = slides.axes_keys()
    axes: list[dict[str, AxisValue]] = [json.loads(key) for key in keys]
    channels = _channels([frame.get("channel") for frame in axes])
    grid = (_length(axes, "time"), len(channels), _length(axes, "z"))
    form = slides.first_format()
    shape, arrays = (form.height, form.width), {"0": 1.0}
    shapes = [shape]
    while max(shapes[-1]) > CHUNK_PX:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
        arrays[str(len(arrays))] = 2.0 ** len(arrays)
    looks = [_look(slides, keys, axes, value, place) for place, value in enumerate(channels)]
    document = image_document(
        arrays,
        slides.name.removesuffix(".zarr"),
        scale_of(slides.metadata(keys[0]), slides.summary),
        looks if len(looks) <= MAX_CHANNELS else [],
        float(np.iinfo(form.dtype).max),
        {},
    )
    put(folder / "zarr.json", document)
    for name, (height, width) in zip(arrays, shapes, strict=True):
        zarr.create_array(
            folder / name,
            shape=(*grid, height, width),
            chunks=(1, 1, 1, min(CHUNK_PX, height), min(CHUNK_PX, width)),
            dtype=form.dtype.name,
            dimension_names=["t", "c", "z", "y", "x"],
        )


def _length(axes: list[dict[str, AxisValue]], name: str) -> int:
    return 1 + max(value if isinstance(value := frame.get(name), int) else 0 for frame in axes)


def _channels(values: list[AxisValue | None]) -> list[AxisValue | None]:
    """Value of each channel, by its place: names in their order, or numbers."""
    numbers = [value for value in values if isinstance(value, int)]
    return list(range(max(numbers) + 1)) if numbers else list(dict.fromkeys(values))


def _look(
    slides: Dataset, keys: list[str], axes: list[dict[str, AxisValue]], value: Any, place: int
) -> ChannelLook:
    """Name, colour and display range of a channel, from the middle of its first frame."""
    summary, form = slides.summary, slides.first_format()
    first = next(
        (key for key, at in zip(keys, axes, strict=True) if at.get("channel") == value), keys[0]
    )
    middle = [
        slice(max(0, (side - _SHOWN_PX) // 2), min(side, (side + _SHOWN_PX) // 2))
        for side in (form.height, form.width)
    ]
    label = channel_label(value, summary, slides.metadata(first)) or f"channel {place}"
    return ChannelLook.of(label, slides.read_part(first, *middle), channel_colour(value, summary))
