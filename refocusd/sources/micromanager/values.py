"""Values from Java as plain Python values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.frame import Pixels, checked_pixels


def flat_properties(text: Any) -> dict[str, Any]:
    """The JSON of a Micro-Manager property map as a flat mapping; empty if it is not one.

    >>> flat_properties('{"map": {"Camera": {"type": "STRING", "scalar": "Demo"}}}')
    {'Camera': 'Demo'}
    """
    try:
        said = json.loads(text)
    except (TypeError, ValueError):
        return {}
    entries = said.get("map", said) if isinstance(said, dict) else {}
    if not isinstance(entries, dict):
        return {}
    return {str(name): _value(entry) for name, entry in entries.items()}


def _value(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    if "scalar" in entry:
        scalar = entry["scalar"]
        if entry.get("type") == "PROPERTY_MAP" and isinstance(scalar, Mapping):
            return {str(name): _value(inner) for name, inner in scalar.items()}
        return scalar
    return entry.get("array", entry)


def image_of(pixels: Any, width: Any, height: Any, what: str) -> Pixels:
    """The flat array of pixels from the bridge as an image, shape (height, width).

    Parameters
    ----------
    pixels : ndarray of uint8 or uint16, shape (height * width,)
    width, height : int or str
        Numbers for snapped frames, text for streamed ones.
    what : str
        Named in the error.

    Raises
    ------
    InputError
        For RGB, float and other frames that refocusd does not take.
    """
    try:
        shape = (int(height), int(width))
    except (TypeError, ValueError):
        raise InputError(f"{what} has no size: width {width!r}, height {height!r}") from None
    if not isinstance(pixels, np.ndarray) or pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{what} has no 8 or 16 bit pixels; choose a mono pixel type")
    if pixels.size != shape[0] * shape[1]:
        raise InputError(
            f"{what} has {pixels.size} values for {shape[1]}×{shape[0]} px: an RGB camera? refocusd "
            "takes one channel a frame"
        )
    return checked_pixels(pixels.reshape(shape), what=what)
