"""Reads the microscope from a frame's metadata, by Micro-Manager's keys."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

#: Keys of a frame that identify its microscope. OME has the aperture and the magnification.
_NA = ("NumericalAperture", "LensNA", "NA")
_MAGNIFICATION = ("NominalMagnification", "Magnification")
_PIXEL = ("PixelSizeUm", "PixelSize_um")
#: Sizes of a pixel in the specimen that a light microscope can have, um.
_PIXEL_UM = (0.001, 100.0)
#: Apertures, wavelengths of light (um) and refractive indices that a profile or a frame can state.
APERTURES, LIGHT_UM, MEDIA = (0.01, 1.99), (0.1, 3.0), (1.0, 2.0)
_TIMES = (0.01, 1000.0)
#: No stage reaches farther than a metre.
STAGE_UM = (-1e6, 1e6)
#: pycromanager gives the intended position, Micro-Manager the measured one.
_STAGE = ("Position_um_Intended", "Position_um", "PositionUm")
_KEYS = frozenset(
    {"Camera", "Core-Camera", "Binning", "Channel", "ROI", "BitDepth"}
    | {*_NA, *_MAGNIFICATION, *_PIXEL}
)
#: Longest label; a longer text is not a label.
_MAX_CHARS = 256


def camera_of(metadata: Mapping[str, Any]) -> str:
    """Label of the camera; "" if the metadata do not say."""
    return str(metadata.get("Camera") or metadata.get("Core-Camera") or "")


def objective_of(metadata: Mapping[str, Any]) -> str:
    """Label of the objective; "" if the metadata do not say."""
    for key in sorted(metadata):
        if _names_objective(key):
            return str(metadata[key])
    return ""


def binning_of(metadata: Mapping[str, Any]) -> int | None:
    """Pixels binned along one side; None if the metadata do not say."""
    value = metadata.get("Binning", metadata.get(f"{camera_of(metadata)}-Binning"))
    # "2", "2x2" and 2 all occur.
    match = re.match(r"\d{1,3}", str(value))
    return int(match.group()) if match else None


def pixel_um_of(
    metadata: Mapping[str, Any], summary: Mapping[str, Any] | None = None
) -> float | None:
    """Camera pixel in the specimen plane, in um; None if it is not set (Micro-Manager writes 0).

    A size that no light microscope has counts as not set.

    Parameters
    ----------
    metadata : mapping
        Of a frame.
    summary : mapping, optional
        Of its acquisition; used if the frame does not say.
    """
    return number_within(metadata, _PIXEL, *_PIXEL_UM) or number_within(
        summary or {}, _PIXEL, *_PIXEL_UM
    )


def implausible_pixel_um(metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The stated pixel size, as text, if no light microscope has it; otherwise empty."""
    if pixel_um_of(metadata, summary) is not None:
        return ""
    return stated_number(_PIXEL, metadata, summary)


def stated_number(keys: tuple[str, ...], *where: Mapping[str, Any]) -> str:
    """The first number that some metadata give for one of some keys; empty for none, and for 0."""
    stated = [said[key] for said in where for key in keys if key in said]
    return next((str(value)[:_MAX_CHARS] for value in stated if _is_stated(value)), "")


def _is_stated(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and float(value) != 0
    except (TypeError, ValueError, OverflowError):
        return isinstance(value, int)


def plausible_pixel_um(um: float | None) -> float | None:
    """Return the pixel size if a light microscope can have it, else None.

    Many files carry 72 dots per inch, or 1 for "unknown" in some unit.
    """
    return within(um, *_PIXEL_UM)


def within(value: float | None, least: float, most: float) -> float | None:
    """Return a value if it lies within limits, else None."""
    return value if value is not None and least <= value <= most else None


def na_of(metadata: Mapping[str, Any]) -> float | None:
    """Numerical aperture; None if the metadata do not say."""
    return number_within(metadata, _NA, *APERTURES)


def magnification_of(metadata: Mapping[str, Any]) -> float | None:
    """Magnification; None if the metadata do not say."""
    return number_within(metadata, _MAGNIFICATION, *_TIMES)


def stage_position_um(metadata: Mapping[str, Any], axis: str) -> float | None:
    """Position of a stage (X, Y or Z) for a frame, in um; None if the metadata do not say."""
    return number_within(metadata, tuple(axis + name for name in _STAGE), *STAGE_UM)


def ignored(metadata: Mapping[str, Any]) -> list[str]:
    """What is stated of the optics and the stage, and is none of a light microscope."""
    each = [("NA", _NA, na_of), ("magnification", _MAGNIFICATION, magnification_of)]
    found = [(what, keys) for what, keys, of in each if of(metadata) is None]
    found += [
        (f"{axis} position", tuple(axis + name for name in _STAGE))
        for axis in "XYZ"
        if stage_position_um(metadata, axis) is None
    ]
    said = ((what, stated_number(keys, metadata)) for what, keys in found)
    return [f"{what} {value}" for what, value in said if value]


def bit_depth_of(metadata: Mapping[str, Any]) -> int | None:
    """Bits per pixel; None if the metadata do not say."""
    bits = number_within(metadata, ("BitDepth", "Camera-BitDepth"), 1.0, 32.0)
    return round(bits) if bits else None


def roi_of(metadata: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """Region of the chip as (x, y, width, height), in pixels as read out; None if unknown."""
    value = metadata.get("ROI")
    parts = re.findall(r"\d+", value) if isinstance(value, str) else value
    try:
        x, y, width, height = (int(part) for part in parts)  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):
        return None
    return (x, y, width, height) if min(x, y) >= 0 and min(width, height) > 0 else None


def identity_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a frame's metadata that identifies its microscope: a few short values."""
    wanted = _KEYS | {f"{camera_of(metadata)}-Binning"}
    return {
        str(key): value
        for key, value in metadata.items()
        if (key in wanted or _names_objective(key)) and _is_short(value)
    }


def first_of(metadata: Mapping[str, Any], channel: object = "") -> str:
    """What a source reports about an acquisition's first frame, as JSON."""
    said = identity_metadata(metadata)
    if channel and "Channel" not in said:
        said["Channel"] = str(channel)[:_MAX_CHARS]
    text = json.dumps(said, default=str)
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError):
        return "{}"  # values that JSON cannot hold: an odd driver must not cost a frame
    return text


def _names_objective(key: Any) -> bool:
    # Micro-Manager names a property <device>-<property>: "TIObjective-Label".
    device, _, name = str(key).rpartition("-")
    return name == "Label" and "objective" in device.lower()


def _is_short(value: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return len(str(value)) <= _MAX_CHARS


def number_within(
    metadata: Mapping[str, Any], keys: tuple[str, ...], least: float, most: float
) -> float | None:
    """The first value of some keys that is a number within limits."""
    for key in keys:
        try:
            value = math.nan if isinstance(metadata[key], bool) else float(metadata[key])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if least <= value <= most:
            return value
    return None
