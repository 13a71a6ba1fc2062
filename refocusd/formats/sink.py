"""A sink: writes refocused frames into a dataset, and knows which ones it holds."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from refocusd.errors import OutputError
from refocusd.formats.disk_space import write_error
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import (
    Axes,
    AxisValue,
    Metadata,
    Pixels,
    canonical_axes,
    checked_pixels,
    plain_axes,
)

#: New keys wait in a Python set until there are this many of them.
RECENT = 4096


class WrittenKeys:
    """A set of strings that keeps a 64-bit hash of each.

    Eight bytes a frame in a sorted array, and at most `RECENT` keys in a Python
    set (0.5 MiB).  Two of a million frames share a hash with a probability of
    3e-8; the second of them would count as written.
    """

    def __init__(self) -> None:
        self._sorted: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, key: str) -> bool:
        hashed = _hash(key)
        if hashed in self._recent:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(hashed)))
        return place < len(self._sorted) and int(self._sorted[place]) == hashed

    def add(self, key: str) -> None:
        """Remember a key that is not in the set yet."""
        self._recent.add(_hash(key))
        if len(self._recent) >= RECENT:
            fresh = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, fresh]))
            self._recent.clear()


@dataclass(slots=True)
class Written:
    """What every writer must know about the frames of its dataset."""

    keys: WrittenKeys = field(default_factory=WrittenKeys)
    #: Of every frame; None before the first.
    format: PageFormat | None = None
    #: Where the last whole record of the list of frames ends, in bytes.
    end: int = 0


def _hash(key: str) -> int:
    # Names that came through JSON may hold lone surrogates.
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))


class Sink(ABC):
    """One refocused dataset, written by one thread, closed by its context.

    ==============  =======================================================
    implementation  dataset
    ==============  =======================================================
    `NDTiffSink`    NDTiff, as pycromanager and Micro-Manager write it
    `OmeZarrSink`   OME-Zarr 0.5, one chunk per frame
    `MirrorSink`    OME-Zarr with the layout of a raw store
    ==============  =======================================================

    A frame is in the dataset, readable by others and safe from a killed
    process, when `write` returns.  It is handed to the operating system, not
    forced to the disk: a power failure may cost the last seconds.  The same tests
    check this for every implementation (``tests/formats/test_sinks_common.py``).

    Parameters
    ----------
    path : Path
        The dataset's folder.
    summary : mapping
        Summary metadata as it stands in the files.
    written : Written
        The frames that the dataset holds.
    """

    def __init__(self, path: Path, summary: Mapping[str, Any], written: Written) -> None:
        self.path = path
        self.summary = summary
        self._written = written
        #: A frame was begun and is neither complete nor undone.
        self._dirty = False
        self._closed = False

    def write(self, pixels: Pixels, axes: Axes, metadata: Metadata) -> None:
        """Add one frame, in any order of axes.

        Parameters
        ----------
        pixels : ndarray of uint8 or uint16, shape (height, width)
            Counts; all frames of a dataset have one shape and dtype.
        axes : mapping of str to int or str
            Axes of which no frame is written yet.
        metadata : mapping
            JSON-serialisable.

        Raises
        ------
        OutputError
            If a frame with these axes is written already, shape or dtype differ from
            those of earlier frames, the dataset cannot hold such axes, the metadata
            have no JSON form, or the disk refuses.  The dataset is then unchanged.
        InputError
            If pixels or axes are not those of a frame.
        """
        plain = plain_axes(axes)
        key = canonical_axes(plain)
        if self._closed:
            raise OutputError(f"{self.path} is closed: frame {key} cannot be written to it")
        image = checked_pixels(pixels, what=f"frame {key}")
        height, width = image.shape
        self._refuse_unfit(key, plain, PageFormat(height, width, image.dtype))
        text = json_bytes(metadata, f"the metadata of frame {key}")
        try:
            if self._dirty:
                self._undo()
            self._dirty = True
            self._append(image, plain, text, metadata)
            self._dirty = False
        except (OSError, OutputError) as error:
            # If this fails too, the next write tries again.
            self._try_undo()
            if isinstance(error, OSError):
                raise write_error(error, self.path, f"writing frame {key}") from error
            raise

    def __contains__(self, axes_key: str) -> bool:
        """Whether the frame with these axes (`canonical_axes`) is written."""
        return axes_key in self._written.keys

    def close(self) -> None:
        """Close the dataset's files; they are complete after every frame.  Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        if self._dirty:
            self._try_undo()
        self._close_files()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _refuse_unfit(
        self,
        key: str,
        axes: dict[str, AxisValue],  # noqa: ARG002 (a format may refuse some axes)
        form: PageFormat,
    ) -> None:
        """Refuse a frame that would make the dataset unreadable or ambiguous."""
        if key in self._written.keys:
            raise OutputError(
                f"{self.path} holds frame {key} already, and frames are never overwritten: "
                "skip it, or write to another --output"
            )
        if form != (self._written.format or form):
            raise OutputError(
                f"frame {key} has {form}, but the frames of {self.path} have "
                f"{self._written.format}: write it to another --output"
            )

    def _try_undo(self) -> None:
        with contextlib.suppress(OSError):
            self._undo()
            self._dirty = False

    @abstractmethod
    def _append(
        self, pixels: Pixels, axes: dict[str, AxisValue], text: bytes, metadata: Metadata
    ) -> None:
        """Write a frame and take it into `Written`; `text` is its metadata as JSON."""

    @abstractmethod
    def _undo(self) -> None:
        """Remove what was written of a frame that failed; may be called again."""

    @abstractmethod
    def _close_files(self) -> None: ...


