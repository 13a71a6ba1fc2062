"""Files of an OME-Zarr dataset that refocusd writes, by path.

::

    <raw>_refocused/
    ├── zarr.json              OME-Zarr 0.5: the image, or (several) bioformats2raw's layout
    ├── OME/zarr.json          where there are several images: their order
    ├── 0/                     an image: all frames that differ in time, z and channel only
    │   ├── zarr.json          axes, pixel size, channels
    │   └── 0/                 its array (t, c, z, y, x), one chunk per frame, uncompressed
    │       ├── zarr.json
    │       └── c/0/0/3/0/0    the pixels of t=0, c=0, z=3, little-endian
    ├── 1/                     the next image: another position
    └── refocusd/              a group of its own
        ├── zarr.json          the summary metadata, and our mark
        ├── frames.jsonl       which frames there are: one line of JSON each
        └── frames.lock        held by the writer; names the chunk that is being written

A frame is in the dataset once its line in ``frames.jsonl`` is whole: it holds the
axes as they were given, the place of the pixels, and the metadata.  The arrays alone
do not tell an absent frame from a black one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refocusd.errors import InputError, OutputError
from refocusd.formats.ome_zarr.frame_list import FrameLine
from refocusd.formats.ome_zarr.store.groups import read_attributes
from refocusd.formats.sink import json_bytes, refuse_foreign, with_mark

OWN_GROUP = "refocusd"
FRAMES_NAME = "frames.jsonl"
LOCK_NAME = "frames.lock"
#: Mark under ``refocusd`` in the attributes of our group, in datasets that may be appended to.
OURS = {"sink": "ome-zarr", "sink_format": 1}
#: Axes of a frame that are dimensions of its image's array, in their order.  OME-Zarr 0.5
#: allows no others besides y and x: each combination of values of the other axes is an image.
GRID = ("time", "channel", "z")


def frames_path(path: Path) -> Path:
    """List of the frames of the dataset in folder `path`."""
    return path / OWN_GROUP / FRAMES_NAME


def is_omezarr(path: Path) -> bool:
    """Whether a dataset of this kind, finished or not, is in the folder."""
    return frames_path(path).is_file()


def chunk_path(line: FrameLine) -> str:
    """File of a frame's pixels, relative to the dataset's folder."""
    t, c, z = line.at
    return f"{line.image}/0/c/{t}/{c}/{z}/0/0"


def own_attributes(path: Path) -> dict[str, Any]:
    """Attributes of our group in a dataset: ``refocusd`` (our mark) and ``summary``.

    Raises
    ------
    InputError
        If they cannot be read.
    """
    attributes = read_attributes(path / OWN_GROUP)
    if not attributes:
        raise InputError(f"the summary metadata cannot be read: {path / OWN_GROUP} has none")
    return attributes


def marked_summary(summary: Mapping[str, Any], mark: Mapping[str, Any]) -> dict[str, Any]:
    """Summary metadata with the sink's mark; NaN and infinity, which Zarr refuses, become null.

    Raises
    ------
    OutputError
        If something in it has no JSON form.
    """
    text = json_bytes(with_mark(summary, mark), "the summary metadata")
    plain: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
    return plain


def summary_to_continue(path: Path, mark: Mapping[str, Any]) -> dict[str, Any]:
    """Summary metadata of a dataset that a sink with this mark may continue.

    Raises
    ------
    OutputError
        If they cannot be read, or a sink with another mark wrote the dataset.
    """
    try:
        attributes = own_attributes(path)
    except InputError as error:
        raise OutputError(
            f"{path} cannot be continued ({error}): restore it, or choose another --output"
        ) from error
    refuse_foreign(path, attributes.get("refocusd"), mark)
    summary = attributes.get("summary")
    return summary if isinstance(summary, dict) else {}
