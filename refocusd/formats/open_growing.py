"""Opening a dataset that may be growing."""

from __future__ import annotations

import os
from pathlib import Path

from refocusd.errors import InputError
from refocusd.formats.growing import GrowingDataset
from refocusd.formats.ndtiff.growing import GrowingNDTiff
from refocusd.formats.ndtiff.index import INDEX_NAME
from refocusd.formats.tiff.growing_file import Opener, open_file
from refocusd.formats.tiff.growing_stacks import GrowingStacks, is_stack_name

__all__ = ["kind_of", "open_growing"]


def kind_of(names: list[str]) -> str:
    """What a folder with files of these names is: ``ndtiff``, ``stacks`` or nothing."""
    if INDEX_NAME in names:
        return "ndtiff"
    return "stacks" if any(is_stack_name(name) for name in names) else ""


def open_growing(folder: str | Path, opener: Opener = open_file) -> GrowingDataset:
    """Open a dataset that may be growing, and read what there is of it.

    Parameters
    ----------
    folder : path
    opener : callable
        Opens its files.

    Raises
    ------
    InputError
        If the folder holds neither an NDTiff dataset nor Micro-Manager's image stacks, or
        cannot be read.
    """
    folder = Path(folder)
    try:
        kind = kind_of(os.listdir(folder))  # noqa: PTH208 (names only)
        if not kind:
            raise InputError(
                f"{folder} holds neither an NDTiff dataset nor image stacks of Micro-Manager: give "
                "the folder of one"
            )
        dataset: GrowingDataset
        dataset = (
            GrowingNDTiff(folder, opener) if kind == "ndtiff" else GrowingStacks(folder, opener)
        )
        while dataset.refresh():
            pass
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error}): check it and its share") from error
    return dataset
