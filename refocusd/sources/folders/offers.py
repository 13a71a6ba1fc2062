"""Finished datasets that were never refocused: offered with the command, never taken."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from refocusd.datasets.run_folder import made_by, refocused_path
from refocusd.formats.ndtiff.growing import FULL_RESOLUTION

__all__ = ["Offer", "output_beside", "refocused_as"]


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
    return refocused_path(place)


def refocused_as(path: Path) -> str:
    """The acquisition that a dataset was (partly) refocused as; empty if it never was."""
    acquisition = made_by(output_beside(path)).get("acquisition")
    return acquisition if isinstance(acquisition, str) else ""
