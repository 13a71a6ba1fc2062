"""The index of an NDTiff dataset, which may grow while it is read.

It is parsed here and not by ndstorage, whose reader takes the whole dataset or
nothing, prints, and cannot follow one that grows.  Micro-Manager pre-sizes the
index to 25 MiB of zeros, and truncates it when it is done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.files import open_shared
from refocusd.formats.ndtiff.layout import INDEX_NAME, IndexEntry, is_begun, unpack_records
from refocusd.frame import MIN_SIDE, AxisValue, canonical_axes, plain_axes

__all__ = ["INDEX_NAME", "IndexEntry", "NDTiffIndex"]

_MAX_METADATA_BYTES = 1 << 26
#: Bytes read at once; more than any record has.
_CHUNK = 1 << 18


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
        self._max_frame_bytes = max_frame_bytes
        #: First byte after the last record that was read.
        self.end = 0
        #: Whether an incomplete record follows: its writer was killed, or is writing it now.
        self.torn = False

    def entries(self) -> Iterator[tuple[str, IndexEntry]]:
        """As `records`, but with the canonical key of the axes."""
        return ((canonical_axes(axes), entry) for axes, entry in self.records())

    def records(self) -> Iterator[tuple[dict[str, AxisValue], IndexEntry]]:
        """The records after those read so far, up to the last whole one.

        Yields
        ------
        dict of str to int or str
            Axes of a frame.
        IndexEntry
            With its `trouble` where the frame cannot be used.

        Raises
        ------
        InputError
            If there is no index, or a record before its last is damaged, or names
            a file outside the dataset.
        """
        index = self._folder / INDEX_NAME
        doubtful = -1
        try:
            with open_shared(index) as file:
                if os.fstat(file.fileno()).st_size < self.end:
                    raise self._damaged(f"{INDEX_NAME} is shorter than before: it was written anew")
                while True:
                    start = self.end
                    file.seek(start)
                    data = file.read(_CHUNK) or b""
                    for end, axes, entry in unpack_records(data):
                        plain, trouble = _usable(axes)
                        entry = self._checked(canonical_axes(plain), entry)
                        if trouble:
                            entry = replace(entry, trouble=trouble)
                        self.end = start + end
                        yield plain, entry
                    if not is_begun(data[self.end - start :]):
                        # A record that is being written may look like this for a moment.
                        if doubtful == self.end:
                            raise self._damaged(f"{INDEX_NAME} has no record at byte {self.end}")
                        doubtful = self.end
                    elif self.end == start:
                        self.torn = bool(data.strip(b"\0"))
                        return
        except OSError as error:
            raise InputError(
                f"{index} cannot be read ({error.strerror}): give the folder of an NDTiff dataset"
            ) from error
        except ValueError as error:
            raise InputError(f"{self._folder}: {error}") from error

    def _checked(self, key: str, entry: IndexEntry) -> IndexEntry:
        form = entry.format
        if not _is_bare(entry.file):
            raise InputError(
                f"{self._folder} has a record that names {entry.file!r}, which is no file of the "
                "dataset: do not use it"
            )
        if entry.metadata_length > _MAX_METADATA_BYTES:
            raise self._damaged(f"frame {key} has metadata of {entry.metadata_length} bytes")
        if entry.trouble:
            return entry
        if min(form.height, form.width) < MIN_SIDE or form.nbytes > self._max_frame_bytes:
            trouble = (
                f"is {form}; refocusd takes sides from {MIN_SIDE} px and up to "
                f"{self._max_frame_bytes} bytes a frame"
            )
            return replace(entry, trouble=trouble)
        if (
            entry.offset < entry.metadata_offset + entry.metadata_length
            and entry.metadata_offset < entry.offset + form.nbytes
        ):
            raise self._damaged(f"frame {key} overlaps its own metadata")
        return entry

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"{self._folder} is damaged or incomplete: {what}; copy the dataset again"
        )


def _usable(axes: dict[str, Any]) -> tuple[dict[str, AxisValue], str]:
    """Axes that name a frame, and what is wrong with them; an unusable value becomes its text."""
    try:
        return plain_axes(axes), ""
    except InputError as error:
        text = {name: v if isinstance(v, str) else json.dumps(v) for name, v in axes.items()}
        return plain_axes(text), f"cannot be named in an output: {error}"


def _is_bare(name: str) -> bool:
    """Whether a name is that of a file in the folder itself, on any system."""
    return name not in (".", "..") and not any(c in '/\\:\0<>"|?*' or ord(c) < 32 for c in name)
