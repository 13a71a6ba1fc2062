"""refocusd's list of the frames in an OME-Zarr dataset: one line of JSON per frame, only appended to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from refocusd.errors import InputError, OutputError
from refocusd.files import reading
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import AxisValue, canonical_axes

#: A line with a larger number is damaged, and must not be taken as a place on the disk.
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
    """A line of the file; its metadata are skipped, not parsed."""

    metadata: msgspec.Raw


_decoder = msgspec.json.Decoder(_WholeLine)


def pack_line(line: FrameLine, metadata: bytes) -> bytes:
    """A line for the list of frames, with its newline; the metadata are JSON."""
    # The metadata (often 5 kB) come last, because a search for frames skips them.
    head = json.dumps(msgspec.structs.asdict(line)).encode("ascii")
    return head[:-1] + b', "metadata": ' + metadata + b"}\n"


def lines_of(place: Path, start: int = 0) -> Iterator[tuple[int, int, FrameLine]]:
    """Whole lines of a list from byte `start` on, each with the bytes where it starts and ends.

    A last line without its end is left out: it is being written, or its writer was killed.

    Raises
    ------
    ValueError
        If whole lines follow an illegible one, which starts where the last line yielded ends.
    OSError
    """
    with place.open("rb") as file:
        file.seek(start)
        for text in file:
            line = _parse(text)
            if line is None:
                if text.endswith(b"\n") and any(_parse(later) for later in file):
                    raise ValueError(f"{place} is illegible at byte {start}")
                return
            end = start + len(text)
            yield start, end, line
            start = end


def damaged_list(place: Path, at: int) -> OutputError:
    """The error for a writer whose list is illegible at byte `at`."""
    return OutputError(
        f"{place} is damaged at byte {at}; appending would lose the frames after it: restore it "
        "from a copy, or choose another --output"
    )


class FrameList:
    """One list of frames, read while it may grow.

    Parameters
    ----------
    place : Path

    Attributes
    ----------
    end : int
        First byte after the lines that `fresh` yielded.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.end = 0

    def fresh(self) -> Iterator[tuple[int, FrameLine]]:
        """Lines appended since the last call, each with its first byte.

        Raises
        ------
        InputError
            If the list cannot be read, or is damaged before its last line.
        """
        with self._legible():
            for start, end, line in lines_of(self.place, self.end):
                yield start, line
                self.end = end

    def line_at(self, start: int, key: str) -> FrameLine:
        """The line of a frame, which starts at this byte.

        Raises
        ------
        InputError
            If it cannot be read, or is that of another frame.
        """
        return self._line_at(start, key)[0]

    def metadata_at(self, start: int, key: str) -> dict[str, Any]:
        """Metadata of the frame whose line starts at this byte.

        Raises
        ------
        InputError
            As `line_at`, and if there are none.
        """
        text = self._line_at(start, key)[1]
        try:
            metadata = json.loads(text)["metadata"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(f"the metadata of frame {key} cannot be read ({error})") from error
        if not isinstance(metadata, dict):
            raise self._damaged(f"the metadata of frame {key} are no JSON object")
        return metadata

    def _line_at(self, start: int, key: str) -> tuple[FrameLine, bytes]:
        with self._legible(), self.place.open("rb") as file:
            file.seek(start)
            text = file.readline()
        line = _parse(text)
        if line is None or canonical_axes(line.axes) != key:
            raise self._damaged(f"it has changed where {key} was")
        return line, text

    @contextmanager
    def _legible(self) -> Iterator[None]:
        try:
            with reading(self.place):
                yield
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.place} is damaged or incomplete: {what}; copy the dataset again")


def _parse(text: bytes) -> FrameLine | None:
    """A line of the list; None if it is torn or damaged."""
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
