"""Reads frames of a dataset that an acquisition is writing, at the places that its index gives.

Within `image_saved_fn`, `dataset.read_image` returns zeros at the start of some
frames, because its buffered reader has read ahead of the writer.  Here each frame
is read unbuffered at the place that the index gives, through an ordinary file
handle: on Windows, a memory map would keep Micro-Manager from truncating the file
when it closes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.tiff.growing_file import GrowingFile
from refocusd.formats.tiff.page import PageFormat, Place
from refocusd.frame import Pixels

#: NDTiff's pixel types: 0 is 8 bit, 2 is RGB, the others are 10 to 16 bit in two bytes.
_EIGHT_BIT, _RGB = 0, 2


def full_resolution(dataset: Any) -> Any:
    """The dataset with the frames as they were acquired: of a pyramid, its level 0."""
    return getattr(dataset, "res_levels", {0: dataset})[0]


def saved_place(dataset: Any, axes: Mapping[str, Any]) -> Place:
    """Where a frame is according to the dataset's index; nothing is read.

    Parameters
    ----------
    dataset : ndstorage.NDTiffDataset
        As pycromanager hands it to `image_saved_fn`.
    axes : mapping
        Axes of the frame.

    Raises
    ------
    InputError
        If the frame is RGB.
    """
    entry = dataset.index[frozenset(axes.items())]
    if entry.pixel_type == _RGB:
        raise InputError(f"frame {dict(axes)} is RGB; refocusd takes monochrome frames")
    dtype = np.dtype(np.uint8 if entry.pixel_type == _EIGHT_BIT else np.uint16)
    form = PageFormat(int(entry.image_height), int(entry.image_width), dtype)
    metadata = int(entry.metadata_offset), int(entry.metadata_length)
    return Place(Path(entry.filename).name, int(entry.pix_offset), form, *metadata)


def read_metadata(folder: str, place: Place) -> dict[str, Any]:
    """Metadata of the frame at a place.

    Raises
    ------
    InputError
        If they are not (yet) in the file.
    OSError
        If the file cannot be read.
    """
    with closing(GrowingFile(Path(folder) / place.file)) as file:
        return _metadata(file, place)


def read_place(
    folder: str, place: Place, what: str, into: Pixels | None = None
) -> tuple[Pixels, dict[str, Any]]:
    """Pixels, shape (height, width), and metadata of the frame at a place.

    Parameters
    ----------
    folder : str
        Folder of the raw dataset.
    place : Place
    what : str
        Names the frame in errors.
    into : ndarray, optional
        Array for the pixels, contiguous, of the frame's shape and dtype; by default a new one.

    Raises
    ------
    InputError
        If they are not (yet) in the file.
    OSError
        If the file cannot be read.
    """
    with closing(GrowingFile(Path(folder) / place.file)) as file:
        # The metadata are written last: if they are there, so are the pixels before them.
        metadata = _metadata(file, place)
        return file.pixels(place, what, into), metadata


def _metadata(file: GrowingFile, place: Place) -> dict[str, Any]:
    metadata = file.metadata(place.metadata_offset, place.metadata_length)
    if metadata is None:
        raise InputError(f"{file.path} does not hold the frame (yet) that its index names")
    return metadata
