"""OME-Zarr sink: an image server's format, written frame by frame in any order."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from refocusd.errors import OutputError
from refocusd.formats.disk_space import write_error
from refocusd.formats.lock import lock_for_writing
from refocusd.formats.ndtiff.stack import write_all
from refocusd.formats.ome_zarr import documents
from refocusd.formats.ome_zarr.contents import Contents, Image, read_contents
from refocusd.formats.ome_zarr.description import Description
from refocusd.formats.ome_zarr.files import Files, remove_file
from refocusd.formats.ome_zarr.layout import (
    LOCK_NAME,
    OURS,
    OWN_GROUP,
    FrameLine,
    chunk_path,
    frames_path,
    is_omezarr,
    pack_line,
    read_own_attributes,
)
from refocusd.frame import Axes, Pixels, canonical_axes, checked_pixels, plain_axes

__all__ = ["OmeZarrSink"]

#: What the lock file holds: the chunk that is being written, in one block of the disk.
_IN_FLIGHT_BYTES = 256
_CHUNK = re.compile(r"\d+/0/c/\d+/\d+/\d+/0/0")


class OmeZarrSink:
    """A refocused OME-Zarr 0.5 dataset, open for writing by one thread.

    Made by `create` or `append`; implements `refocusd.formats.sink.Sink`.  The folder is
    itself a multiscale image of one resolution, with the dimensions t, c, z, y
    and x.  OME-Zarr has no others: frames that differ in another axis (position,
    or any of the user's) are images of their own, ``0``, ``1``, ..., and where
    there are several the folder has bioformats2raw's layout.  `omezarr_format`
    draws the files.

    A frame has the place of its number along time, z and channel; names take
    the next place when they first come (`omezarr_contents.Slots`).  Arrays grow as
    frames come; places without a frame read as 0, and ``refocusd/frames.jsonl``
    tells which have one.

    Readers find a whole store at any moment, also after the process was killed.
    A frame is handed to the operating system, not forced to the disk: a power
    failure may take the last seconds.  Memory does not grow with the frames but
    for eight bytes each (`WrittenKeys`), and for the names along an axis.
    """

    def __init__(
        self,
        path: Path,
        summary: Mapping[str, Any],
        lock: io.FileIO,
        frames: io.FileIO,
        contents: Contents,
    ) -> None:
        self.path = path
        #: Summary metadata as it stands in the files.
        self.summary = summary
        self._lock = lock
        self._frames = frames
        self._contents = contents
        self._files = Files(path)
        self._description = Description(self._files, path, summary, contents)
        self._closed = False

    @classmethod
    def create(cls, path: Path, summary: Mapping[str, Any] | None = None) -> OmeZarrSink:
        """Start a dataset in a new folder.

        Until its first frame the folder is an empty Zarr group.

        Parameters
        ----------
        path : Path
            Folder that does not exist yet (or is empty), e.g. ``<raw>_refocused``.
        summary : mapping, optional
            Summary metadata of the raw dataset (JSON-serialisable).  Added is a
            mark of ours under ``refocusd``.

        Raises
        ------
        OutputError
            If the folder exists or cannot be made, or the summary is not JSON.
        ConfigError
            If the zarr library is not installed.
        """
        path = Path(path)
        root = documents.group_document({})
        marked = _marked(summary or {})
        try:
            own = documents.group_document(
                {"refocusd": OURS, "summary": documents.plain_json(marked)}
            )
        except (TypeError, ValueError) as error:
            raise OutputError(
                f"the summary metadata cannot be written: {error}; "
                "leave it out or make it a number or a string"
            ) from error
        try:
            _refuse_existing(path)
            (path / OWN_GROUP).mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as on_failure:
                lock = _open_lock(path)
                on_failure.callback(lock.close)
                lock_for_writing(lock)
                _note_in_flight(lock, "")
                files = Files(path)
                files.put(f"{OWN_GROUP}/zarr.json", own)
                files.put("zarr.json", root)
                # The list of frames comes last: a folder with one is a dataset.
                frames = io.FileIO(frames_path(path), "x+")
                on_failure.callback(frames.close)
                on_failure.pop_all()
        except OSError as error:
            raise write_error(error, path, "starting a dataset") from error
        return cls(path, documents.plain_json(marked), lock, frames, Contents())

    @classmethod
    def append(cls, path: Path) -> OmeZarrSink:
        """Continue a dataset that `create` started, whatever ended its writer.

        What belongs to no frame of the list (a frame that was being written) is
        removed; frames of the list are not touched.

        Raises
        ------
        OutputError
            If there is no dataset of ours, if its list of frames is damaged, or
            if another process is writing it.
        ConfigError
            If the zarr library is not installed.
        """
        path = Path(path)
        documents.require_zarr()
        if not is_omezarr(path):
            raise OutputError(
                f"{path} holds no {frames_path(Path())}, so there is no dataset to append to: "
                "name the folder of a refocused dataset, or start a new one"
            )
        try:
            with contextlib.ExitStack() as on_failure:
                lock = _open_lock(path)
                on_failure.callback(lock.close)
                lock_for_writing(lock)
                summary = _read_summary(path)
                in_flight = _read_in_flight(lock)
                contents, landed = read_contents(path, in_flight)
                frames = io.FileIO(frames_path(path), "r+")
                on_failure.callback(frames.close)
                frames.truncate(contents.end)
                if in_flight and not landed:
                    remove_file(path, in_flight)
                sink = cls(path, summary, lock, frames, contents)
                sink._description.renew(int(in_flight.partition("/")[0] or 0))
                on_failure.pop_all()
        except OSError as error:
            raise write_error(error, path, "opening the dataset for appending") from error
        return sink

    def write(self, pixels: Pixels, axes: Axes, metadata: Mapping[str, Any]) -> None:
        """Add one frame (see `Sink.write`).

        Raises
        ------
        OutputError
            If these axes are written already, shape or dtype are not those of
            the frames before, the metadata has no JSON form, or the disk
            refuses.  The dataset is then as before.
        InputError
            If pixels or axes are not those of a frame.
        """
        plain = plain_axes(axes)
        key = canonical_axes(plain)
        if self._closed:
            raise OutputError(f"{self.path} is closed: frame {key} cannot be written to it")
        image_pixels = checked_pixels(pixels, what=f"frame {key}")
        image = self._contents.image_of(plain)
        height, width = image_pixels.shape
        dtype = image_pixels.dtype.name
        line = FrameLine(plain, image.number, image.place(plain), (height, width), dtype)
        self._refuse_unfit(key, line)
        try:
            text = pack_line(line, metadata)
        except (TypeError, ValueError) as error:
            raise OutputError(
                f"the metadata of frame {key} cannot be written: {error}; "
                "leave it out or make it a number or a string"
            ) from error
        try:
            if self._files.dirty:
                self._files.undo()
            self._write(image_pixels, line, image, text, metadata)
        except OSError as error:
            # Where this fails too, the next write tries again.
            with contextlib.suppress(OSError):
                self._files.undo()
            raise write_error(error, self.path, f"writing frame {key}") from error

    def __contains__(self, axes_key: str) -> bool:
        """Whether the frame with these axes (`canonical_axes`) is written."""
        return axes_key in self._contents.keys

    def close(self) -> None:
        """Close the dataset's files; they are complete after every frame."""
        if self._closed:
            return
        self._closed = True
        if self._files.dirty:
            with contextlib.suppress(OSError):
                self._files.undo()
        self._frames.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse_unfit(self, key: str, line: FrameLine) -> None:
        """Refuse a frame that is there already, or is of another kind than the others."""
        if key in self._contents.keys:
            raise OutputError(
                f"{self.path} holds frame {key} already, and frames are never overwritten: "
                "skip it, or write to another --output"
            )
        layout = (line.shape, line.dtype)
        if layout != (self._contents.layout or layout):
            assert self._contents.layout is not None
            raise OutputError(
                f"frame {key} has {_described(*layout)}, but the frames of {self.path} have "
                f"{_described(*self._contents.layout)}: write it to another --output"
            )

    def _write(
        self,
        pixels: Pixels,
        line: FrameLine,
        image: Image,
        text: bytes,
        metadata: Mapping[str, Any],
    ) -> None:
        """Pixels, then what lets readers find them, then the line: what is listed is complete."""
        chunk = chunk_path(line)
        _note_in_flight(self._lock, chunk)
        self._files.put_chunk(chunk, pixels.data.cast("B"))
        scale, looks = self._description.put(image, line, pixels, metadata)
        end = self._contents.end
        self._files.on_undo(lambda: _truncate(self._frames, end))
        self._frames.seek(end)
        write_all(self._frames, text)
        self._files.keep()
        image.scale, image.looks = scale, looks
        self._contents.add(line, image, end + len(text))


def _open_lock(path: Path) -> io.FileIO:
    place = path / OWN_GROUP / LOCK_NAME
    try:
        return io.FileIO(place, "r+")
    except FileNotFoundError:
        return io.FileIO(place, "x+")


def _note_in_flight(lock: io.FileIO, chunk: str) -> None:
    lock.seek(0)
    write_all(lock, chunk.encode("ascii").ljust(_IN_FLIGHT_BYTES - 1) + b"\n")


def _read_in_flight(lock: io.FileIO) -> str:
    """Chunk that was being written last; empty if there is none, or no one can tell."""
    lock.seek(0)
    text = (lock.read(_IN_FLIGHT_BYTES) or b"").decode("ascii", "replace").strip()
    return text if _CHUNK.fullmatch(text) else ""


def _read_summary(path: Path) -> Mapping[str, Any]:
    own = path / OWN_GROUP / "zarr.json"
    try:
        attributes = read_own_attributes(path)
    except (FileNotFoundError, ValueError) as error:
        raise OutputError(
            f"{own} cannot be continued ({error}): restore it, or choose another --output"
        ) from error
    mark, summary = attributes.get("refocusd"), attributes.get("summary")
    if not isinstance(mark, dict) or not mark.items() >= OURS.items():
        raise OutputError(
            f"{path} was not written by this version of refocusd, and nothing is appended to it: "
            "choose another --output"
        )
    return summary if isinstance(summary, dict) else {}


def _refuse_existing(path: Path) -> None:
    # A start that was killed leaves a lock, but no list of frames: no frame is in it.
    begun = {"zarr.json", "zarr.json.part"}
    if path.is_dir() and _names(path) <= begun | {OWN_GROUP}:
        inner = _names(path / OWN_GROUP)
        if inner <= begun | {LOCK_NAME} and (LOCK_NAME in inner or not _names(path) & begun):
            return
    if path.exists() or path.is_symlink():
        raise OutputError(
            f"{path} exists already, and is not overwritten: choose another --output, or resume "
            "what is there"
        )


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _marked(summary: Mapping[str, Any]) -> dict[str, Any]:
    ours = summary.get("refocusd")
    mark = {**ours, **OURS} if isinstance(ours, Mapping) else dict(OURS)
    return {**summary, "refocusd": mark}


def _described(shape: tuple[int, int], dtype: str) -> str:
    return f"{shape[1]}×{shape[0]} px of {8 if dtype == 'uint8' else 16} bits"


def _truncate(file: io.FileIO, end: int) -> None:
    file.truncate(end)
