"""What an NDTiff dataset of ours holds, as its index says."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from refocusd.errors import InputError, OutputError
from refocusd.formats.ndtiff import layout as ndtiff
from refocusd.formats.ndtiff.index import NDTiffIndex
from refocusd.formats.ndtiff.stack import part_name, stack_name
from refocusd.formats.sink import refuse_foreign
from refocusd.formats.written_keys import Written
from refocusd.frame import Axes, canonical_axes

#: Under ``refocusd`` in the summary metadata: the dataset may be appended to.
OURS = {"sink": "ndtiff", "sink_format": 1}

_STACK = re.compile(r"NDTiffStack(?:_(\d+))?\.tif")


@dataclass(slots=True)
class Contents(Written):
    """The frames of a dataset, as far as a writer must know them."""

    #: Whether an axis counts (int) or names (str).
    axis_types: dict[str, type] = field(default_factory=dict)
    #: Number of the last TIFF that holds frames, and the last frame in it.
    number: int = 0
    last: ndtiff.IndexEntry | None = None

    def add(self, axes: Axes, entry: ndtiff.IndexEntry, end: int) -> None:
        """Take in a frame whose index record ends at byte `end`."""
        self.keys.add(canonical_axes(axes))
        self.axis_types.update({name: type(value) for name, value in axes.items()})
        self.format = entry.format
        self.end = end
        self.number = _number(entry.file)
        self.last = entry


def read_summary(path: Path) -> bytes:
    """Summary metadata (JSON) of a dataset that `NDTiffSink` wrote.

    Raises
    ------
    OutputError
        If the dataset is another's, or has lost its first file.
    OSError
        If the file cannot be read.
    """
    first = path / stack_name(0)
    if not first.exists():
        first = path / part_name(0)
    try:
        with first.open("rb") as file:
            start, length = ndtiff.summary_place(file.read(ndtiff.HEADER_BYTES))
            file.seek(start)
            text = file.read(min(length, first.stat().st_size))
        if len(text) < length:
            raise ValueError("the file ends within its summary metadata")
        mark = json.loads(text).get("refocusd")
    except FileNotFoundError as error:
        raise OutputError(f"{path} has lost {stack_name(0)}: restore it, or start anew") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"{first} cannot be continued ({error}): restore it, or choose another --output"
        ) from error
    refuse_foreign(path, mark, OURS)
    return text


def read_contents(path: Path) -> Contents:
    """Read a dataset's index, up to where a killed writer left it.

    A record whose frame is not in the files (after a power failure) does not
    count: the frame may be written again.

    Raises
    ------
    OutputError
        If more is illegible than the record that was being written.
    OSError
        If the files cannot be read.
    """
    name = path / ndtiff.INDEX_NAME
    index = NDTiffIndex(path, sys.maxsize)
    sizes: dict[str, int] = {}
    contents = Contents()
    with name.open("rb") as file:
        try:
            for axes, entry in index.records():
                if entry.file not in sizes:
                    _number(entry.file)
                    sizes[entry.file] = _size(path / entry.file)
                # A NUL ends the metadata.
                if entry.end < sizes[entry.file]:
                    contents.add(axes, entry, index.end)
            file.seek(index.end)
            # A power failure may leave zeros, where the system had promised a block.
            _refuse_all_but_one_record(file.read().strip(b"\0"))
        except InputError as error:
            raise OutputError(
                f"{name} is damaged at byte {index.end} of {name.stat().st_size}; appending would "
                "lose the frames behind it: restore the index from a copy, or choose another "
                "--output"
            ) from error
    return contents


def _refuse_all_but_one_record(rest: bytes) -> None:
    """Refuse more than the beginning of the one record that a killed writer was writing.

    Anything else is damage, and there may be frames behind it.
    """
    begins = rest[4:5] in (b"{", b"")
    if not begins or len(rest) > 2 * ndtiff.MAX_RECORD_BYTES or rest.count(b"NDTiffStack") > 1:
        raise InputError("more than one record is illegible")


def _size(stack: Path) -> int:
    try:
        return stack.stat().st_size
    except FileNotFoundError as error:
        raise OutputError(
            f"{stack} is missing, though the index names it: restore it, or start anew"
        ) from error


def _number(filename: str) -> int:
    match = _STACK.fullmatch(filename)
    if match is None:
        raise InputError(f"{filename!r} is no TIFF of a dataset")
    return int(match[1] or 0)
