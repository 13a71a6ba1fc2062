"""Finished datasets that were never refocused: the command for them, and their output."""

from __future__ import annotations

from pathlib import Path

from refocusd.datasets.run_folder import made_by, refocused_path
from refocusd.files import in_command
from refocusd.formats.ndtiff.reader import place_of
from refocusd.formats.open_dataset import stem_of


def command_for(path: Path) -> str:
    """The command that refocuses a dataset."""
    return f"refocusd process {in_command(path)}"


def output_beside(path: Path) -> Path:
    """Folder of the refocused frames of a raw dataset."""
    if path.is_file():
        # The name that `refocusd process` gives it.
        return refocused_path(path.with_name(stem_of(path)))
    return refocused_path(place_of(path))


def refocused_as(path: Path) -> str:
    """Id of the acquisition under which a dataset was (partly) refocused; empty if it never was."""
    acquisition = made_by(output_beside(path)).get("acquisition")
    return acquisition if isinstance(acquisition, str) else ""
