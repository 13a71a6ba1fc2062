"""One image of an OME-Zarr store: which frames it has, and their places in its arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refocusd.errors import ConfigError, InputError
from refocusd.formats.metadata import SECONDS_PER_UNIT, UM_PER_UNIT
from refocusd.formats.ome_zarr.store.groups import Axis, GroupMetadata, Multiscale, read_group
from refocusd.formats.scale import Scale
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import MIN_SIDE, Axes, AxisValue

if TYPE_CHECKING:
    import zarr


_NAMES = {"t": "time", "c": "channel", "z": "z"}


def open_array(folder: Path, *, writable: bool = False) -> zarr.Array[Any]:
    """Open an array of a store; chunks of zeros are written too, as they mark their frames as present.

    Raises
    ------
    ConfigError
        If the zarr library is not installed.
    InputError
        If there is no readable array, or its compression is unknown.
    """
    try:
        # It takes a third of a second to import, and only OME-Zarr needs it.
        import zarr
    except ImportError as error:
        raise ConfigError(
            f"{folder} is an OME-Zarr, and zarr is not installed: pip install 'refocusd[zarr]'"
        ) from error
    try:
        found: zarr.Array[Any] = zarr.open_array(str(folder), mode="r+" if writable else "r")
    except Exception as error:
        # Others' metadata may make the library raise anything.
        raise InputError(f"{folder} is not a readable Zarr array ({error})") from error
    return found.with_config({"write_empty_chunks": True}) if writable else found


def part_of(index: tuple[int, ...], rows: slice, columns: slice) -> tuple[int | slice, ...]:
    """Index of part of a frame in an array."""
    return (*index, rows, columns)


@dataclass(frozen=True, slots=True)
class OmeImage:
    """An image at its full resolution.

    Parameters
    ----------
    folder : Path
        Its group.
    position : str
        Its path in the store, which is the value of the axis ``position``; empty for none.
    outer : tuple of str
        Axes of its frames, in the order of the array's first dimensions: ``time``, ``channel``,
        ``z``, or the user's own.
    channels : tuple of str
        Names of the channels if each has one of its own; otherwise empty, and channels are numbers.
    labels : tuple of str
        The channels' names as they are written.
    title : str
        Its name in the metadata; empty if that is a path, or missing.
    colours : tuple of int
        0xRRGGBB of each channel; empty if none is stated.
    scale : Scale
    origin_z_um : float
        Position of its first plane.
    levels : tuple of str
        Paths of the arrays, the full resolution first.
    array : zarr.Array
        The full resolution.
    trouble : str
        Why its pixels cannot be used (``has pixels of type float32; ...``), though its frames can be
        counted; empty if they can be used.
    """

    folder: Path
    position: str
    outer: tuple[str, ...]
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    title: str
    colours: tuple[int, ...]
    scale: Scale
    origin_z_um: float
    levels: tuple[str, ...]
    array: zarr.Array[Any]
    trouble: str = ""

    @classmethod
    def open(cls, folder: Path, position: str) -> OmeImage:
        """Open the image of a group.

        Raises
        ------
        InputError
            If it cannot be read, or has axes other than OME-Zarr allows.
        """
        said = read_group(folder)
        if said is None or not said.multiscales or not said.multiscales[0].datasets:
            raise InputError(f"{folder} holds no image of OME-Zarr: give a plate, or an image")
        multiscale = said.multiscales[0]
        levels = tuple(level.path for level in multiscale.datasets)
        array = open_array(folder / levels[0])
        axes = _axes(multiscale.axes, len(array.shape))
        if len(axes) != len(array.shape) or [a.name.lower() for a in axes[-2:]] != ["y", "x"]:
            raise InputError(
                f"{folder} has the axes {[axis.name for axis in axes]} and {len(array.shape)} "
                "dimensions: OME-Zarr has up to five, and y and x are the last"
            )
        outer = _outer(axes, folder)
        labels = tuple(channel.label for channel in said.channels)
        size = array.shape[outer.index("channel")] if "channel" in outer else 1
        named = labels[:size]
        unique = len(set(named)) == size and all(named)
        scales, offsets = _transformed(multiscale, len(axes))
        z_um: float | None = None
        z_origin_um = 0.0
        if "z" in outer:
            at = outer.index("z")
            unit = axes[at].unit
            z_um = _length(scales[at], unit)
            if z_um and unit in UM_PER_UNIT and math.isfinite(offsets[at]):
                z_origin_um = offsets[at] * UM_PER_UNIT[unit]
        time_s = None
        if "time" in outer:
            at = outer.index("time")
            time_s = _positive(scales[at] * SECONDS_PER_UNIT.get(axes[at].unit or "", math.nan))
        return cls(
            folder,
            position,
            outer,
            named if unique else (),
            labels,
            multiscale.name
            if isinstance(multiscale.name, str) and "/" not in multiscale.name
            else "",
            _colours(said),
            Scale(_length(scales[-1], axes[-1].unit), z_um, time_s),
            z_origin_um,
            levels,
            array,
            _trouble(array),
        )

    @property
    def format(self) -> PageFormat:
        """Shape and type of its frames."""
        height, width = self.array.shape[-2:]
        return PageFormat(height, width, np.dtype(self.array.dtype).newbyteorder("="))

    def axes_at(self, index: tuple[int, ...]) -> dict[str, AxisValue]:
        """Axes of the frame at an index of the array."""
        axes: dict[str, AxisValue] = {"position": self.position} if self.position else {}
        for name, at in zip(self.outer, index, strict=True):
            named = name == "channel" and at < len(self.channels)
            axes[name] = self.channels[at] if named else at
        return axes or {"time": 0}  # a frame has at least one axis

    def index_of(self, axes: Axes) -> tuple[int, ...]:
        """Index in the array of the frame with these axes, as `axes_at` gave them.

        Raises
        ------
        InputError
            If the image can have no such frame.
        """
        index = []
        for name in self.outer:
            value = axes.get(name, 0)
            if name == "channel" and isinstance(value, str) and value in self.channels:
                value = self.channels.index(value)
            if not isinstance(value, int) or value < 0:
                raise InputError(f"{self.folder} has no frame with {name} {value!r}")
            index.append(value)
        return tuple(index)

    def metadata_at(self, index: tuple[int, ...]) -> dict[str, Any]:
        """Metadata of one frame in the store, under Micro-Manager's names."""
        at = dict(zip(self.outer, index, strict=True))
        metadata: dict[str, Any] = {}
        if self.scale.pixel_um:
            metadata["PixelSizeUm"] = self.scale.pixel_um
        if self.position:
            metadata["PositionName"] = self.position
        channel = at.get("channel", 0)
        if channel < len(self.labels) and self.labels[channel]:
            metadata["Channel"] = self.labels[channel]
        if self.scale.z_um and "z" in at:
            metadata["ZPositionUm"] = round(self.origin_z_um + at["z"] * self.scale.z_um, 6)
        if self.scale.interval_s and "time" in at:
            metadata["ElapsedTime-ms"] = at["time"] * self.scale.interval_s * 1e3
        return metadata


