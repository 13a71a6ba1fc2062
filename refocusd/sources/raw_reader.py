"""Frames of a dataset that Micro-Manager's Java side is writing.

`dataset.read_image` inside `image_saved_fn` returns zeros at the start of some
frames: its buffered reader has read ahead of the writer.  Here each frame is
read from the place that the index names, unbuffered, through an ordinary file
handle (a memory map would keep Micro-Manager from truncating the file when it
closes it on Windows).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.tiff.growing_file import GrowingFile, Place
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Frame, plain_axes

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
    entry, what = dataset.index[frozenset(axes.items())], f"frame {dict(axes)}"
    if entry.pixel_type == _RGB:
        raise InputError(f"{what} is RGB; refocusd takes monochrome frames")
    dtype = np.dtype(np.uint8 if entry.pixel_type == _EIGHT_BIT else np.uint16)
    form = PageFormat(int(entry.image_height), int(entry.image_width), dtype)
    name = Path(entry.filename).name
    place = Place(name, entry.pix_offset, form, entry.metadata_offset, entry.metadata_length)
    with closing(GrowingFile(Path(dataset.path) / name)) as file:
        pixels = file.pixels(place, what)
        metadata = file.metadata(place.metadata_offset, place.metadata_length)
    return Frame(pixels, plain_axes(axes), metadata or {})
