"""NDTiff sink: appends to what exists, in any order, safe from a killed process."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from refocusd.errors import OutputError
from refocusd.formats.disk_space import write_error
from refocusd.formats.lock import lock_for_writing
from refocusd.formats.ndtiff import layout as ndtiff
from refocusd.formats.ndtiff.contents import OURS, Contents, Layout, read_contents, read_summary
from refocusd.formats.ndtiff.stack import StackFile, part_name, stack_name, write_all
from refocusd.frame import Axes, Pixels, canonical_axes, checked_pixels, plain_axes

__all__ = ["MAX_FILE_BYTES", "NDTiffSink"]

#: A file's length: TIFF counts bytes in 32 bits; kept clear of the last of them.
MAX_FILE_BYTES = 2**32 - 2**24


class NDTiffSink:
    """A refocused NDTiff dataset, open for writing by one thread.

    Made by `create` or `append`; implements `refocusd.formats.sink.Sink`.  ndstorage
    (hence pycromanager and napari's reader), tifffile and Micro-Manager read the
    dataset while it is written, after `close` and after the process was killed.
    A frame is handed to the operating system, not forced to the disk: a power
    failure may take the last seconds.  Memory does not grow with the frames but
    for eight bytes each (`WrittenKeys`).
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
        self.path = path
        #: Summary metadata as it stands in the files.
        self.summary: Mapping[str, Any] = json.loads(summary)
        self._header = ndtiff.pack_header(summary)
        self._index = index
        self._stack = stack
        self._contents = contents
        #: Of the TIFF that is being written.
        self._number = contents.number
        self._max_file_bytes = max_file_bytes
        #: Something may lie behind the last committed frame.
        self._torn = False
        self._closed = False

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
            Summary metadata of the raw dataset (JSON-serialisable).  Added are
            ``TiledImageStorage: false``, without which Micro-Manager refuses the
            dataset, and a mark of ours under ``refocusd``.
        max_file_bytes : int
            Length at which the next TIFF is begun.

        Raises
        ------
        OutputError
            If the folder exists or cannot be made, or the summary is not JSON.
        """
        path = Path(path)
        text = _summary_bytes(summary or {})
        try:
            _refuse_existing(path)
            path.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as on_failure:
                stack = StackFile.create(path / stack_name(0), ndtiff.pack_header(text))
                on_failure.callback(stack.close)
                # The index comes last: a folder with an index is a dataset.
                index = io.FileIO(path / ndtiff.INDEX_NAME, "x+")
                on_failure.callback(index.close)
                lock_for_writing(index)
                on_failure.pop_all()
        except OSError as error:
            raise write_error(error, path, "starting a dataset") from error
        return cls(path, text, index, stack, Contents(), max_file_bytes)

    @classmethod
    def append(cls, path: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> NDTiffSink:
        """Continue a dataset that `create` started, whatever ended its writer.

        What lies behind the last indexed frame (a frame that was being written)
        is cut off; indexed frames are not touched.

        Raises
        ------
        OutputError
            If there is no dataset of ours, if its index is damaged, or if
            another process is writing it.
        """
        path = Path(path)
        if not (path / ndtiff.INDEX_NAME).is_file():
            raise OutputError(
                f"{path} holds no {ndtiff.INDEX_NAME}, so there is no dataset to append to: "
                "name the folder of a refocused dataset, or start a new one"
            )
        try:
            with contextlib.ExitStack() as on_failure:
                index = io.FileIO(path / ndtiff.INDEX_NAME, "r+")
                on_failure.callback(index.close)
                lock_for_writing(index)
                summary = read_summary(path)
                contents = read_contents(path)
                stack = _open_stack(path, contents, len(ndtiff.pack_header(summary)))
                on_failure.callback(stack.close)
                sink = cls(path, summary, index, stack, contents, max_file_bytes)
                sink._restore()
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
            the frames before, an axis mixes numbers and names, the metadata has
            no JSON form, or the disk refuses.  The dataset is then as before.
        InputError
            If pixels or axes are not those of a frame.
        """
        plain = plain_axes(axes)
        key = canonical_axes(plain)
        if self._closed:
            raise OutputError(f"{self.path} is closed: frame {key} cannot be written to it")
        image = checked_pixels(pixels, what=f"frame {key}")
        self._refuse_unfit(key, plain, Layout.of(image))
        try:
            text = ndtiff.json_bytes(metadata)
        except (TypeError, ValueError) as error:
            raise OutputError(
                f"the metadata of frame {key} cannot be written: {error}; "
                "leave it out or make it a number or a string"
            ) from error
        try:
            if self._torn:
                self._restore()
            self._torn = True
            self._write(image, plain, text, _pixel_size_um(metadata, self.summary))
            self._torn = False
        except (OSError, OutputError) as error:
            # Where this fails too, the next write tries again.
            with contextlib.suppress(OSError):
                self._restore()
            if isinstance(error, OSError):
                raise write_error(error, self.path, f"writing frame {key}") from error
            raise

    def __contains__(self, axes_key: str) -> bool:
        """Whether the frame with these axes (`canonical_axes`) is written."""
        return axes_key in self._contents.keys

    def close(self) -> None:
        """Close the dataset's files; they are complete after every frame."""
        if self._closed:
            return
        self._closed = True
        if self._torn:
            with contextlib.suppress(OSError):
                self._restore()
        self._stack.close()
        self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse_unfit(self, key: str, axes: Axes, layout: Layout) -> None:
        """Refuse a frame that would make the dataset unreadable or ambiguous."""
        if key in self._contents.keys:
            raise OutputError(
                f"{self.path} holds frame {key} already, and frames are never overwritten: "
                "skip it, or write to another --output"
            )
        if layout != (self._contents.layout or layout):
            raise OutputError(
                f"frame {key} has {layout}, but the frames of {self.path} have "
                f"{self._contents.layout}: write it to another --output"
            )
        for name, value in axes.items():
            known = self._contents.axis_types.get(name, type(value))
            if known is not type(value):
                # ndstorage sorts an axis' values and cannot open a dataset that mixes them.
                kinds = {int: "numbers", str: "names"}
                raise OutputError(
                    f"axis {name!r} of frame {key} has {kinds[type(value)]}, but in {self.path} "
                    f"it has {kinds[known]}: use one of them throughout"
                )

    def _write(self, image: Pixels, axes: Axes, metadata: bytes, pixel_um: float | None) -> None:
        """Append the frame, then its index record: what is indexed is complete."""
        self._make_room(image, metadata)
        place = self._stack.append(image, metadata, pixel_um)
        record = ndtiff.IndexRecord(
            axes=axes,
            filename=self._stack.name,
            pixel_offset=place.pixels,
            height=image.shape[0],
            width=image.shape[1],
            pixel_type=ndtiff.PIXEL_TYPES[image.dtype],
            metadata_offset=place.metadata,
            metadata_length=len(metadata),
        )
        packed = ndtiff.pack_record(record, self._contents.index_end)
        self._index.seek(self._contents.index_end)
        write_all(self._index, packed)
        self._stack.commit()
        self._contents.add(record, self._contents.index_end + len(packed))

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

    def _restore(self) -> None:
        """Cut off what lies behind the last committed frame; the index comes first."""
        self._index.truncate(self._contents.index_end)
        self._stack.restore()
        self._torn = False


def _open_stack(path: Path, contents: Contents, header_bytes: int) -> StackFile:
    """Open the TIFF to be continued; a later one, without an indexed frame, is set aside."""
    StackFile.set_aside(path / stack_name(contents.number + 1))
    current = path / stack_name(contents.number)
    if contents.last is None:
        return StackFile.after_header(current, header_bytes)
    return StackFile.after_frame(current, contents.last)


def _refuse_existing(path: Path) -> None:
    # A start that was killed leaves a folder without an index: no frame is in it.
    if path.is_dir() and {entry.name for entry in path.iterdir()} <= {part_name(0)}:
        return
    if path.exists() or path.is_symlink():
        raise OutputError(
            f"{path} exists already, and is not overwritten: choose another --output, or resume "
            "what is there"
        )


def _summary_bytes(summary: Mapping[str, Any]) -> bytes:
    ours = summary.get("refocusd")
    mark = {**ours, **OURS} if isinstance(ours, Mapping) else OURS
    try:
        return ndtiff.json_bytes({**summary, "TiledImageStorage": False, "refocusd": mark})
    except (TypeError, ValueError) as error:
        raise OutputError(
            f"the summary metadata cannot be written: {error}; "
            "leave it out or make it a number or a string"
        ) from error


def _pixel_size_um(metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> float | None:
    """Micro-Manager's pixel size: in every frame, or of the whole acquisition."""
    for value in (metadata.get("PixelSizeUm"), summary.get("PixelSize_um")):
        with contextlib.suppress(TypeError, ValueError):
            if (size := float(value)) > 0:  # type: ignore[arg-type]
                return size
    return None
