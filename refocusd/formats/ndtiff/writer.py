"""NDTiff sink: appends to what exists, in any order, safe from a killed process."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refocusd.errors import InputError, OutputError
from refocusd.files import open_file
from refocusd.formats.lock import lock_for_writing
from refocusd.formats.ndtiff import layout as ndtiff
from refocusd.formats.ndtiff.index import NDTiffIndex
from refocusd.formats.ndtiff.stack import StackFile, part_name, stack_name, write_all
from refocusd.formats.sink import (
    Sink,
    Written,
    json_bytes,
    opened_files,
    refuse_existing,
    refuse_foreign,
    refuse_missing,
    with_mark,
)
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Axes, AxisValue, Metadata, Pixels, canonical_axes
from refocusd.profiles.microscope_metadata import pixel_um_of

#: Mark under ``refocusd`` in the summary metadata of datasets that may be appended to.
OURS = {"sink": "ndtiff", "sink_format": 1}

_STACK = re.compile(r"NDTiffStack(?:_(\d+))?\.tif")


@dataclass(slots=True)
class Contents(Written):
    """What the writer must know about the frames of its dataset."""

    #: Type of the values of each axis: int for numbers, str for names.
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
        If refocusd did not write the dataset, or it has lost its first file.
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
            # A power failure may leave zeros in a block that the system had allocated.
            _refuse_all_but_one_record(file.read().strip(b"\0"))
        except InputError as error:
            raise OutputError(
                f"{name} is damaged at byte {index.end} of {name.stat().st_size}; appending would "
                "lose the frames after it: restore the index from a copy, or choose another "
                "--output"
            ) from error
    return contents


def _refuse_all_but_one_record(rest: bytes) -> None:
    """Refuse more than the beginning of the one record that a killed writer was writing.

    Anything else is damage, and there may be frames after it.
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


#: Longest file, in bytes: offsets in a TIFF have 32 bits, and 16 MiB are left unused.
MAX_FILE_BYTES = 2**32 - 2**24


