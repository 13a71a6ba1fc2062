"""Finished datasets that were never refocused: offered with the command, never taken."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from refocusd.datasets.run_folder import made_by, refocused_path
from refocusd.formats.dataset import Dataset
from refocusd.formats.ndtiff.reader import place_of
from refocusd.frame import checksum

__all__ = ["Offer", "acquisition_id", "output_beside", "refocused_as"]

#: That of `refocusd process`: both give a dataset the same id.
_NAMESPACE = uuid.UUID("5d8f0a3e-64b7-4f0c-9a53-2a6c1f1f0f53")


@dataclass(frozen=True, slots=True)
class Offer:
    """A dataset that can be refocused with one command.

    Parameters
    ----------
    path : Path
        Its folder.
    """

    path: Path

    @property
    def command(self) -> str:
        """What to type."""
        words = ["refocusd", "process", str(self.path)]
        return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def output_beside(path: Path) -> Path:
    """Where the refocused frames of a raw dataset go."""
    return refocused_path(place_of(path))


def refocused_as(path: Path) -> str:
    """The acquisition that a dataset was (partly) refocused as; empty if it never was."""
    acquisition = made_by(output_beside(path)).get("acquisition")
    return acquisition if isinstance(acquisition, str) else ""


def acquisition_id(dataset: Dataset, first: str) -> str:
    """The id of the acquisition that a dataset is of, the same each time.

    That of its refocused frames, if there are some; otherwise made of where it lies and of its
    first frame, `first`.

    Raises
    ------
    InputError, OSError
        If that frame cannot be read.
    """
    if known := refocused_as(dataset.path):
        return known
    pixels = dataset.read(first).pixels
    content = [
        os.path.normcase(dataset.path),
        first,
        list(pixels.shape),
        pixels.dtype.name,
        checksum(pixels),
    ]
    return str(uuid.uuid5(_NAMESPACE, json.dumps(content)))
