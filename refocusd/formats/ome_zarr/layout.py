"""What lies where in an OME-Zarr dataset of ours, and the lines of its list of frames.

::

    <raw>_refocused/
    ├── zarr.json              OME-Zarr 0.5: the image, or (several) bioformats2raw's layout
    ├── OME/zarr.json          where there are several images: their order
    ├── 0/                     an image: all frames that differ in time, z and channel only
    │   ├── zarr.json          axes, pixel size, channels
    │   └── 0/                 its array (t, c, z, y, x), one chunk a frame, uncompressed
    │       ├── zarr.json
    │       └── c/0/0/3/0/0    the pixels of t=0, c=0, z=3, little-endian
    ├── 1/                     the next image: another position
    └── refocusd/              a group of its own
        ├── zarr.json          the summary metadata, and our mark
        ├── frames.jsonl       which frames there are: one line of JSON each
        └── frames.lock        held by the writer; names the chunk that is being written

A frame is in the dataset when its line in ``frames.jsonl`` is whole: its axes
as they were given, where its pixels lie, its metadata.  The arrays alone do not
tell an absent frame from a black one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import AxisValue

__all__ = [
    "FRAMES_NAME",
    "GRID",
    "LOCK_NAME",
    "OURS",
    "OWN_GROUP",
    "FrameLine",
    "chunk_path",
    "frames_path",
    "is_omezarr",
    "lines_behind",
    "metadata_of",
    "pack_line",
    "read_line_at",
    "read_line_of",
    "read_lines",
    "read_own_attributes",
]

OWN_GROUP = "refocusd"
FRAMES_NAME = "frames.jsonl"
LOCK_NAME = "frames.lock"
#: Under ``refocusd`` in the attributes of our group: the dataset may be appended to.
OURS = {"sink": "ome-zarr", "sink_format": 1}
#: Axes of a frame that are dimensions of its image's array, in their order.  OME-Zarr 0.5
#: takes no others beside y and x: each combination of the values of all others is an image.
GRID = ("time", "channel", "z")
#: Longer than a path can be; keeps a damaged line from being a place on the disk.
_MAX_NUMBER = 1 << 40


class FrameLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the list of frames, without its metadata.

    Parameters
    ----------
    axes : dict of str to int or str
        As they were written.
    image : int
        Number of the image that the frame belongs to.
    at : (int, int, int)
        Its place in that image's array: t, c, z.
    shape : (int, int)
        Height and width in pixels.
    dtype : str
        ``uint8`` or ``uint16``.
    """

    axes: dict[str, AxisValue]
    image: int
    at: tuple[int, int, int]
    shape: tuple[int, int]
    dtype: str

    @property
    def format(self) -> PageFormat:
        """Shape and type of the frame."""
        return PageFormat(*self.shape, np.dtype(self.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of the frame's pixels."""
        return self.format.nbytes


class _WholeLine(FrameLine, frozen=True, forbid_unknown_fields=True):
    """A line as it stands in the file; its metadata are skipped, not read."""

    metadata: msgspec.Raw


_decoder = msgspec.json.Decoder(_WholeLine)


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


def pack_line(line: FrameLine, metadata: bytes) -> bytes:
    """A line for the list of frames, its end included; the metadata are JSON."""
    # The metadata come last: often 5 kB, and whoever looks for frames skips them.
    head = json.dumps(msgspec.structs.asdict(line)).encode("ascii")
    return head[:-1] + b', "metadata": ' + metadata + b"}\n"


def metadata_of(text: bytes) -> dict[str, Any]:
    """Metadata in a line of the list.

    Raises
    ------
    ValueError
        If there are none.
    """
    try:
        metadata = json.loads(text)["metadata"]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no metadata ({error})") from error
    if not isinstance(metadata, dict):
        raise ValueError("the metadata are no JSON object")  # noqa: TRY004 (of the file, not the caller)
    return metadata


def read_lines(file: BinaryIO) -> Iterator[tuple[int, int, FrameLine]]:
    """Lines from where the file stands, each with its first byte and its length.

    Ends before the first line that is not whole.
    """
    start = file.tell()
    for text in file:
        line = _parse(text)
        if line is None:
            return
        yield start, len(text), line
        start += len(text)


def read_line_at(path: Path, start: int) -> tuple[FrameLine, bytes] | None:
    """Line of the dataset's list that starts at a byte, with its text; None if there is none.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    return read_line_of(frames_path(path), start)


def read_line_of(place: Path, start: int) -> tuple[FrameLine, bytes] | None:
    """As `read_line_at`, of a list by its own path."""
    with place.open("rb") as file:
        file.seek(start)
        text = file.readline()
    line = _parse(text)
    return None if line is None else (line, text)


def lines_behind(file: BinaryIO, end: int) -> bool:
    """Whether whole lines follow an illegible one, at which `read_lines` stopped.

    A line without its end is being written, or its writer was killed.
    """
    file.seek(end)
    first = file.readline()
    if not first.endswith(b"\n") or _parse(first) is not None:
        return False
    return any(_parse(text) for text in file)


def read_own_attributes(path: Path) -> dict[str, Any]:
    """Attributes of our group: ``refocusd`` (our mark) and ``summary``.

    Raises
    ------
    ValueError
        If they are illegible.
    OSError
        If the file cannot be read.
    """
    text = (path / OWN_GROUP / "zarr.json").read_bytes()
    try:
        attributes = json.loads(text)["attributes"]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no attributes ({error})") from error
    if not isinstance(attributes, dict):
        raise ValueError("the attributes are no JSON object")  # noqa: TRY004
    return attributes


def _parse(text: bytes) -> FrameLine | None:
    """Return a line of the list; None if it is torn or damaged."""
    if not text.endswith(b"}\n"):
        return None
    line: FrameLine | None
    try:
        line = _decoder.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        # JSON that msgspec refuses: NaN, lone surrogates, numbers above 64 bits.
        line = _converted(text)
    if line is None or line.dtype not in ("uint8", "uint16"):
        return None
    numbers = (line.image, *line.at, *line.shape)
    return line if all(0 <= number < _MAX_NUMBER for number in numbers) else None


def _converted(text: bytes) -> FrameLine | None:
    try:
        said = json.loads(text)
        del said["metadata"]
        return msgspec.convert(said, FrameLine)
    except (msgspec.ValidationError, ValueError, KeyError, TypeError, RecursionError):
        return None