class NDTiffSink(Sink):
    """A refocused NDTiff dataset, made by `create` or `append`.

    ndstorage (hence pycromanager and napari's reader), tifffile and
    Micro-Manager read the dataset while it is written, after `close` and after
    the process was killed.  Memory grows by only eight bytes per frame
    (`WrittenKeys`).
    """

    def __init__(
        self,
        path: Path,
        summary: bytes,
        index: io.FileIO,
        stack: StackFile,
        contents: Contents,
        max_file_bytes: int,
    ) -> None:
        super().__init__(path, json.loads(summary), contents)
        self._header = ndtiff.pack_header(summary)
        self._index = index
        self._stack = stack
        self._contents = contents
        #: Number of the TIFF that is being written.
        self._number = contents.number
        self._max_file_bytes = max_file_bytes

    @classmethod
    def create(
        cls,
        path: Path,
        summary: Mapping[str, Any] | None = None,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> NDTiffSink:
        """Start a dataset in a new folder.

        Parameters
        ----------
        path : Path
            Folder that does not exist yet (or is empty), e.g. ``<raw>_refocused``.
        summary : mapping, optional
            Summary metadata of the raw dataset (JSON-serialisable).  The sink adds
            ``TiledImageStorage: false``, without which Micro-Manager refuses the
            dataset, and its mark under ``refocusd``.
        max_file_bytes : int
            Largest length of a TIFF; the next one is begun before it is exceeded.

        Raises
        ------
        OutputError
            If the folder exists or cannot be made, or the summary is not JSON.
        """
        path = Path(path)
        marked = {**with_mark(summary or {}, OURS), "TiledImageStorage": False}
        text = json_bytes(marked, "the summary metadata")
        with opened_files(path, "starting a dataset") as files:
            # A start that was killed leaves a folder without an index: no frame is in it.
            if not path.is_dir() or {entry.name for entry in path.iterdir()} - {part_name(0)}:
                refuse_existing(path)
            path.mkdir(parents=True, exist_ok=True)
            stack = StackFile.create(path / stack_name(0), ndtiff.pack_header(text))
            files.callback(stack.close)
            # The index comes last: a folder with an index is a dataset.
            index = files.enter_context(open_file(path / ndtiff.INDEX_NAME, "x+"))
            lock_for_writing(index)
        return cls(path, text, index, stack, Contents(), max_file_bytes)

    @classmethod
    def append(cls, path: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> NDTiffSink:
        """Continue a dataset that `create` started, whatever ended its writer.

        Everything after the last indexed frame (a frame that was being written)
        is cut off; indexed frames are not touched.

        Raises
        ------
        OutputError
            If there is no dataset of ours, if its index is damaged, or if
            another process is writing it.
        """
        path = Path(path)
        refuse_missing(path, Path(ndtiff.INDEX_NAME))
        with opened_files(path, "opening the dataset for appending") as files:
            index = files.enter_context(open_file(path / ndtiff.INDEX_NAME, "r+"))
            lock_for_writing(index)
            summary = read_summary(path)
            contents = read_contents(path)
            stack = _open_stack(path, contents, len(ndtiff.pack_header(summary)))
            files.callback(stack.close)
            sink = cls(path, summary, index, stack, contents, max_file_bytes)
            sink._undo()
        return sink

    def _refuse_unfit(self, key: str, axes: dict[str, AxisValue], form: PageFormat) -> None:
        super()._refuse_unfit(key, axes, form)
        for name, value in axes.items():
            known = self._contents.axis_types.get(name, type(value))
            if known is not type(value):
                # ndstorage sorts an axis' values and cannot open a dataset that mixes them.
                kinds = {int: "numbers", str: "names"}
                raise OutputError(
                    f"axis {name!r} of frame {key} has {kinds[type(value)]}, but in {self.path} "
                    f"it has {kinds[known]}: use one of them throughout, or --sink ome-zarr and another "
                    "--output, which takes both"
                )

    def _append(self, pixels: Pixels, axes: Axes, text: bytes, metadata: Metadata) -> None:
        """Append the frame, then its index record: what is indexed is complete."""
        # TIFF stores up to four bytes in the entry itself, but NDTiff expects them elsewhere.
        text = text.ljust(4)
        self._make_room(pixels, text)
        entry = self._stack.append(pixels, text, pixel_um_of(metadata, self.summary))
        record = ndtiff.pack_record(axes, entry, self._contents.end)
        self._index.seek(self._contents.end)
        write_all(self._index, record)
        self._stack.commit(entry)
        self._contents.add(axes, entry, self._contents.end + len(record))

    def _make_room(self, image: Pixels, metadata: bytes) -> None:
        """Begin the next TIFF if the frame does not fit into this one."""
        if self._stack.end_with(image, metadata) <= self._max_file_bytes:
            return
        in_empty_file = ndtiff.frame_end(len(self._header), image, metadata)
        if in_empty_file > self._max_file_bytes:
            raise OutputError(
                f"a frame of {image.shape[1]}×{image.shape[0]} px with its metadata takes "
                f"{in_empty_file} bytes, more than a TIFF of {self.path} may have "
                f"({self._max_file_bytes}): record a smaller region"
            )
        following = StackFile.create(self.path / stack_name(self._number + 1), self._header)
        self._stack.close()
        self._stack = following
        self._number += 1

    def _undo(self) -> None:
        """Cut off everything after the last committed frame; the index comes first."""
        self._index.truncate(self._contents.end)
        self._stack.restore()

    def _close_files(self) -> None:
        self._stack.close()
        self._index.close()


def _open_stack(path: Path, contents: Contents, header_bytes: int) -> StackFile:
    """Open the TIFF to be continued; a later one, without an indexed frame, is set aside."""
    StackFile.set_aside(path / stack_name(contents.number + 1))
    current = path / stack_name(contents.number)
    if contents.last is None:
        return StackFile.after_header(current, header_bytes)
    return StackFile.after_frame(current, contents.last)
