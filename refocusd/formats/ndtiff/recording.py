"""An NDTiff dataset as a recording."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from refocusd.errors import InputError
from refocusd.formats.ndtiff.index import INDEX_NAME
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.formats.recording import RecordingPlan
from refocusd.formats.tiff.arrangement import json_object, number_or_none, plausible_pixel_um
from refocusd.frame import Frame, plain_axes

__all__ = ["NDTiffRecording", "ndtiff_folder"]

#: Version 2 keeps a multi-resolution dataset's frames in this folder.
_FULL_RESOLUTION = "Full resolution"
_MAGIC = 483729


class NDTiffRecording:
    """A `Recording` of what is in an NDTiff dataset when it is opened.

    Parameters
    ----------
    path : Path
        The dataset's folder.
    max_frame_bytes : int
        A frame that claims to be larger is an error.

    Raises
    ------
    InputError
        If there is no frame, the index or a frame's metadata is damaged, or
        frames differ in shape or type.
    """

    def __init__(self, path: Path, *, max_frame_bytes: int) -> None:
        self.path = path
        self.name = path.parent.name if path.name == _FULL_RESOLUTION else path.name
        self._reader = NDTiffReader(path, max_frame_bytes=max_frame_bytes)
        self._keys = self._reader.axes_keys()
        try:
            self._plan = self._planned()
        finally:
            self._reader.close()

    def plan(self) -> RecordingPlan:
        """Return what the recording holds; the same object at each call."""
        return self._plan

    def read(self, index: int) -> Frame:
        """Frame number `index` of the plan, read from disk now.

        Raises
        ------
        InputError
            If there is no such frame, or it cannot be read.
        """
        if not 0 <= index < len(self._keys):
            raise InputError(f"{self.path} has {len(self._keys)} frames, none of number {index}")
        return self._reader.read(self._keys[index])

    def close(self) -> None:
        """Close the open file; closing twice does no harm."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _planned(self) -> RecordingPlan:
        missing = len(self._reader.missing_keys())
        if not self._keys:
            raise InputError(
                f"{self.path} is an NDTiff dataset without a frame"
                + (f": the pixels of {missing} are not in its files" if missing else "")
                + "; give one that was acquired, or wait for its first frame"
            )
        first = self._reader.format_of(self._keys[0])
        for key in self._keys:
            if (form := self._reader.format_of(key)) != first:
                raise InputError(
                    f"{self.path} has frames of different formats: {key} is {form}, and "
                    f"{self._keys[0]} is {first}; a recording has one"
                )
        said = [self._reader.metadata(key) for key in self._keys]
        summary = self._reader.summary
        sizes = (
            said[0].get("PixelSizeUm"),
            said[0].get("PixelSize_um"),
            summary.get("PixelSize_um"),
        )
        um = next((size for value in sizes if (size := number_or_none(value))), None)
        return RecordingPlan(
            axes=tuple(plain_axes(json_object(key) or {}) for key in self._keys),
            elapsed_ms=_elapsed_ms(said),
            height=first.height,
            width=first.width,
            dtype=first.dtype,
            pixel_um=plausible_pixel_um(um),
            summary=summary,
            missing=missing,
        )


def _elapsed_ms(said: Sequence[Mapping[str, Any]]) -> tuple[float | None, ...]:
    """When each frame was taken.

    A hardware-triggered sequence has one ``ElapsedTime-ms`` for all of its
    frames; there the time at which each one reached the core is to be used.
    """
    received = [_time(metadata.get("TimeReceivedByCore")) for metadata in said]
    times = [time for time in received if time is not None]
    if len(times) == len(received):
        try:
            return tuple((time - min(times)).total_seconds() * 1000 for time in times)
        except TypeError:
            # Some with and some without a time zone: not one clock.
            pass
    return tuple(number_or_none(metadata.get("ElapsedTime-ms")) for metadata in said)


def _time(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def ndtiff_folder(path: Path) -> Path | None:
    """Find the NDTiff dataset that a path stands for; None if it stands for none.

    Raises
    ------
    InputError
        If it is the parent of several.
    """
    if path.is_file():
        return path.parent if path.name == INDEX_NAME or _is_stack_of_dataset(path) else None
    for folder in (path, path / _FULL_RESOLUTION):
        if (folder / INDEX_NAME).is_file():
            return folder
    inner = sorted(entry.parent for entry in path.glob(f"*/{INDEX_NAME}"))
    names = {folder.name for folder in inner}
    # Our own output lies beside the raw dataset that it was made from.
    inner = [f for f in inner if f.name.removesuffix("_refocused") not in names - {f.name}]
    if len(inner) > 1:
        raise InputError(
            f"{path} holds {len(inner)} NDTiff datasets ({', '.join(f.name for f in inner[:5])}"
            f"{', ...' if len(inner) > 5 else ''}): give one of them"
        )
    return inner[0] if inner else None


def _is_stack_of_dataset(path: Path) -> bool:
    if not (path.parent / INDEX_NAME).is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return len(head) == 12 and struct.unpack("<I", head[8:])[0] == _MAGIC
