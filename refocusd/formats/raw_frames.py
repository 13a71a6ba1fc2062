"""Raw frames on disk by their canonical axes, whatever kind of recording holds them.

An NDTiff dataset is read by its index alone, so that it may still be growing
and its length costs nothing; other recordings are planned first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.formats.ndtiff.recording import ndtiff_folder
from refocusd.formats.open_recording import open_recording
from refocusd.formats.recording import Recording
from refocusd.frame import DType, Frame, canonical_axes

__all__ = ["NDTiffFrames", "RawFrames", "RecordingFrames", "open_raw"]

#: NDTiff version 2 keeps a multi-resolution dataset's frames in this folder.
FULL_RESOLUTION = "Full resolution"


class RawFrames(Protocol):
    """Raw frames by key; a context manager, used by one thread.

    Attributes
    ----------
    path : Path
        The NDTiff dataset's folder, or the recording's file or folder.
    place : Path
        What its owner takes for the recording: `path`, or the folder around it.
    name : str
        Of the recording without folder and ending, to name its output by.
    """

    path: Path
    place: Path
    name: str

    @property
    def catch_up_from(self) -> str:
        """Folder from which a daemon can catch up by itself; empty if this is no NDTiff dataset."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the recording says of the whole acquisition."""

    def keys(self) -> Sequence[str]:
        """Canonical axes of the frames that can be read now, in the order of acquisition."""

    def missing_keys(self) -> Sequence[str]:
        """Canonical axes of frames that are named, but whose pixels are not there (yet)."""

    def format(self) -> tuple[tuple[int, int], DType]:
        """Shape (height, width) and type of the first frame.

        Raises
        ------
        InputError
            If there is none.
        """

    def read(self, key: str) -> Frame:
        """One frame, read from disk now.

        Raises
        ------
        InputError
            If there is no such frame, or it cannot be read.
        """

    def close(self) -> None:
        """Close all files."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_raw(path: str | Path) -> RawFrames:
    """Open raw frames of any kind that `open_recording` reads.

    Raises
    ------
    InputError
        If nothing there is a recording, or it cannot be used.
    """
    path = Path(path)
    try:
        if path.exists() and (folder := ndtiff_folder(path)) is not None:
            return NDTiffFrames(folder)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error}): check it and its permissions"
        ) from error
    return RecordingFrames(open_recording(path))


class _Closing:
    """What both kinds share: leaving the context closes the files."""

    def close(self) -> None:
        """Close all files."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class NDTiffFrames(_Closing):
    """Frames of an NDTiff dataset, finished or growing."""

    def __init__(self, folder: Path) -> None:
        # Resolved: "." has no name to call the output by.
        self.path = folder.resolve()
        self.place = self.path.parent if self.path.name == FULL_RESOLUTION else self.path
        self.name = self.place.name
        self._reader = NDTiffReader(self.path)

    @property
    def catch_up_from(self) -> str:
        """The dataset's folder."""
        return str(self.path)

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the first file's header says."""
        return self._reader.summary

    def keys(self) -> Sequence[str]:
        """Keys of the frames that can be read now, in the order of the index."""
        return self._reader.axes_keys()

    def missing_keys(self) -> Sequence[str]:
        """Keys whose pixels are not in their file (yet)."""
        return self._reader.missing_keys()

    def format(self) -> tuple[tuple[int, int], DType]:
        """Shape and type of the first frame."""
        first = next(iter(self._reader.axes_keys()), None)
        if first is None:
            raise InputError(
                f"{self.path} is an NDTiff dataset without a frame; give one that was acquired, or "
                "wait for its first frame"
            )
        form = self._reader.format_of(first)
        return (form.height, form.width), _dtype(form.dtype)

    def read(self, key: str) -> Frame:
        """One frame."""
        return self._reader.read(key)

    def close(self) -> None:
        """Close the open file."""
        self._reader.close()


class RecordingFrames(_Closing):
    """Frames of a recording of another kind: TIFF, PNG, folders of them."""

    def __init__(self, recording: Recording) -> None:
        self.path = self.place = recording.path.resolve()
        self.name = recording.name or self.path.name
        self._recording = recording
        self._plan = recording.plan()
        self._places = {canonical_axes(axes): n for n, axes in enumerate(self._plan.axes)}

    @property
    def catch_up_from(self) -> str:
        """Nothing: a daemon catches up from NDTiff datasets only."""
        return ""

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the recording says of itself."""
        return self._plan.summary

    def keys(self) -> Sequence[str]:
        """Keys of its frames, in the order of the plan."""
        return list(self._places)

    def missing_keys(self) -> Sequence[str]:
        """None: what is named but not there is left out when a recording is opened."""
        return []

    def format(self) -> tuple[tuple[int, int], DType]:
        """Shape and type of every frame."""
        return (self._plan.height, self._plan.width), _dtype(self._plan.dtype)

    def read(self, key: str) -> Frame:
        """One frame, with the recording's pixel size if it has none of its own."""
        place = self._places.get(key)
        if place is None:
            raise InputError(f"{self.path} has no frame {key}")
        frame = self._recording.read(place)
        if self._plan.pixel_um is None or "PixelSizeUm" in frame.metadata:
            return frame
        return Frame(
            frame.pixels, frame.axes, {**frame.metadata, "PixelSizeUm": self._plan.pixel_um}
        )

    def close(self) -> None:
        """Close all files."""
        self._recording.close()


def _dtype(dtype: np.dtype[Any]) -> DType:
    return "uint8" if dtype == np.uint8 else "uint16"
