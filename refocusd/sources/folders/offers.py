"""Finished datasets that were never refocused: offered with the command, never taken."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from refocusd.datasets.derived_id import derived_id
from refocusd.datasets.run_folder import made_by, refocused_path
from refocusd.formats.dataset import Dataset
from refocusd.formats.ndtiff.reader import place_of

__all__ = ["Offer", "acquisition_id", "output_beside", "refocused_as"]


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
    return refocused_as(dataset.path) or derived_id(dataset, first)
