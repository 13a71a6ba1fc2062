"""Which frames of a store's images exist: a byte or a number for each, not an object.

A plate may have millions.  A frame's axes follow from its place in its image's array, and vice versa.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import DTypeLike, NDArray

from refocusd.errors import InputError
from refocusd.formats.ome_zarr.store.image import OmeImage
from refocusd.frame import canonical_axes

Place = tuple[str, tuple[int, ...]]


class GridFrames(Mapping[str, Place]):
    """Position and index of each frame, by its canonical axes; in the order of images and indices.

    Parameters
    ----------
    dtype : numpy.dtype
        Type of the number that is kept for each frame; 0 means that there is no frame.
    """

    def __init__(self, dtype: DTypeLike = np.uint8) -> None:
        self._dtype = np.dtype(dtype)
        self.images: dict[str, OmeImage] = {}
        self._numbers: dict[str, NDArray[np.unsignedinteger]] = {}
        #: Frames whose axes do not follow from their place: the recording lacks some of the axes.
        self._others: dict[str, tuple[Place, int]] = {}
        self._count = 0

    def take_up(self, position: str, image: OmeImage) -> OmeImage:
        """Make room for the frames of an image, which may be known already and have grown.

        Returns
        -------
        OmeImage
            With the channel names that it had before, because frames keep their axes.
        """
        shape = image.array.shape[:-2]
        fresh = np.zeros(shape, self._dtype)
        before = self.images.get(position)
        if before is not None:
            known = self._numbers[position]
            if known.ndim == fresh.ndim:
                both = tuple(slice(min(a, b)) for a, b in zip(known.shape, shape, strict=True))
                fresh[both] = known[both]
            if image.channels[: len(before.channels)] != before.channels or not before.channels:
                image = replace(image, channels=before.channels)
            self._count += int(np.count_nonzero(fresh)) - int(np.count_nonzero(known))
        self.images[position], self._numbers[position] = image, fresh
        return image

    def add(self, key: str, place: Place, number: int = 1) -> None:
        """Note that a frame exists."""
        position, index = place
        if canonical_axes(self.images[position].axes_at(index)) != key:
            self._others[key] = (place, number)
            return
        numbers = self._numbers[position]
        self._count += not numbers[index]
        numbers[index] = number

    def refuse(self, position: str) -> None:
        """Count an image that cannot be opened as one frame, because its number of frames is unknown."""
        self._others[canonical_axes({"position": position})] = ((position, ()), 1)

    def number(self, key: str) -> int:
        """The number kept for a frame.

        Raises
        ------
        KeyError
        """
        if key in self._others:
            return self._others[key][1]
        position, index = self[key]
        return int(self._numbers[position][index])

    def absent(self, position: str) -> Iterator[tuple[int, ...]]:
        """Places of an image that have no frame, in the order of time."""
        return self._places(position, there=False)

    @property
    def room(self) -> int:
        """Number of places of all images, with a frame or without."""
        return sum(numbers.size for numbers in self._numbers.values()) + len(self._others)

    def __getitem__(self, key: str) -> Place:
        if key in self._others:
            return self._others[key][0]
        try:
            axes = json.loads(key)
            position = axes.get("position", "")
            image, numbers = self.images[position], self._numbers[position]
            index = image.index_of(axes)
            there = all(at < n for at, n in zip(index, numbers.shape, strict=True))
            if there and numbers[index] and canonical_axes(image.axes_at(index)) == key:
                return position, index
        except (ValueError, AttributeError, TypeError, InputError):
            pass  # no frame of OME-Zarr has such axes
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        for position, image in self.images.items():
            for index in self._places(position, there=True):
                yield canonical_axes(image.axes_at(index))
        yield from self._others

    def __len__(self) -> int:
        return self._count + len(self._others)

    def _places(self, position: str, *, there: bool) -> Iterator[tuple[int, ...]]:
        numbers = self._numbers[position]
        rows = numbers.reshape(
            numbers.shape[0] if numbers.ndim else 1, math.prod(numbers.shape[1:])
        )
        for row in np.flatnonzero(((rows != 0) == there).any(axis=1)):
            for column in np.flatnonzero((rows[row] != 0) == there):
                index = np.unravel_index(int(row) * rows.shape[1] + int(column), numbers.shape)
                yield tuple(map(int, index))
