"""A frame: one 2-D image of a camera, its axes and its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from refocusd.errors import InputError

#: A position along one axis: an index (`z=3`) or a name (`channel="DAPI"`).
AxisValue = int | str
Axes = Mapping[str, AxisValue]
#: What the microscope recorded about a frame; carried along, never interpreted here.
Metadata = Mapping[str, Any]
#: Pixels of one frame: uint8 or uint16, shape (height, width), C-contiguous.
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

DType = Literal["uint8", "uint16"]
#: Final state of a frame in a run; a frame without one is pending.
FinalState = Literal["refocused", "passed_through", "skipped", "failed"]

#: Reason of frames whose place in raw was taken by another frame, so that raw does not have them.
REPLACED = "replaced in raw by a later frame of the same axes"
#: Axis that numbers the frames that were taken again under the same axes.
REPEAT = "repeat"

#: Smallest side of a frame, in pixels, that can hold a border and a structure.
MIN_SIDE = 16


@dataclass(frozen=True, slots=True)
class Frame:
    """One 2-D image with its axes.

    Parameters
    ----------
    pixels : ndarray of uint8 or uint16, shape (height, width)
        Camera counts.  Never modified.
    axes : mapping of str to int or str
        Where the frame lies in its acquisition, e.g. ``{"time": 3, "z": 1}``.
    metadata : mapping, optional
        What the microscope recorded about the frame (JSON-serialisable).
    """

    pixels: Pixels
    axes: Axes
    metadata: Metadata = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The canonical form of the axes: equal axes give equal keys."""
        return canonical_axes(self.axes)


def plain_axes(axes: Mapping[str, Any]) -> dict[str, AxisValue]:
    """Axes with Python ints and strings only, keys sorted.

    pycromanager users pass numpy numbers, which JSON refuses; ndstorage treats 1.0 as 1.

    Raises
    ------
    InputError
        If a value is neither a whole number nor a string.
    """
    plain: dict[str, AxisValue] = {}
    for name in sorted(axes):
        value = axes[name]
        if isinstance(value, str):
            plain[name] = value
        elif (isinstance(value, (int, np.integer)) and not isinstance(value, bool)) or (
            isinstance(value, (float, np.floating)) and value.is_integer()
        ):
            plain[name] = int(value)
        else:
            raise InputError(
                f"axis {name!r} has the value {value!r}; an axis takes a whole number or a string"
            )
    return plain


def canonical_axes(axes: Mapping[str, Any]) -> str:
    """JSON of the axes with sorted keys: the frame's key in the ledger and in messages.

    >>> canonical_axes({"z": 1, "channel": "DAPI"})
    '{"channel":"DAPI","z":1}'
    """
    return json.dumps(plain_axes(axes), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def repeat_of(axes: str, number: int = 1) -> str:
    """Canonical axes of the first or a later frame that is taken again under `axes` (canonical, too).

    >>> repeat_of('{"time":3}')
    '{"repeat":1,"time":3}'
    """
    return canonical_axes({**json.loads(axes), REPEAT: number})


def checked_pixels(pixels: Any, *, what: str = "frame") -> Pixels:
    """The pixels as a C-contiguous 2-D uint8/uint16 array, or one clear error.

    Parameters
    ----------
    pixels : array_like
        Candidate frame.
    what : str
        Named in the error, e.g. ``"page 3 of stack.tif"``.

    Raises
    ------
    InputError
        For RGB, float or other types, other than two dimensions, or a side
        under 16 px.
    """
    array = np.asarray(pixels)
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        raise InputError(
            f"{what} is RGB (shape {array.shape}); refocusd takes one channel a frame: "
            "split the channels, or record with a monochrome camera setting"
        )
    if array.ndim != 2:
        raise InputError(f"{what} has shape {array.shape}; a frame has two dimensions")
    # Big-endian files give '>u2'; native order is what the wire and the engines carry.
    native = array.dtype.newbyteorder("=")
    if native not in (np.uint8, np.uint16):
        raise InputError(
            f"{what} has pixels of type {array.dtype}; refocusd takes camera counts as uint8 or "
            "uint16: save the raw counts, not a scaled or floating-point copy"
        )
    if min(array.shape) < MIN_SIDE:
        raise InputError(
            f"{what} is {array.shape[1]}×{array.shape[0]} px; the smallest side taken is {MIN_SIDE} px"
        )
    return np.ascontiguousarray(array, dtype=native)


def checksum(pixels: NDArray[np.generic]) -> int:
    """64-bit XXH3 of an array's bytes (about 20 GB/s: under 0.5 ms for 8 MiB)."""
    return xxhash.xxh3_64_intdigest(pixels.data.cast("B"))


def counted(count: int, noun: str = "frame") -> str:
    """A number of things in words: ``1 frame``, ``3 frames``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
