"""The id of an acquisition that refocusd did not see being acquired."""

from __future__ import annotations

import json
import os
import uuid

from refocusd.formats.dataset import Dataset
from refocusd.frame import checksum

__all__ = ["derived_id"]

_NAMESPACE = uuid.UUID("5d8f0a3e-64b7-4f0c-9a53-2a6c1f1f0f53")


def derived_id(dataset: Dataset, first: str) -> str:
    """Made of where a dataset lies and of its frame `first`: the same each time.

    Raises
    ------
    InputError, OSError
        If that frame cannot be read.
    """
    pixels = dataset.read(first).pixels
    content = [
        os.path.normcase(dataset.path),
        first,
        list(pixels.shape),
        pixels.dtype.name,
        checksum(pixels),
    ]
    return str(uuid.uuid5(_NAMESPACE, json.dumps(content)))
