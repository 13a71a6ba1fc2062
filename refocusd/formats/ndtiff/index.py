"""The index of an NDTiff dataset, which may grow while it is read.

It is parsed here and not by ndstorage, whose reader takes the whole dataset or
nothing, prints, and cannot follow one that grows.  Its records are (ndstorage
0.1.18, ``ndtiff_index.py``; micro-manager/NDStorage)::

    u32 length, axes as JSON, u32 length, file name,
    8 x u32: pixel offset, width, height, pixel type, 0, metadata offset, its length, 0

Micro-Manager sizes the index to 25 MiB of zeros beforehand and cuts it when it
is done: a length of zero means "not yet".
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import MIN_SIDE, canonical_axes, plain_axes

__all__ = ["INDEX_NAME", "IndexEntry", "NDTiffIndex"]

INDEX_NAME = "NDTiff.index"
_PLACE = struct.Struct("<8I")
#: Longer axes or file names than these are a wrong length, not a long text.
_MAX_AXES_BYTES, _MAX_NAME_BYTES = 1 << 16, 1 << 10
_MAX_METADATA_BYTES = 1 << 26
#: Read at once; longer than any record.
_CHUNK = 1 << 18
#: Pixel types of the index: 8, 16, 10, 12, 14 and 11 bits; 2 is RGB.
_TYPES: Mapping[int, np.dtype[Any]] = {
    0: np.dtype(np.uint8),
    1: np.dtype(np.uint16),
    3: np.dtype(np.uint16),
    4: np.dtype(np.uint16),
    5: np.dtype(np.uint16),
    6: np.dtype(np.uint16),
}


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """Where one frame lies.

    Parameters
    ----------
    file : str
        Bare name, in the dataset's folder.
    offset : int
        Of the pixels, in bytes.
    format : PageFormat
    metadata_offset, metadata_length : int
        Of its JSON, in bytes.
    """

    file: str
    offset: int
    format: PageFormat
    metadata_offset: int
    metadata_length: int

    @property
    def end(self) -> int:
        """First byte behind the frame's pixels and metadata."""
        return max(self.offset + self.format.nbytes, self.metadata_offset + self.metadata_length)


class NDTiffIndex:
    """Reads each record of one index once.

    Parameters
    ----------
    folder : Path
        The dataset.
    max_frame_bytes : int
        A frame that claims to be larger is an error.
    """

    def __init__(self, folder: Path, max_frame_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = max_frame_bytes
        self._parsed = 0

    def append_to(self, found: dict[str, IndexEntry]) -> None:
        """Add the records behind those read so far, up to the last whole one.

        Parameters
        ----------
        found : dict of str to IndexEntry
            By canonical key.

        Raises
        ------
        InputError
            If there is no index, or a record before its last is damaged, names
            a file outside the dataset, or describes a frame that cannot be used.
            The records before that one have been added.
        """
        index = self._folder / INDEX_NAME
        doubtful = -1
        try:
            with io.FileIO(index, "r") as file:
                if os.fstat(file.fileno()).st_size < self._parsed:
                    raise self._damaged(f"{INDEX_NAME} is shorter than before: it was written anew")
                while True:
                    file.seek(self._parsed)
                    data = file.read(_CHUNK) or b""
                    used, rest = self._records(data, found)
                    self._parsed += used
                    if rest.strip(b"\0"):
                        # What is being written now may look like this for a moment.
                        if doubtful == self._parsed:
                            raise self._damaged(
                                f"{INDEX_NAME} has no record at byte {self._parsed}"
                            )
                        doubtful = self._parsed
                    elif not used:
                        return
        except OSError as error:
            raise InputError(
                f"{index} cannot be read ({error.strerror}): give the folder of an NDTiff dataset"
            ) from error

    def _records(self, data: bytes, found: dict[str, IndexEntry]) -> tuple[int, bytes]:
        """Add the records at the start of `data`.

        Returns
        -------
        int
            Bytes that they take.
        bytes
            What stands behind them and a last record that is not whole: nothing,
            or zeros, unless the index is damaged.
        """
        used = 0
        while True:
            at = used
            texts = []
            for most in (_MAX_AXES_BYTES, _MAX_NAME_BYTES):
                if at + 4 > len(data):
                    return used, b""
                length = int.from_bytes(data[at : at + 4], "little")
                if not 0 < length <= most:
                    return used, data[at:]
                texts.append(data[at + 4 : at + 4 + length])
                at += 4 + length
            if at + _PLACE.size > len(data):
                return used, b""
            place = _PLACE.unpack_from(data, at)
            at += _PLACE.size
            record = self._record(texts[0], texts[1], place)
            if record is None:
                return used, data[at:]
            found[record[0]] = record[1]
            used = at

    def _record(
        self, axes: bytes, name: bytes, place: tuple[int, ...]
    ) -> tuple[str, IndexEntry] | None:
        """Key and place of a frame; None if the record is not (wholly) written."""
        offset, width, height, kind, packed, metadata_offset, metadata_length, packed_too = place
        try:
            said = json.loads(axes.decode("utf-8"))
            file = name.decode("utf-8")
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, dict) or not said or not (width and height and metadata_length):
            return None
        key = canonical_axes(plain_axes(said))
        if not _is_bare(file):
            raise InputError(
                f"{self._folder} has a record that names {file!r}, which is no file of the dataset: "
                "do not use it"
            )
        dtype = _TYPES.get(kind)
        if dtype is None or packed or packed_too:
            what = "RGB" if kind == 2 else f"of type {kind} or compressed"
            raise InputError(
                f"frame {key} of {self._folder} is {what}; refocusd takes one channel a frame, as "
                "uint8 or uint16"
            )
        form = PageFormat(height, width, dtype)
        if min(height, width) < MIN_SIDE or form.nbytes > self._most_bytes:
            raise InputError(
                f"frame {key} of {self._folder} is {form}; taken are sides from {MIN_SIDE} px and up "
                f"to {self._most_bytes} bytes"
            )
        if metadata_length > _MAX_METADATA_BYTES:
            raise self._damaged(f"frame {key} has metadata of {metadata_length} bytes")
        if offset < metadata_offset + metadata_length and metadata_offset < offset + form.nbytes:
            raise self._damaged(f"frame {key} overlaps its own metadata")
        return key, IndexEntry(file, offset, form, metadata_offset, metadata_length)

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"{self._folder} is damaged or incomplete: {what}; copy the dataset again"
        )


def _is_bare(name: str) -> bool:
    """Whether a name is that of a file in the folder itself, on any system."""
    return name not in (".", "..") and not any(c in '/\\:\0<>"|?*' or ord(c) < 32 for c in name)
