"""The id of an acquisition that was made without refocusd."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from refocusd.frame import Frame, checksum

__all__ = ["derived_id"]

_NAMESPACE = uuid.UUID("5d8f0a3e-64b7-4f0c-9a53-2a6c1f1f0f53")


def derived_id(path: Path, key: str, first: Frame) -> str:
    """An id that is derived from a raw dataset's path and first frame; the same each time.

    Parameters
    ----------
    path : Path
        The dataset's folder or file, resolved.
    key : str
        Canonical axes of its first frame.
    first : Frame
        That frame.
    """
    pixels = first.pixels
    place = os.path.normcase(path)
    content = [place, key, pixels.shape, pixels.dtype.name, checksum(pixels)]
    return str(uuid.uuid5(_NAMESPACE, json.dumps(content)))
