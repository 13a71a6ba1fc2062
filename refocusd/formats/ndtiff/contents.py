"""What an NDTiff dataset of ours holds, as its index says."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from refocusd.errors import InputError, OutputError
from refocusd.formats.ndtiff import layout as ndtiff
from refocusd.formats.ndtiff.stack import part_name, stack_name
from refocusd.formats.written_keys import WrittenKeys
from refocusd.frame import Pixels, canonical_axes, plain_axes

__all__ = ["OURS", "Contents", "Layout", "read_contents", "read_summary"]

#: Under ``refocusd`` in the summary metadata: the dataset may be appended to.
OURS = {"sink": "ndtiff", "sink_format": 1}

_STACK = re.compile(r"NDTiffStack(?:_(\d+))?\.tif")


@dataclass(frozen=True, slots=True)
class Layout:
    """What all frames of a dataset have in common: shape in pixels, NDTiff's pixel type."""

    height: int
    width: int
    pixel_type: int

    @classmethod
    def of(cls, pixels: Pixels) -> Self:
        """Layout of one frame."""
        height, width = pixels.shape
        return cls(height, width, ndtiff.PIXEL_TYPES[pixels.dtype])

    def __str__(self) -> str:
        return f"{self.width}×{self.height} px of {8 * (self.pixel_type + 1)} bits"


@dataclass(slots=True)
class Contents:
    """The frames of a dataset, as far as a writer must know them."""

    keys: WrittenKeys = field(default_factory=WrittenKeys)
    #: Whether an axis counts (int) or names (str).
    axis_types: dict[str, type] = field(default_factory=dict)
    layout: Layout | None = None
    #: First byte behind the last record of the index.
    index_end: int = 0
    #: Number of the last TIFF that holds frames, and the last frame in it.
    number: int = 0
    last: ndtiff.IndexRecord | None = None

    def add(self, record: ndtiff.IndexRecord, index_end: int) -> None:
        """Take in a frame whose index record ends at byte `index_end`."""
        axes = plain_axes(record.axes)
        self.keys.add(canonical_axes(axes))
        self.axis_types.update({name: type(value) for name, value in axes.items()})
        self.layout = Layout(record.height, record.width, record.pixel_type)
        self.index_end = index_end
        self.number = _number(record.filename)
        self.last = record


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
            text = ndtiff.read_header(file)
        ours = json.loads(text).get("refocusd")
        is_ours = isinstance(ours, dict) and ours.items() >= OURS.items()
    except FileNotFoundError as error:
        raise OutputError(f"{path} has lost {stack_name(0)}: restore it, or start anew") from error
    except (ValueError, AttributeError) as error:
        raise OutputError(
            f"{first} cannot be continued ({error}): restore it, or choose another --output"
        ) from error
    if not is_ours:
        raise OutputError(
            f"{path} was not written by this version of refocusd, and nothing is appended to it: "
            "choose another --output"
        )
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
    index = path / ndtiff.INDEX_NAME
    size = index.stat().st_size
    sizes: dict[str, int] = {}
    contents = Contents()
    legible = 0
    with index.open("rb") as file:
        while record := ndtiff.read_record(file):
            legible = file.tell()
            try:
                if record.filename not in sizes:
                    _number(record.filename)
                    sizes[record.filename] = _size(path / record.filename)
                if record.end <= sizes[record.filename]:
                    contents.add(record, legible)
            except InputError as error:
                raise _damaged(index, legible, size) from error
        file.seek(legible)
        # A power failure may leave zeros, where the system had promised a block.
        torn = file.read().strip(b"\0")
    if torn and not _is_one_torn_record(torn):
        raise _damaged(index, legible, size)
    return contents


def _is_one_torn_record(rest: bytes) -> bool:
    """Whether this can be the beginning of the one record that a killed writer was writing.

    Anything else is damage, and there may be frames behind it.
    """
    if len(rest) > 2 * ndtiff.MAX_RECORD_BYTES or rest.count(b"NDTiffStack") > 1:
        return False
    length = int.from_bytes(rest[:4], "little")
    begins = length <= ndtiff.MAX_RECORD_BYTES and rest[4:5] in (b"{", b"")
    # A record that is complete in length, but illegible, was not cut off.
    name_at = 4 + length
    name_length = int.from_bytes(rest[name_at : name_at + 4], "little")
    return begins and len(rest) < name_at + 4 + name_length + 32


def _damaged(index: Path, legible: int, size: int) -> OutputError:
    return OutputError(
        f"{index} is damaged at byte {legible} of {size}; appending would lose the frames behind "
        "it: restore the index from a copy, or choose another --output"
    )


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
