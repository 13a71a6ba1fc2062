"""Frames of a dataset that Micro-Manager's Java side is writing.

`dataset.read_image` inside `image_saved_fn` returns zeros at the start of some
frames: its buffered reader has read ahead of the writer.  Here each frame is
read from the place that the index names, unbuffered, through an ordinary file
handle (a memory map would keep Micro-Manager from truncating the file when it
closes it on Windows).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.frame import Frame, plain_axes

__all__ = ["read_saved"]

#: NDTiff's pixel types: 0 is 8 bit, 2 is RGB, the others are 10 to 16 bit in two bytes.
_EIGHT_BIT, _RGB = 0, 2


def read_saved(dataset: Any, axes: Mapping[str, Any]) -> Frame:
    """Read one frame that a dataset's index names.

    Parameters
    ----------
    dataset : ndstorage.NDTiffDataset
        As pycromanager hands it to `image_saved_fn`.
    axes : mapping
        Axes of the frame.

    Raises
    ------
    InputError
        If the frame is RGB, or not (yet) in the file.
    """
    entry = dataset.index[frozenset(axes.items())]
    if entry.pixel_type == _RGB:
        raise InputError(f"frame {dict(axes)} is RGB; refocusd takes monochrome frames")
    dtype = np.dtype(np.uint8 if entry.pixel_type == _EIGHT_BIT else np.uint16)
    height, width = int(entry.image_height), int(entry.image_width)
    nbytes = height * width * dtype.itemsize
    path = Path(dataset.path) / Path(entry.filename).name
    with path.open("rb", buffering=0) as file:
        data = _read_at(file, entry.pix_offset, nbytes)
        text = _read_at(file, entry.metadata_offset, entry.metadata_length)
    if len(data) != nbytes:
        raise InputError(f"frame {dict(axes)} is not complete in {path.name} yet")
    metadata = json.loads(text) if len(text) == entry.metadata_length and text else {}
    return Frame(np.frombuffer(data, dtype).reshape(height, width), plain_axes(axes), metadata)


def _read_at(file: Any, offset: int, nbytes: int) -> bytes:
    """Exactly `nbytes`, unless the file ends before: a raw read may return fewer."""
    file.seek(offset)
    parts: list[bytes] = []
    while nbytes > 0 and (part := file.read(nbytes)):
        parts.append(part)
        nbytes -= len(part)
    return b"".join(parts)
