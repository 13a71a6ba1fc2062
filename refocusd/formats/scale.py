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

#: What plate readers call channels in the names of files: ``w1``, ``C01``, ``ch2``.
_CHANNEL_CODE = re.compile(r"[a-z]{1,2}\d{1,2}", re.IGNORECASE)


#: Nothing is taken or moved in less of a ms or um, or more than a year or a cm apart.
_LEAST, _MOST_STEP_UM = 1e-6, 1e4
_STEPS = ("z-step_um", "zStep_um", "Z-step_um", "z-step_um_Intended")


@dataclass(frozen=True, slots=True)
class Scale:
    """Length of one step along each axis in the specimen; None if it is not known.

    Parameters
    ----------
    pixel_um : float or None
        Width and height of a pixel in um.
    z_um : float or None
        Distance of planes in um.
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
        Of any of its frames: Micro-Manager names the pixel size in each.
    summary : mapping
        Of the whole acquisition.
    """
    interval_ms = number_within(summary, ("Interval_ms", "WaitInterval"), _LEAST, MOST_MS)
    return Scale(
        pixel_um=pixel_um_of(metadata, summary),
        # Planes may be taken from the top downwards; their distance has no sign.
        z_um=_plausible_step_um(*map(summary.get, ("z-step_um", "zStep_um")), unsigned=True),
        interval_s=None if interval_ms is None else interval_ms / 1000,
    )


def z_position_um(metadata: Mapping[str, Any]) -> float | None:
    """Position of the focus drive for a frame."""
    return stage_position_um(metadata, "Z")


def z_step_um(a: tuple[int, float], b: tuple[int, float]) -> float | None:
    """Distance of planes in um, by the numbers and the stage positions of two of a stack."""
    if a[0] == b[0] or a[1] == b[1]:
        return None
    # Stages report binary fractions of a um; nothing is known below a pm.
    return _plausible_step_um(round(abs(b[1] - a[1]) / abs(b[0] - a[0]), 6))


def stated_z_step_um(summary: Mapping[str, Any]) -> float | None:
    """Distance of planes that the summary of an acquisition states, in um; negative if downwards."""
    return _plausible_step_um(*map(summary.get, _STEPS))


def implausible_z_step(summary: Mapping[str, Any]) -> str:
    """What the summary states for a distance of planes, and no focus drive moves; empty for most."""
    return "" if stated_z_step_um(summary) is not None else stated_number(_STEPS, summary)


def numbered_z_um(axes: Axes, summary: Mapping[str, Any]) -> float | None:
    """Position of a plane by its number and the stated distance of planes, um; None if one is missing.

    Its zero is that of the numbers: positions within one recording can be compared.
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
        Of one of the channel's frames: the dye, where names of files have a code for it.
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

    Micro-Manager lists the colours of channels in its summary, as numbers that begin with alpha.
    One colour for all of several channels is a default that nobody chose.
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
