"""The ``zarr.json`` documents of an OME-Zarr 0.5 dataset, as bytes.

Source: https://ngff.openmicroscopy.org/0.5 (*multiscales*, *omero*,
*bioformats2raw.layout*), as modelled by yaozarrs, and Zarr 3 for the array.  The
sink writes the files, because it must be able to take them back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from yaozarrs import v05

from refocusd.formats.scale import Scale
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Pixels

#: An axis with more values than this counts something other than channels:
#: their names and display ranges are left out of the metadata.
MAX_CHANNELS = 64
#: Colours given to channels in turn: distinct for most people with a colour vision deficiency.
_COLOURS = ("00BFFF", "FFB000", "FF4FA0", "7CFC00", "C792FF", "FFFFFF")
_SAMPLED_PIXELS = 1 << 16


@dataclass(frozen=True, slots=True)
class ChannelLook:
    """How a viewer first shows a channel: name, counts shown as black and as white, RRGGBB if stated."""

    label: str
    black: float
    white: float
    colour: str = ""

    @classmethod
    def of(cls, label: str, pixels: Pixels, colour: str = "") -> ChannelLook:
        """Look of a channel, from the 1st and 99.9th percentiles of one of its frames."""
        step = max(1, int((pixels.size / _SAMPLED_PIXELS) ** 0.5))
        black, white = np.percentile(pixels[::step, ::step], (1, 99.9)).tolist()
        return cls(label, black, max(white, black + 1), colour)


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """A group with these attributes."""
    return _document({"attributes": attributes, "zarr_format": 3, "node_type": "group"})


def array_document(grid: Sequence[int], form: PageFormat) -> bytes:
    """The array of an image: one uncompressed chunk for each frame; 0 where there is no frame.

    Parameters
    ----------
    grid : (int, int, int)
        Length along t, c and z.
    form : PageFormat
        Of a frame; little-endian on disk.
    """
    frame = (form.height, form.width)
    codec: dict[str, Any] = {"name": "bytes"}
    if form.dtype.itemsize > 1:
        codec["configuration"] = {"endian": "little"}
    return _document(
        {
            "shape": [*grid, *frame],
            "data_type": form.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [1, 1, 1, *frame]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [codec],
            "attributes": {},
            "dimension_names": ["t", "c", "z", "y", "x"],
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
    )


def image_document(
    arrays: Mapping[str, float],
    name: str,
    scale: Scale,
    channels: Sequence[ChannelLook],
    top: float,
    more: Mapping[str, Any],
) -> bytes:
    """An image, of one resolution or several.

    Parameters
    ----------
    arrays : mapping of str to float
        Path of each array, relative to the document's group, and the width of its pixels in pixels
        of a frame; the full resolution first.
    name : str
        What the image is called.
    scale : Scale
    channels : sequence of ChannelLook
        One for each channel; empty if they are not described.
    top : float
        Largest value of the pixels' type.
    more : mapping
        Further attributes of the group.
    """
    pixel_unit = "micrometer" if scale.pixel_um else None
    pixel = scale.pixel_um or 1.0
    steps = [scale.interval_s or 1.0, 1.0, scale.z_um or 1.0]
    multiscale = v05.Multiscale(
        name=_legible(name),
        axes=[
            v05.TimeAxis(name="t", unit="second" if scale.interval_s else None),
            v05.ChannelAxis(name="c"),
            v05.SpaceAxis(name="z", unit="micrometer" if scale.z_um else None),
            v05.SpaceAxis(name="y", unit=pixel_unit),
            v05.SpaceAxis(name="x", unit=pixel_unit),
        ],
        datasets=[
            v05.Dataset(
                path=path,
                coordinateTransformations=[
                    v05.ScaleTransformation(scale=[*steps, pixel * factor, pixel * factor])
                ],
            )
            for path, factor in arrays.items()
        ],
    )
    shown = [
        v05.OmeroChannel(
            label=_legible(channel.label),
            color=channel.colour
            or (_COLOURS[number % len(_COLOURS)] if len(channels) > 1 else "FFFFFF"),
            active=True,
            window=v05.OmeroWindow(min=0, max=top, start=channel.black, end=channel.white),
        )
        for number, channel in enumerate(channels)
    ]
    image = v05.Image(multiscales=[multiscale], omero=v05.Omero(channels=shown) if shown else None)
    return _ome_document(image, more)


def read_image_document(document: bytes) -> tuple[str, Scale, list[ChannelLook]]:
    """Name, scale and channels that `image_document` was given.

    Raises
    ------
    ValueError
        If the document does not describe an image.
    """
    image = v05.OMEZarrGroupJSON.model_validate_json(document).attributes.ome
    if not isinstance(image, v05.Image):
        raise ValueError("it describes no image")  # noqa: TRY004 (of the file, not the caller)
    multiscale = image.multiscales[0]
    steps = multiscale.datasets[0].scale_transform.scale
    known = {
        axis.name: step
        for axis, step in zip(multiscale.axes, steps, strict=True)
        if getattr(axis, "unit", None)
    }
    looks = [
        ChannelLook(channel.label or "", channel.window.start, channel.window.end)
        for channel in (image.omero.channels if image.omero else ())
        if channel.window
    ]
    return multiscale.name or "", Scale(known.get("x"), known.get("z"), known.get("t")), looks


def collection_document() -> bytes:
    """The root of several images, numbered from 0."""
    return _ome_document(v05.Bf2Raw.model_validate({"bioformats2raw.layout": 3}))


def series_document(images: int) -> bytes:
    """The order of several images."""
    return _ome_document(v05.Series(series=[str(number) for number in range(images)]))


def _ome_document(ome: v05.Image | v05.Bf2Raw | v05.Series, more: Mapping[str, Any] = {}) -> bytes:
    return group_document({"ome": ome.model_dump(exclude_none=True), **more})


def _document(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode("ascii")


def _legible(text: str) -> str:
    # Names that came through JSON may hold lone surrogates, which the models refuse.
    return text.encode("utf-8", "replace").decode("utf-8")
