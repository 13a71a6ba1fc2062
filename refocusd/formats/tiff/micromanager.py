"""Axes of a frame by Micro-Manager's metadata: its own, and the summary of the acquisition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refocusd.frame import AxisValue, plain_axes

#: Names, in the summary, of the number of frames along each axis.
_SIZES = {"time": "Frames", "z": "Slices", "channel": "Channels", "position": "Positions"}
#: Names, in a page's metadata, of its place along each axis.
_INDICES = {
    "time": ("FrameIndex", "Frame"),
    "z": ("SliceIndex", "Slice"),
    "channel": ("ChannelIndex",),
    "position": ("PositionIndex",),
}


def named_axes(axes: Mapping[str, AxisValue], summary: Mapping[str, Any]) -> dict[str, AxisValue]:
    """Axes of a frame, with the choice and the names that the summary alone determines.

    The summary is there before the first frame.  An axis along which it announces one frame
    is left out.  Channels have their names if each has one of its own.
    """
    kept = {
        axis: value
        for axis, value in axes.items()
        if not (value == 0 and summary.get(_SIZES.get(axis, "")) == 1)
    }
    channel, names = axes.get("channel"), summary.get("ChNames")
    if isinstance(channel, int) and isinstance(names, list) and _tell_apart(names):
        # The last is Micro-Manager's name for a channel without one.
        kept["channel"] = names[channel] if 0 <= channel < len(names) else f"channel {channel}"
    return kept or {"time": 0}


def _tell_apart(names: list[Any]) -> bool:
    """Whether names can stand for channels: all are given, and all differ."""
    given = all(isinstance(name, str) and name not in ("", "Default") for name in names)
    return bool(names) and given and len(set(names)) == len(names)


def said_axes(said: Mapping[str, Any]) -> dict[str, AxisValue]:
    """Axes that a page's metadata give; empty where they give none."""
    axes = said.get("Axes")
    if isinstance(axes, dict) and axes:
        return plain_axes(axes)
    found: dict[str, AxisValue] = {}
    for name, keys in _INDICES.items():
        value = next((said[key] for key in keys if type(said.get(key)) is int), -1)
        if value >= 0:
            found[name] = value
    return found
