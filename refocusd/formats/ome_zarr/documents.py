"""The ``zarr.json`` documents of an OME-Zarr 0.5 dataset, as bytes.

Source: https://ngff.openmicroscopy.org/0.5 (*multiscales*, *omero*,
*bioformats2raw.layout*).  The zarr library composes them in memory; the sink
puts the bytes in place, each file at once, so that it can take them back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from refocusd.errors import ConfigError
from refocusd.formats.ndtiff.layout import json_bytes
from refocusd.formats.ome_zarr.scale import Scale
from refocusd.frame import Pixels

__all__ = [
    "MAX_CHANNELS",
    "ChannelLook",
    "array_document",
    "collection_document",
    "group_document",
    "image_document",
    "plain_json",
    "read_image_document",
    "require_zarr",
    "series_document",
]

VERSION = "0.5"
#: More than this are not channels but something else that was counted there:
#: their names and windows are left out of the metadata.
MAX_CHANNELS = 64
#: One colour a channel in turn: distinct for most people with a colour vision deficiency.
_COLOURS = ("00BFFF", "FFB000", "FF4FA0", "7CFC00", "C792FF", "FFFFFF")
_SAMPLED_PIXELS = 1 << 16


@dataclass(frozen=True, slots=True)
class ChannelLook:
    """How a viewer shows a channel at first: name, counts that are black and white."""

    label: str
    black: float
    white: float

    @classmethod
    def of(cls, label: str, pixels: Pixels) -> ChannelLook:
        """Look of a channel by one of its frames: its 1st and 99.9th percentile."""
        step = max(1, int((pixels.size / _SAMPLED_PIXELS) ** 0.5))
        black, white = np.percentile(pixels[::step, ::step], (1, 99.9)).tolist()
        return cls(label, black, max(white, black + 1))


def require_zarr() -> ModuleType:
    """Import the zarr library, which an extra installs.

    Raises
    ------
    ConfigError
        If it is absent, or too old for Zarr 3.
    """
    try:
        import zarr
        import zarr.storage
    except ImportError as error:
        raise ConfigError(
            f"OME-Zarr output needs the zarr library ({error}): install it with "
            '`pip install "refocusd[zarr]"`, or choose NDTiff'
        ) from error
    if int(zarr.__version__.partition(".")[0]) < 3:
        raise ConfigError(
            f"OME-Zarr output needs zarr 3, and zarr {zarr.__version__} is installed: upgrade it "
            'with `pip install --upgrade "refocusd[zarr]"`, or choose NDTiff'
        )
    return zarr


def plain_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as JSON gives it back; NaN and infinity, which Zarr refuses, are null.

    Raises
    ------
    TypeError, ValueError
        If something in it has no JSON form.
    """
    plain: dict[str, Any] = json.loads(json_bytes(value), parse_constant=lambda _: None)
    return plain


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """A group with these attributes."""
    zarr = require_zarr()
    files: dict[str, Any] = {}
    zarr.create_group(zarr.storage.MemoryStore(files), attributes=dict(attributes), zarr_format=3)
    return _document(files)


def array_document(grid: Sequence[int], shape: tuple[int, int], dtype: str) -> bytes:
    """The array of an image: one uncompressed chunk a frame, 0 where there is none.

    Parameters
    ----------
    grid : (int, int, int)
        Length along t, c and z.
    shape : (int, int)
        Height and width of a frame in pixels.
    dtype : str
        ``uint8`` or ``uint16``; little-endian on disk.
    """
    zarr = require_zarr()
    files: dict[str, Any] = {}
    zarr.create_array(
        zarr.storage.MemoryStore(files),
        shape=(*grid, *shape),
        chunks=(1, 1, 1, *shape),
        dtype=dtype,
        filters=None,
        compressors=None,
        fill_value=0,
        zarr_format=3,
        chunk_key_encoding={"name": "default", "separator": "/"},
        dimension_names=["t", "c", "z", "y", "x"],
    )
    return _document(files)


def image_document(
    array: str,
    name: str,
    scale: Scale,
    channels: Sequence[ChannelLook],
    top: float,
    more: Mapping[str, Any],
) -> bytes:
    """An image of one resolution.

    Parameters
    ----------
    array : str
        Path of its array, relative to the document's group.
    name : str
        What the image is called.
    scale : Scale
    channels : sequence of ChannelLook
        One for each channel; empty where they are not told.
    top : float
        Largest value of the pixels' type.
    more : mapping
        Further attributes of the group.
    """
    axes: list[dict[str, str]] = [
        _axis("t", "time", "second" if scale.interval_s else None),
        _axis("c", "channel", None),
        _axis("z", "space", "micrometer" if scale.z_um else None),
        _axis("y", "space", "micrometer" if scale.pixel_um else None),
        _axis("x", "space", "micrometer" if scale.pixel_um else None),
    ]
    pixel = scale.pixel_um or 1.0
    steps = [scale.interval_s or 1.0, 1.0, scale.z_um or 1.0, pixel, pixel]
    ome: dict[str, Any] = {
        "version": VERSION,
        "multiscales": [
            {
                "name": name,
                "axes": axes,
                "datasets": [
                    {
                        "path": array,
                        "coordinateTransformations": [{"type": "scale", "scale": steps}],
                    }
                ],
            }
        ],
    }
    if channels:
        ome["omero"] = {
            "channels": [
                {
                    "label": channel.label,
                    "color": _COLOURS[number % len(_COLOURS)] if len(channels) > 1 else "FFFFFF",
                    "active": True,
                    "window": {
                        "min": 0.0,
                        "max": top,
                        "start": channel.black,
                        "end": channel.white,
                    },
                }
                for number, channel in enumerate(channels)
            ]
        }
    return group_document({"ome": ome, **more})


def read_image_document(document: bytes) -> tuple[Scale, list[ChannelLook]]:
    """Scale and channels that `image_document` was told.

    Raises
    ------
    ValueError
        If the document is none of those.
    """
    try:
        ome = json.loads(document)["attributes"]["ome"]
        (multiscale,) = ome["multiscales"]
        (transformation,) = multiscale["datasets"][0]["coordinateTransformations"]
        steps = zip(multiscale["axes"], transformation["scale"], strict=True)
        known = {axis["name"]: float(step) for axis, step in steps if "unit" in axis}
        looks = [
            ChannelLook(
                str(channel["label"]),
                float(channel["window"]["start"]),
                float(channel["window"]["end"]),
            )
            for channel in ome.get("omero", {"channels": []})["channels"]
        ]
    except (KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"no image of OME-Zarr {VERSION} ({error})") from error
    return Scale(known.get("x"), known.get("z"), known.get("t")), looks


def collection_document() -> bytes:
    """The root of several images, numbered from 0."""
    return group_document({"ome": {"version": VERSION, "bioformats2raw.layout": 3}})


def series_document(images: int) -> bytes:
    """The order of several images."""
    return group_document({"ome": {"version": VERSION, "series": [str(n) for n in range(images)]}})


def _axis(name: str, kind: str, unit: str | None) -> dict[str, str]:
    return {"name": name, "type": kind} | ({"unit": unit} if unit else {})


def _document(files: Mapping[str, Any]) -> bytes:
    document: bytes = files["zarr.json"].to_bytes()
    return document
