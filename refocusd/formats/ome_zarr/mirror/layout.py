"""Files of a refocused OME-Zarr store that has the layout of the raw one.

::

    plate_refocused.zarr/
    ├── zarr.json or .zattrs     as in raw: the plate, its wells, ...
    ├── B/03/0/                  an image as in raw: axes, scales, channel names, resolutions
    │   ├── 0/                   its arrays; no chunk or shard holds more than one frame
    │   └── 1/
    └── refocusd/                a group of its own
        ├── zarr.json or .zattrs the summary metadata, and our mark
        ├── frames.lock          held by whoever writes the whole store
        └── lists/B/03/0.jsonl   which frames of that image there are: one line of JSON each

A frame is in the dataset once its line is whole.  Each image has a list of its own, which its
writer locks: several processes may write one store, each to different images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refocusd.formats.ome_zarr.files import put_changed
from refocusd.formats.ome_zarr.layout import LOCK_NAME, OWN_GROUP
from refocusd.formats.ome_zarr.store.groups import read_attributes

#: Mark under ``refocusd`` in the attributes of our group, in stores that may be continued.
MIRROR = {"sink": "ome-zarr", "sink_format": 2}
LISTS = "lists"
#: Name of the list in a store that is itself an image.
ONE_IMAGE = "image"


def is_mirror(path: Path) -> bool:
    """Whether a folder is a refocused store of this kind."""
    return (path / OWN_GROUP / LISTS).is_dir()


def list_path(path: Path, position: str) -> Path:
    """List of the frames of one image of the store in `path`."""
    return path / OWN_GROUP / LISTS / f"{position or ONE_IMAGE}.jsonl"


def listed(path: Path) -> Iterator[tuple[str, Path]]:
    """Positions that have a list of frames, and the list."""
    folder = path / OWN_GROUP / LISTS
    for found in sorted(folder.rglob("*.jsonl")):
        position = found.relative_to(folder).with_suffix("").as_posix()
        yield ("" if position == ONE_IMAGE else position), found


def lock_path(path: Path) -> Path:
    """The file that the writer of the whole store keeps locked."""
    return path / OWN_GROUP / LOCK_NAME


def put_like(model: Path, group: Path, attributes: Mapping[str, Any] | None = None) -> None:
    """Make a group of the same Zarr version as `model`, with its attributes unless others are given.

    Raises
    ------
    OSError
    InputError
        If the attributes of `model` cannot be read.
    """
    about = read_attributes(model) if attributes is None else attributes
    if (model / "zarr.json").is_file():
        # Consolidated metadata are not copied: they would describe the raw store.
        said = {"zarr_format": 3, "node_type": "group", "attributes": about}
        _put(group / "zarr.json", said)
        return
    _put(group / ".zgroup", {"zarr_format": 2})
    _put(group / ".zattrs", about)


def _put(place: Path, said: Mapping[str, Any]) -> None:
    put_changed(place, json.dumps(said, indent=2).encode())


def frame_wise(document: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of an array like a raw one, but with one frame per chunk or shard.

    Parameters
    ----------
    document : mapping
        Content of ``zarr.json`` or ``.zarray``.
    """
    said = json.loads(json.dumps(document))
    if "chunks" in said:
        said["chunks"] = _one_frame(said["chunks"])
        return dict(said)
    grid = said["chunk_grid"]["configuration"]
    grid["chunk_shape"] = _one_frame(grid["chunk_shape"])
    for codec in said["codecs"]:
        if codec["name"] == "sharding_indexed":
            codec["configuration"]["chunk_shape"] = _one_frame(
                codec["configuration"]["chunk_shape"]
            )
    return dict(said)


def _one_frame(chunks: list[int]) -> list[int]:
    return [1] * (len(chunks) - 2) + list(chunks[-2:])
