"""What metadata of frames and acquisitions say: numbers, sizes and times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

__all__ = ["elapsed_ms", "json_object", "number_or_none", "pixel_um_of", "plausible_pixel_um"]


def json_object(text: str | None) -> dict[str, Any] | None:
    """Parse the JSON object in a text, or None."""
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def pixel_um_of(metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> float | None:
    """Width of a pixel in um by a frame's metadata, or by the summary."""
    sizes = (
        metadata.get("PixelSizeUm"),
        metadata.get("PixelSize_um"),
        summary.get("PixelSize_um"),
    )
    return plausible_pixel_um(next((um for size in sizes if (um := number_or_none(size))), None))


def plausible_pixel_um(um: float | None) -> float | None:
    """Return the pixel size if a light microscope can have it, else None.

    Many files carry 72 dots per inch, or 1 for "unknown" in some unit.
    """
    return um if um is not None and 0.001 <= um <= 100 else None


def number_or_none(value: Any) -> float | None:
    """Return a finite number that is not negative, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < float("inf") else None


def elapsed_ms(said: Sequence[Mapping[str, Any]]) -> tuple[float | None, ...]:
    """When each frame was taken.

    A hardware-triggered sequence has one ``ElapsedTime-ms`` for all of its
    frames; there the time at which each one reached the core is to be used.
    """
    received = [_time(metadata.get("TimeReceivedByCore")) for metadata in said]
    times = [time for time in received if time is not None]
    if len(times) == len(received):
        try:
            return tuple((time - min(times)).total_seconds() * 1000 for time in times)
        except TypeError:
            # Some with and some without a time zone: not one clock.
            pass
    return tuple(number_or_none(metadata.get("ElapsedTime-ms")) for metadata in said)


def _time(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