def json_bytes(value: Mapping[str, Any], what: str) -> bytes:
    """ASCII JSON of metadata; numpy's numbers and arrays as plain ones.

    Parameters
    ----------
    value : mapping
    what : str
        Named in the error, e.g. ``"the summary metadata"``.

    Raises
    ------
    OutputError
        If something in it has no JSON form.
    """
    try:
        return json.dumps(value, default=_plain).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise OutputError(
            f"{what} cannot be written: {error}; leave it out or make it a number or a string"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r} of type {type(value).__name__} has no JSON form")


def with_mark(summary: Mapping[str, Any], mark: Mapping[str, Any]) -> dict[str, Any]:
    """Summary metadata with the sink's mark under ``refocusd``."""
    ours = summary.get("refocusd")
    return {**summary, "refocusd": {**(ours if isinstance(ours, Mapping) else {}), **mark}}


def refuse_foreign(path: Path, found: object, mark: Mapping[str, Any]) -> None:
    """Refuse to append to a dataset that does not carry the sink's mark.

    Raises
    ------
    OutputError
    """
    if not isinstance(found, dict) or not found.items() >= mark.items():
        raise OutputError(
            f"{path} was not written by this version of refocusd, and nothing is appended to it: "
            "choose another --output"
        )


@contextlib.contextmanager
def opened_files(path: Path, doing: str) -> Iterator[contextlib.ExitStack]:
    """Files that stay open unless the block fails; an `OSError` becomes an `OutputError`.

    Parameters
    ----------
    path : Path
        The dataset's folder.
    doing : str
        Named in the error, e.g. ``"starting a dataset"``.
    """
    try:
        with contextlib.ExitStack() as files:
            yield files
            files.pop_all()
    except OSError as error:
        raise write_error(error, path, doing) from error


def refuse_existing(path: Path) -> None:
    """Refuse to start a dataset at a path that exists.

    Raises
    ------
    OutputError
    """
    if path.exists() or path.is_symlink():
        raise OutputError(
            f"{path} exists already, and is not overwritten: choose another --output, or resume "
            "what is there"
        )


def refuse_missing(path: Path, list_of_frames: Path) -> None:
    """Refuse to append to a folder without a list of frames.

    Raises
    ------
    OutputError
    """
    if not (path / list_of_frames).is_file():
        raise OutputError(
            f"{path} holds no {list_of_frames}, so there is no dataset to append to: "
            "name the folder of a refocused dataset, or start a new one"
        )


def refuse_within(output: Path, dataset: Path) -> None:
    """Refuse to write into the folder of a dataset, or over its file.

    All of a drive lies within a dataset in its root: only image files beside its own are refused.

    Raises
    ------
    OutputError
    """
    place, folder = output.resolve(), dataset.resolve()
    around: Sequence[Path] = place.parents
    if folder == folder.parent:
        around = [place.parent] if place.suffix.lower() in (".tif", ".tiff") else []
    if folder == place or (folder.is_dir() and folder in around):
        raise OutputError(
            f"{output} lies within the dataset {dataset}, whose readers would take it for a part of it: "
            "choose another --output"
        )
