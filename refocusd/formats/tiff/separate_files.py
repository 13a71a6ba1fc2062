"""Micro-Manager's separate image files while they are written: one file per frame, and their metadata.

A position has a folder of its own, made with its first image.  In it ``metadata.txt`` gets a
frame's entry once its file is written, and its closing bracket at the end of the acquisition.

Source: micro-manager ``StorageSinglePlaneTiffSeries.java``.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.metadata import java_text
from refocusd.formats.tiff.micromanager import named_axes, said_axes
from refocusd.formats.tiff.page import MAX_FRAME_BYTES, PageFormat
from refocusd.formats.tiff.reader import TiffImageFile
from refocusd.frame import Pixels, canonical_axes

#: Beside the files of a position.
METADATA_FILE = "metadata.txt"
_IMAGE = re.compile(r"img_.*\.tiff?$", re.IGNORECASE)
_KEY = re.compile(r'\ufeff?\s*[{,]?\s*"((?:[^"\\]|\\.)*)"\s*:\s*')
#: Encodings in which editors on Windows may save it, with a byte order mark.
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_END = re.compile(r"\s*}\s*")
#: Bytes that hold the summary and the first frame's entry.
_HEAD_BYTES = 1 << 20


def is_image_name(name: str) -> bool:
    """Whether a file of this name is one of Micro-Manager's separate images."""
    return _IMAGE.match(name) is not None


def run_of(folder: Path) -> Path | None:
    """The dataset that a folder of separate images belongs to: itself, or the folder around it.

    None while that is unknown, because no frame has an entry yet.

    Raises
    ------
    OSError
    """
    with (folder / METADATA_FILE).open("rb") as file:
        head = java_text(file.read(_HEAD_BYTES))
    # Entries name their file within the dataset; version 1.4 calls its folders Pos0, Pos1, ...
    if f"-{folder.name}/img_" in head or re.fullmatch(r"Pos\d+", folder.name):
        return folder.parent
    return folder if re.search(r'"(?:Metadata-|FrameKey-)', head) else None


@dataclass(slots=True)
class _Notes:
    """How far a position's metadata were read."""

    summary: dict[str, Any]
    read: int = 0
    ended: bool = False


class GrowingSeparateFiles(Dataset):
    """Separate image files in a dataset's folder, or in the folders of its positions.

    Parameters
    ----------
    path : Path
    """

    source = f"Micro-Manager's {METADATA_FILE}"
    _frames: dict[str, tuple[Path, dict[str, Any]]]

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.catch_up_from = str(self.path)
        self._notes: dict[Path, _Notes] = {}
        self._image: TiffImageFile | None = None

    @property
    def summary(self) -> dict[str, Any]:
        """Metadata of the whole acquisition, from the first position; empty while there are none."""
        return next((notes.summary for notes in self._notes.values()), {})

    @property
    def finished(self) -> bool:
        """Whether the metadata of every position are complete."""
        return bool(self._notes) and all(notes.ended for notes in self._notes.values())

    def refresh(self) -> list[str]:
        """Find the frames whose entry was written since the last call."""
        own = (self.path / METADATA_FILE).is_file()
        folders = [self.path] if own else sorted(_positions(self.path))
        if not folders and self._notes:
            raise FileNotFoundError(f"the separate image files of {self.path} are gone")
        return [key for folder in folders for key in self._from_notes(folder)]

    def close(self) -> None:
        """Close the open file until the next read."""
        if self._image is not None:
            self._image.close()
            self._image = None

    def _from_notes(self, folder: Path) -> Iterator[str]:
        notes = self._notes.setdefault(folder, _Notes({}))
        if notes.ended:
            return
        with (folder / METADATA_FILE).open("rb") as file:
            file.seek(notes.read)
            data = file.read()
        text, coding = _decoded(data)
        at = 0
        for end, name, value in entries_in(text):
            at = end
            if name == "Summary":
                notes.summary = value
            elif name.startswith(("Metadata-", "FrameKey-")):
                yield from self._note(folder, name, value, notes.summary)
        notes.ended = bool(_END.fullmatch(text, at))
        notes.read += len(text[:at].encode(coding, "replace"))

    def _note(
        self, folder: Path, name: str, said: dict[str, Any], summary: dict[str, Any]
    ) -> Iterator[str]:
        axes = said_axes(said)
        if not axes:
            return
        if len(self._notes) > 1:
            axes.setdefault("position", list(self._notes).index(folder))
        key = canonical_axes(named_axes(axes, summary))
        file = str(said.get("FileName") or name).rpartition("/")[2]
        known = self._frames.setdefault(key, (folder / file, said))
        if known[0].parent != folder:
            self._unusable[key] = f"{folder / file} has the axes of {known[0]}"
        elif known[1] is said:
            yield key

    def _format(self, key: str) -> PageFormat:
        return self._file(key).format

    def _metadata(self, key: str) -> dict[str, Any]:
        path, said = self._frames[key]
        return {**said, "FileName": path.name}

    def _pixels(self, key: str) -> Pixels:
        return self._file(key).read(0)

    def _file(self, key: str) -> TiffImageFile:
        path, _ = self._frames[key]
        if self._image is None or self._image.path != path:
            self.close()
            image = TiffImageFile(path, MAX_FRAME_BYTES)
            if len(image.axes) != 1:
                raise InputError(f"{path} has {len(image.axes)} pages, where one was expected")
            self._image = image
        return self._image


def _positions(path: Path) -> Iterator[Path]:
    for entry in os.scandir(path):
        folder = Path(entry.path)
        if entry.is_dir() and (folder / METADATA_FILE).is_file():
            yield folder


def _decoded(data: bytes) -> tuple[str, str]:
    """Text that is being written, and its encoding; a character cut off at the end is left out."""
    for mark, coding in _UTF16.items():
        if data.startswith(mark):
            return data.decode(coding, "replace"), coding
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        if error.start >= len(data) - 3:
            return data[: error.start].decode("utf-8"), "utf-8"
        return java_text(data), "cp1252"


def entries_in(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Whole entries of a JSON object that is being written: where each ends, its name and its value."""
    decoder = json.JSONDecoder()
    at = 0
    while (match := _KEY.match(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict):
            yield at, match[1], value
