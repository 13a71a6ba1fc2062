"""A frame on disk: its shape and type, and the place of its bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refocusd.frame import DType

#: Largest frame accepted by default, in bytes: 23 170² pixels of 16 bits.
MAX_FRAME_BYTES = 1 << 30
#: Frames with more pixels are slides: if they are stored in parts, they are read and refocused in tiles.
SLIDE_PX = 1 << 26


@dataclass(frozen=True, slots=True)
class PageFormat:
    """What all frames of a recording have in common.

    Parameters
    ----------
    height, width : int
        In pixels.
    dtype : numpy dtype
        uint8 or uint16, in native byte order.
    """

    height: int
    width: int
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of one frame."""
        return self.height * self.width * self.dtype.itemsize

    @property
    def dtype_name(self) -> DType:
        """The type's name, as messages carry it."""
        return "uint8" if self.dtype.itemsize == 1 else "uint16"

    def __str__(self) -> str:
        return f"{self.width}×{self.height} px {self.dtype}"


@dataclass(frozen=True, slots=True)
class Place:
    """The place of the bytes of one frame.

    Parameters
    ----------
    file : str
        Bare name, in the dataset's folder.
    offset : int
        Of the pixels, in bytes.
    format : PageFormat
    metadata_offset, metadata_length : int
        Of its JSON, in bytes.
    trouble : str
        Why its pixels cannot be used (``is RGB; ...``), though the frame is whole; then only the
        sides of `format` are meaningful.
    """

    file: str
    offset: int
    format: PageFormat
    metadata_offset: int
    metadata_length: int
    trouble: str = ""

    @property
    def end(self) -> int:
        """First byte after the frame's pixels and metadata."""
        return max(self.offset + self.format.nbytes, self.metadata_offset + self.metadata_length)


class Places(Mapping[str, Place]):
    """Places of frames, by canonical axes: 32 bytes each besides the key, as there may be millions."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        #: Of each row: offset, metadata offset and length, number of its file and format.
        self._numbers = array("Q")
        self._shared: dict[tuple[str, PageFormat, str], int] = {}
        self._files: list[tuple[str, PageFormat, str]] = []

    def __getitem__(self, key: str) -> Place:
        at = 4 * self._rows[key]
        offset, metadata_offset, metadata_length, number = self._numbers[at : at + 4]
        file, form, trouble = self._files[number]
        return Place(file, offset, form, metadata_offset, metadata_length, trouble)

    def __setitem__(self, key: str, place: Place) -> None:
        shared = (place.file, place.format, place.trouble)
        number = self._shared.setdefault(shared, len(self._shared))
        if number == len(self._files):
            self._files.append(shared)
        at = 4 * self._rows.setdefault(key, len(self._rows))
        numbers = (place.offset, place.metadata_offset, place.metadata_length, number)
        self._numbers[at : at + 4] = array("Q", numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows
