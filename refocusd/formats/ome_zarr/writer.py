"""OME-Zarr sink: an image server's format, written frame by frame in any order."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refocusd.files import open_file
from refocusd.formats.lock import open_locked
from refocusd.formats.ndtiff.stack import write_all
from refocusd.formats.ome_zarr import documents
from refocusd.formats.ome_zarr.contents import Contents, read_contents
from refocusd.formats.ome_zarr.description import Description
from refocusd.formats.ome_zarr.files import put, remove_file
from refocusd.formats.ome_zarr.frame_list import FrameLine, pack_line
from refocusd.formats.ome_zarr.layout import (
    LOCK_NAME,
    OURS,
    OWN_GROUP,
    chunk_path,
    frames_path,
    marked_summary,
    summary_to_continue,
)
from refocusd.formats.sink import Sink, opened_files, refuse_existing, refuse_missing
from refocusd.frame import AxisValue, Metadata, Pixels

#: Length of the lock file, which names the chunk that is being written: less than a block of the disk.
_IN_FLIGHT_BYTES = 256
_CHUNK = re.compile(r"\d+/0/c/\d+/\d+/\d+/0/0")


class OmeZarrSink(Sink):
    """A refocused OME-Zarr 0.5 dataset, made by `create` or `append`.

    The folder is itself a multiscale image of one resolution, with the
    dimensions t, c, z, y and x.  OME-Zarr has no others: frames that differ in
    another axis (position, or any of the user's) are in separate images,
    ``0``, ``1``, ..., and if there are several, the folder has
    bioformats2raw's layout.  `refocusd.formats.ome_zarr.layout` shows the files.

    Along time, z and channel, a frame has the place of its number; names take
    the next place when they first occur (`refocusd.formats.ome_zarr.contents.Slots`).
    Arrays grow with the frames; places without a frame read as 0, and
    ``refocusd/frames.jsonl`` tells which have one.

    Readers find a whole store at any moment, even after the process was killed.
    Memory grows only by eight bytes per frame (`WrittenKeys`), and with the
    names along an axis.
    """

    def __init__(
        self,
        path: Path,
        summary: Mapping[str, Any],
        lock: io.FileIO,
        frames: io.FileIO,
        contents: Contents,
    ) -> None:
        super().__init__(path, summary, contents)
        self._lock = lock
        self._frames = frames
        self._contents = contents
        self._description = Description(path, summary, contents)
        #: Chunk of a frame that is not complete.
        self._in_flight = ""

    @classmethod
    def create(cls, path: Path, summary: Mapping[str, Any] | None = None) -> OmeZarrSink:
        """Start a dataset in a new folder.

        Until its first frame the folder is an empty Zarr group.

        Parameters
        ----------
        path : Path
            Folder that does not exist yet (or is empty), e.g. ``<raw>_refocused``.
        summary : mapping, optional
            Summary metadata of the raw dataset (JSON-serialisable).  The sink adds
            its mark under ``refocusd``.

        Raises
        ------
        OutputError
            If the folder exists or cannot be made, or the summary is not JSON.
        """
        path = Path(path)
        plain = marked_summary(summary or {}, OURS)
        own = documents.group_document({"refocusd": OURS, "summary": plain})
        with opened_files(path, "starting a dataset") as files:
            _refuse_existing(path)
            lock = files.enter_context(open_locked(path / OWN_GROUP / LOCK_NAME))
            _note_in_flight(lock, "")
            put(path / OWN_GROUP / "zarr.json", own)
            put(path / "zarr.json", documents.group_document({}))
            # The list of frames comes last: a folder with one is a dataset.
            frames = files.enter_context(open_file(frames_path(path), "x+"))
        return cls(path, plain, lock, frames, Contents())

    @classmethod
    def append(cls, path: Path) -> OmeZarrSink:
        """Continue a dataset that `create` started, whatever ended its writer.

        Whatever belongs to no listed frame (a frame that was being written) is
        removed; listed frames are not touched.

        Raises
        ------
        OutputError
            If there is no dataset of ours, if its list of frames is damaged, or
            if another process is writing it.
        """
        path = Path(path)
        refuse_missing(path, frames_path(Path()))
        with opened_files(path, "opening the dataset for appending") as files:
            lock = files.enter_context(open_locked(path / OWN_GROUP / LOCK_NAME))
            summary = summary_to_continue(path, OURS)
            in_flight = _read_in_flight(lock)
            contents, landed = read_contents(path, in_flight)
            frames = files.enter_context(open_file(frames_path(path), "r+"))
            sink = cls(path, summary, lock, frames, contents)
            sink._description.recall()
            sink._take_back("" if landed else in_flight)
            touched = int(in_flight.partition("/")[0] or 0)
            sink._description.restore(touched, contents.images.values())
        return sink

    def _append(
        self, pixels: Pixels, axes: dict[str, AxisValue], text: bytes, metadata: Metadata
    ) -> None:
        """Write the pixels, then what readers need to find them, then the line: a listed frame is complete."""
        image = self._contents.image_of(axes)
        height, width = pixels.shape
        place = image.place(axes)
        line = FrameLine(axes, image.number, place, (height, width), pixels.dtype.name)
        chunk = chunk_path(line)
        _note_in_flight(self._lock, chunk)
        self._in_flight = chunk
        put(self.path / chunk, pixels.data.cast("B"))
        looks = self._description.add(image, line, pixels, metadata)
        packed = pack_line(line, text)
        self._frames.seek(self._contents.end)
        write_all(self._frames, packed)
        image.looks = looks
        self._contents.add(line, image, self._contents.end + len(packed))
        self._in_flight = ""

    def _undo(self) -> None:
        if not self._in_flight:
            return
        self._take_back(self._in_flight)
        touched = int(self._in_flight.partition("/")[0])
        images = [image for image in self._contents.images.values() if image.number == touched]
        self._description.restore(touched, images)
        self._in_flight = ""

    def _take_back(self, chunk: str) -> None:
        """Remove a chunk, and whatever follows the last frame of the list.

        The pixels come first, so that on a full disk there is room for the documents.
        """
        if chunk:
            remove_file(self.path, chunk)
        self._frames.truncate(self._contents.end)

    def _close_files(self) -> None:
        self._frames.close()
        self._lock.close()


def _note_in_flight(lock: io.FileIO, chunk: str) -> None:
    lock.seek(0)
    write_all(lock, chunk.encode("ascii").ljust(_IN_FLIGHT_BYTES - 1) + b"\n")


def _read_in_flight(lock: io.FileIO) -> str:
    """Chunk that was being written last; empty if there is none, or it is not known."""
    lock.seek(0)
    text = (lock.read(_IN_FLIGHT_BYTES) or b"").decode("ascii", "replace").strip()
    return text if _CHUNK.fullmatch(text) else ""


def _refuse_existing(path: Path) -> None:
    # A start that was killed leaves a lock, but no list of frames: no frame is in it.
    begun = {"zarr.json", "zarr.json.part"}
    if path.is_dir() and _names(path) <= begun | {OWN_GROUP}:
        inner = _names(path / OWN_GROUP)
        if inner <= begun | {LOCK_NAME} and (LOCK_NAME in inner or not _names(path) & begun):
            return
    refuse_existing(path)


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
