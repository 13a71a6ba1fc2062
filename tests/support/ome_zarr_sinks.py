"""OME-Zarr datasets that the sink wrote, as other programs read them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from ndtiff_sinks import numbered_frame, write_all

from refocusd.formats.ome_zarr.writer import OmeZarrSink
from refocusd.frame import Axes, Frame

zarr = pytest.importorskip("zarr", reason="the extra `zarr` is not installed")
yaozarrs = pytest.importorskip("yaozarrs", reason="yaozarrs is not installed")


def assert_valid(path: Path) -> None:
    """Assert that the folder and each image in it are valid OME-Zarr 0.5."""
    yaozarrs.validate_zarr_store(str(path))
    for place in path.glob("[0-9]*/zarr.json"):
        yaozarrs.validate_zarr_store(str(place.parent))


def images(path: Path) -> list[Any]:
    """Arrays of the images, as a viewer finds them from the root."""
    root = zarr.open_group(path, mode="r", zarr_format=3)
    ome = root.attrs["ome"]
    assert ome["version"] == "0.5"
    if "multiscales" in ome:
        return [root[ome["multiscales"][0]["datasets"][0]["path"]]]
    assert ome["bioformats2raw.layout"] == 3
    return [
        root[f"{name}/{root[name].attrs['ome']['multiscales'][0]['datasets'][0]['path']}"]
        for name in root["OME"].attrs["ome"]["series"]
    ]


def ome(path: Path) -> Any:
    """OME metadata of a group."""
    return json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]["ome"]


def small(number: int, axes: Axes, **metadata: Any) -> Frame:
    return Frame(numbered_frame(number, (16, 20)).pixels, axes, metadata)


def dataset(path: Path, frames: Iterable[Frame], summary: Any = None) -> Path:
    with OmeZarrSink.create(path, summary) as sink:
        write_all(sink, frames)
    return path