def _trouble(array: zarr.Array[Any]) -> str:
    dtype = np.dtype(array.dtype)
    if dtype.newbyteorder("=") not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        return f"has pixels of type {dtype}; uint8 and uint16 are read"
    height, width = array.shape[-2:]
    if min(height, width) < MIN_SIDE:
        return f"has frames of {width}×{height} px; the smallest side taken is {MIN_SIDE} px"
    return ""


def _axes(said: list[Axis | str] | None, dimensions: int) -> list[Axis]:
    """The axes; before OME-Zarr 0.3 there were only these five, in this order."""
    named: Sequence[Axis | str] = said or "tczyx"[-dimensions:]
    return [axis if isinstance(axis, Axis) else Axis(axis) for axis in named]


def _outer(axes: Sequence[Axis], folder: Path) -> tuple[str, ...]:
    """Names of all axes but the last two; no two names may be the same."""
    kinds = [_kind(axis) for axis in axes[:-2]]
    # If several axes have one type, those not called t, c or z keep their own names.
    outer = tuple(
        _NAMES.get(kind, name)
        if [k for k, _ in kinds].count(kind) == 1 or name.lower() == kind
        else name
        for kind, name in kinds
    )
    if len(set(outer)) < len(outer):
        raise InputError(f"{folder} has two axes of one name: {[axis.name for axis in axes]}")
    return outer


def _kind(axis: Axis) -> tuple[str, str]:
    """An axis as t, c or z, if it is one, and its own name."""
    kinds = {"time": "t", "channel": "c", "space": "z"}
    return kinds.get(axis.type or "", axis.name.lower()), axis.name


def _colours(said: GroupMetadata) -> tuple[int, ...]:
    """Colours of the channels as numbers: white for an illegible one; empty if none is stated."""
    stated = [re.fullmatch("#?([0-9a-fA-F]{6})", str(each.color)) for each in said.channels]
    return tuple(int(c[1], 16) if c else 0xFFFFFF for c in stated) if any(stated) else ()


def _transformed(multiscale: Multiscale, axes: int) -> tuple[list[float], list[float]]:
    """Size of one step along each axis (NaN if unknown), and the position of the first."""
    scales, offsets = [1.0] * axes, [0.0] * axes
    found = False
    for each in (*multiscale.datasets[0].transformations, *multiscale.transformations):
        if each.scale is not None and len(each.scale) == axes:
            found = True
            scales = [a * b for a, b in zip(scales, each.scale, strict=True)]
            offsets = [a * b for a, b in zip(offsets, each.scale, strict=True)]
        if each.translation is not None and len(each.translation) == axes:
            offsets = [a + b for a, b in zip(offsets, each.translation, strict=True)]
    # Writers that know no scale write 1 for every axis.
    known = found and set(scales) != {1.0}
    return (scales if known else [math.nan] * axes), offsets


def _length(step: float, unit: str | None) -> float | None:
    # A number without a unit means nothing: most writers put 1 for "unknown".
    return _positive(step * UM_PER_UNIT.get(unit or "", math.nan))


def _positive(value: float) -> float | None:
    return round(value, 9) if math.isfinite(value) and value > 0 else None
