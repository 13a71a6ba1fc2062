"""Datasets read while another process writes them.

=================  ==========================================================
`GrowingDataset`   what the follower sees of one, whatever its format
`GrowingFrames`    frames by their axes, in files that grow: what formats share
=================  ==========================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from refocusd.errors import InputError
from refocusd.formats.tiff.growing_file import GrowingFile, Opener, Place, open_file
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Frame

__all__ = ["GrowingDataset", "GrowingFrames"]


class GrowingDataset(Protocol):
    """Frames of a dataset that is being written; for one thread.

    Attributes
    ----------
    path : Path
        The dataset's folder, resolved: what the daemon is told as raw.
    name : str
        Of the dataset, to name its output by.
    """

    path: Path
    name: str

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the dataset says of the whole acquisition; empty while it does not."""

    @property
    def finished(self) -> bool:
        """Whether its writer closed it: no frame will come any more."""

    def refresh(self) -> list[str]:
        """Take up what was written since.

        Returns
        -------
        list of str
            Canonical axes of frames that are named now and were not before.

        Raises
        ------
        OSError
            If the files cannot be read: the share is away, or the dataset was deleted.
        InputError
            If this is no such dataset (any more).
        """

    def axes_keys(self) -> list[str]:
        """Canonical axes of all frames known so far, in the order of writing."""

    def unlisted(self) -> set[str]:
        """Frames that the dataset's own index does not name (yet)."""

    def unusable(self) -> dict[str, str]:
        """Frames that were found and cannot be taken, and why, since the last call."""

    def format_of(self, key: str) -> PageFormat:
        """Shape and type of a frame, without reading it."""

    def is_whole(self, key: str) -> bool:
        """Whether pixels and metadata of a frame are on disk.

        Raises
        ------
        OSError
        """

    def read(self, key: str) -> Frame:
        """One frame with its metadata, read from disk now.

        Raises
        ------
        InputError
            If it is not (wholly) there.
        OSError
        """

    def close(self) -> None:
        """Close all files until the next read."""


class GrowingFrames:
    """What the formats share: frames by canonical axes, each at a place in a file.

    Parameters
    ----------
    path : Path
        The dataset's folder.
    opener : callable
        Opens its files.
    """

    def __init__(self, path: Path, opener: Opener = open_file) -> None:
        self.path = path.resolve()
        self.name = self.path.name
        self._opener = opener
        self._frames: dict[str, tuple[str, Place]] = {}
        self._unusable: dict[str, str] = {}
        self._file: tuple[str, GrowingFile] | None = None

    def axes_keys(self) -> list[str]:
        """Canonical axes of all frames known so far, in the order of writing."""
        return list(self._frames)

    def unlisted(self) -> set[str]:
        """Frames that the dataset's own index does not name (yet)."""
        return set()

    def unusable(self) -> dict[str, str]:
        """Frames that were found and cannot be taken, and why, since the last call."""
        found, self._unusable = self._unusable, {}
        return found

    def format_of(self, key: str) -> PageFormat:
        """Shape and type of a frame, without reading it."""
        return self._place(key)[1].format

    def is_whole(self, key: str) -> bool:
        """Whether pixels and metadata of a frame are on disk: the metadata are written last."""
        name, place = self._place(key)
        return self._in(name).metadata(place.metadata_offset, place.metadata_length) is not None

    def read(self, key: str) -> Frame:
        """One frame with its metadata, read from disk now."""
        name, place = self._place(key)
        file = self._in(name)
        metadata = file.metadata(place.metadata_offset, place.metadata_length)
        if metadata is None:
            raise InputError(f"frame {key} of {self.path} is not wholly in {name} (yet)")
        return Frame(file.pixels(place, f"frame {key}"), json.loads(key), metadata)

    def close(self) -> None:
        """Close all files until the next read."""
        if self._file is not None:
            self._file[1].close()
            self._file = None

    def _place(self, key: str) -> tuple[str, Place]:
        try:
            return self._frames[key]
        except KeyError:
            raise InputError(f"{self.path} has no frame {key}") from None

    def _in(self, name: str) -> GrowingFile:
        """The file of a name, with the one before it closed."""
        if self._file is None or self._file[0] != name:
            self.close()
            self._file = (name, GrowingFile(self.path / name, self._opener))
        return self._file[1]
