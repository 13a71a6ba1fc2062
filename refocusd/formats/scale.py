"""Sizes of pixels and planes, and names of channels, in Micro-Manager's metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refocusd.formats.metadata import MOST_MS, finite_number
from refocusd.frame import Axes, AxisValue
from refocusd.profiles.microscope_metadata import (
    number_within,
    pixel_um_of,
    stage_position_um,
    stated_number,
)

#: Codes of channels in plate readers' file names: ``w1``, ``C01``, ``ch2``.
_CHANNEL_CODE = re.compile(r"[a-z]{1,2}\d{1,2}", re.IGNORECASE)


#: Smallest plausible interval in ms or step in um, and the largest step: 1 cm.
_LEAST, _MOST_STEP_UM = 1e-6, 1e4
_STEPS = ("z-step_um", "zStep_um", "Z-step_um", "z-step_um_Intended")


@dataclass(frozen=True, slots=True)
class Scale:
    """Length of one step along each axis; None if it is not known.

    Parameters
    ----------
    pixel_um : float or None
        Width and height of a pixel in um.
    z_um : float or None
        Distance between planes in um.
    interval_s : float or None
        Time between time points in s.
    """

    pixel_um: float | None = None
    z_um: float | None = None
    interval_s: float | None = None


def scale_of(metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> Scale:
    """Scale of an acquisition.

    Parameters
    ----------
    metadata : mapping
        Of any of its frames: Micro-Manager states the pixel size in each.
    summary : mapping
        Of the whole acquisition.
    """
    interval_ms = number_within(summary, ("Interval_ms", "WaitInterval"), _LEAST, MOST_MS)
    return Scale(
        pixel_um=pixel_um_of(metadata, summary),
        # A stack may be taken from the top downwards, but the distance between planes has no sign.
        z_um=_plausible_step_um(*map(summary.get, ("z-step_um", "zStep_um")), unsigned=True),
        interval_s=None if interval_ms is None else interval_ms / 1000,
    )


def z_position_um(metadata: Mapping[str, Any]) -> float | None:
    """Position of the focus drive for a frame, in um; None if it is not recorded."""
    return stage_position_um(metadata, "Z")


def z_step_um(a: tuple[int, float], b: tuple[int, float]) -> float | None:
    """Distance between planes in um, from the number and stage position (um) of two planes."""
    if a[0] == b[0] or a[1] == b[1]:
        return None
    # Stages report binary fractions of a um; digits below a pm mean nothing.
    return _plausible_step_um(round(abs(b[1] - a[1]) / abs(b[0] - a[0]), 6))


def stated_z_step_um(summary: Mapping[str, Any]) -> float | None:
    """Distance between planes in um as the summary states it; negative if downwards."""
    return _plausible_step_um(*map(summary.get, _STEPS))


def implausible_z_step(summary: Mapping[str, Any]) -> str:
    """The distance between planes that the summary states, if no focus drive can have it; otherwise empty."""
    return "" if stated_z_step_um(summary) is not None else stated_number(_STEPS, summary)


def numbered_z_um(axes: Axes, summary: Mapping[str, Any]) -> float | None:
    """Position of a plane in um, from its number and the stated plane distance; None if one is missing.

    Plane 0 is at 0 um, so positions can be compared only within one recording.
    """
    plane, step_um = axes.get("z"), stated_z_step_um(summary)
    return plane * step_um if isinstance(plane, int) and step_um else None


def channel_label(
    value: AxisValue | None, summary: Mapping[str, Any], metadata: Mapping[str, Any] = {}
) -> str:
    """Name of a channel by its value on the axis; empty if only its number is known.

    Micro-Manager lists the names of numbered channels in its summary.  Frames of the only channel
    may have no axis for it.

    Parameters
    ----------
    value : int, str or None
    summary : mapping
        Of the acquisition.
    metadata : mapping
        Of one of the channel's frames; it names the dye where file names have only a code.
    """
    said = metadata.get("Channel")
    said = said if isinstance(said, str) and said != "Default" else ""
    if isinstance(value, str):
        return (said if _CHANNEL_CODE.fullmatch(value) else "") or value
    return _listed_channel(value, summary) or said


def _listed_channel(value: int | None, summary: Mapping[str, Any]) -> str:
    names = summary.get("ChNames")
    if value is None and isinstance(names, list) and len(names) == 1:
        value = 0
    if value is None or not isinstance(names, list) or not 0 <= value < len(names):
        return ""
    return str(names[value])


def channel_colour(value: AxisValue | None, summary: Mapping[str, Any]) -> str:
    """Colour of a channel by its value on the axis, as RRGGBB; empty if it is not known.

    Micro-Manager lists the colours of channels in its summary, as ARGB numbers.  If several
    channels have the same colour, it is a default that nobody chose.
    """
    names, colours = summary.get("ChNames"), summary.get("ChColors")
    if not isinstance(colours, list) or (len(colours) > 1 and len(set(map(str, colours))) == 1):
        return ""
    if isinstance(value, str):
        value = names.index(value) if isinstance(names, list) and value in names else -1
    if value is None and len(colours) == 1:
        value = 0
    colour = colours[value] if value is not None and 0 <= value < len(colours) else None
    return f"{colour & 0xFFFFFF:06X}" if type(colour) is int else ""


def _plausible_step_um(*values: Any, unsigned: bool = False) -> float | None:
    """The first of some values that a focus drive can move from one plane to the next, in um."""
    steps = (finite_number(value) for value in values)
    found = (um for um in steps if um is not None and _LEAST <= abs(um) <= _MOST_STEP_UM)
    um = next(found, None)
    return abs(um) if unsigned and um is not None else um
