"""Finished datasets that were never refocused: offered with the command, never taken."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from refocusd.formats.growing import GrowingDataset
from refocusd.formats.ndtiff.growing import FULL_RESOLUTION
from refocusd.transport.ring import checksum

__all__ = ["Offer", "acquisition_id", "output_beside", "refocused_as"]

_RUN_FILE = "refocusd.json"
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
    place = path.parent if path.name == FULL_RESOLUTION else path
    return place.with_name(place.name + "_refocused")


def refocused_as(path: Path) -> str:
    """The acquisition that a dataset was (partly) refocused as; empty if it never was."""
    output = output_beside(path)
    for file in (output / "refocusd" / _RUN_FILE, output / _RUN_FILE):
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        acquisition = said.get("acquisition") if isinstance(said, dict) else None
        if isinstance(acquisition, str):
            return acquisition
    return ""


def acquisition_id(dataset: GrowingDataset, first: str) -> str:
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
