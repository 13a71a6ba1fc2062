"""What an export to OME-TIFF will write where, checked before anything is written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.formats.disk_space import check_free_space, free_space_needed
from refocusd.formats.ome_zarr.contents import common_axes
from refocusd.formats.ome_zarr.layout import GRID
from refocusd.formats.scale import Scale, scale_of
from refocusd.frame import Axes, AxisValue, Frame, canonical_axes

__all__ = ["ExportFile", "ExportPlan", "FrameFormat", "Frames", "plan_export"]

ENDINGS = (".ome.tif", ".ome.tiff")
#: A grid of more planes comes from an axis that counts something else.
MAX_PLANES = 1 << 22


class FrameFormat(Protocol):
    """Shape and type of a frame."""

    @property
    def height(self) -> int:
        """In pixels."""

    @property
    def width(self) -> int:
        """In pixels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or uint16."""


class Frames(Protocol):
    """What is exported: the frames of a dataset by their canonical keys."""

    path: Path

    @property
    def summary(self) -> dict[str, Any]:
        """Summary metadata of the acquisition."""

    def axes_keys(self) -> list[str]:
        """Keys of all frames, in the order of writing."""

    def format_of(self, axes: str) -> FrameFormat:
        """Shape and type of a frame."""

    def metadata(self, axes: str) -> dict[str, Any]:
        """Metadata of a frame."""

    def read(self, axes: str) -> Frame:
        """One frame."""


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One OME-TIFF.

    Parameters
    ----------
    path : Path
    axes : mapping of str to int or str
        What its frames have in common: position, and all axes but time, channel, z.
    along : tuple of mapping of int, str or None to int
        Plane of each value along time, channel and z; None is the axis' absence.
    keys : mapping of (int, int, int) to str
        Frame of each plane (t, c, z) that has one.
    """

    path: Path
    axes: Axes
    along: tuple[Mapping[AxisValue | None, int], ...]
    keys: Mapping[tuple[int, int, int], str]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Planes along t, c and z."""
        t, c, z = (max(along.values()) + 1 for along in self.along)
        return t, c, z

    @property
    def missing(self) -> int:
        """Planes without a frame."""
        return math.prod(self.sizes) - len(self.keys)


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What will be written where; nothing is yet.

    Parameters
    ----------
    files : tuple of ExportFile
    height, width : int
        Of every plane, in pixels.
    dtype : numpy dtype
        uint8 or uint16.
    scale : Scale
    """

    files: tuple[ExportFile, ...]
    height: int
    width: int
    dtype: np.dtype[Any]
    scale: Scale

    @property
    def frames(self) -> int:
        """Frames that will be written."""
        return sum(len(file.keys) for file in self.files)

    @property
    def missing(self) -> int:
        """Planes without a frame."""
        return sum(file.missing for file in self.files)

    @property
    def steps(self) -> int:
        """How often `export` reports progress."""
        return self.frames + sum(math.prod(file.sizes) for file in self.files)


def plan_export(source: Frames, output: Path, *, fill: bool, overwrite: bool) -> ExportPlan:
    """Plan an export, and check all of it that can be checked without reading pixels.

    Times and planes have the place of their number, from 0; channels and names
    come as they are.  Where frames differ in further axes (position) there is a
    file for each, named after ``output``: ``cells_position3.ome.tif``.

    Parameters
    ----------
    source : Frames
    output : Path
        Ends in ``.ome.tif``.
    fill : bool
        Whether planes without a frame are written as zeros.
    overwrite : bool
        Whether existing files are replaced.

    Raises
    ------
    ConfigError
        If the output is not named as an OME-TIFF.
    InputError
        If there is no frame, frames differ in shape or type, or some are missing.
    OutputError
        If a file exists, lies within the dataset, or the disk has no room.
    """
    ending = next((end for end in ENDINGS if output.name.lower().endswith(end)), "")
    if not ending or output.name.lower() == ending:
        raise ConfigError(f"--output {output}: name a file that ends in .ome.tif")
    if source.path.resolve() in output.resolve().parents:
        raise OutputError(
            f"{output} lies within the dataset, whose readers would take it for a part of it: "
            "choose another --output"
        )
    keys = source.axes_keys()
    if not keys:
        raise InputError(f"{source.path} holds no frame yet: wait for its first, or resume it")
    form = _one_format(source, keys)
    groups: dict[str, dict[str, Axes]] = {}
    for key in keys:
        axes = json.loads(key)
        groups.setdefault(canonical_axes(common_axes(axes)), {})[key] = axes
    names = _file_names(output.name, len(ending), [json.loads(common) for common in groups])
    files = tuple(
        _planned(output.with_name(name), frames)
        for name, frames in zip(names, groups.values(), strict=True)
    )
    plan = ExportPlan(
        files,
        form.height,
        form.width,
        form.dtype,
        scale_of(source.metadata(keys[0]), source.summary),
    )
    _refuse_missing(source.path, plan, fill=fill)
    for file in files:
        if file.path.is_dir() or (file.path.exists() and not overwrite):
            raise OutputError(
                f"{file.path} exists already, and is not overwritten: choose another --output, or "
                "say --overwrite"
            )
    frame_bytes = form.height * form.width * form.dtype.itemsize
    check_free_space(output, free_space_needed(frame_bytes, plan.steps - plan.frames))
    return plan


def _one_format(source: Frames, keys: Iterable[str]) -> FrameFormat:
    first: FrameFormat | None = None
    for key in keys:
        form = source.format_of(key)
        first = first or form
        if form != first:
            raise InputError(
                f"{source.path} has frames of different formats: {key} is {form}, and others are "
                f"{first}; an OME-TIFF has one"
            )
    assert first is not None
    return first


def _planned(path: Path, frames: Mapping[str, Axes]) -> ExportFile:
    along = [_along(name, [axes.get(name) for axes in frames.values()]) for name in GRID]
    keys = {
        (along[0][axes.get("time")], along[1][axes.get("channel")], along[2][axes.get("z")]): key
        for key, axes in frames.items()
    }
    return ExportFile(path, common_axes(next(iter(frames.values()))), tuple(along), keys)


def _along(name: str, values: Iterable[AxisValue | None]) -> dict[AxisValue | None, int]:
    """Place of each value of an axis: its absence, numbers, then names as they came."""
    present = dict.fromkeys(values)
    numbers = sorted(value for value in present if isinstance(value, int))
    order: list[AxisValue | None] = [None] if None in present else []
    start = len(order)
    places: dict[AxisValue | None, int] = dict.fromkeys(order, 0)
    if name == "channel":
        places |= {number: start + place for place, number in enumerate(numbers)}
        end = start + len(numbers)
    else:
        # The first frames may be those that are missing: planes are counted from 0.
        lowest = min(0, *numbers) if numbers else 0
        places |= {number: start + number - lowest for number in numbers}
        end = start + numbers[-1] - lowest + 1 if numbers else start
    named = [value for value in present if isinstance(value, str)]
    return places | {value: end + place for place, value in enumerate(named)}


def _refuse_missing(path: Path, plan: ExportPlan, *, fill: bool) -> None:
    planes = plan.frames + plan.missing
    if planes > MAX_PLANES:
        raise InputError(
            f"the {plan.frames} frames of {path} lie in a grid of {planes} planes, counted from 0 "
            "along time and z: too many for an OME-TIFF; export a dataset with smaller numbers"
        )
    if plan.missing and not fill:
        file = next(file for file in plan.files if file.missing)
        t, c, z = next(place for place in np.ndindex(*file.sizes) if place not in file.keys)
        raise InputError(
            f"{path} has {plan.frames} of the {planes} frames of its grid: {plan.missing} are "
            f"missing, such as t={t}, c={c}, z={z} of {file.path.name} (counted from 0); resume "
            "the dataset, or say --fill to have zeros there"
        )


def _file_names(name: str, ending: int, several: list[Axes]) -> list[str]:
    """Names that tell the files apart, by those axes in which they differ."""
    if len(several) == 1:
        return [name]
    stem, suffix = name[:-ending], name[-ending:]
    varying = [
        axis
        for axis in sorted({axis for axes in several for axis in axes})
        if len({axes.get(axis) for axes in several}) > 1
    ]
    taken: set[str] = set()
    names = []
    for axes in several:
        tokens = "".join(f"_{_token(axis)}{_token(axes[axis])}" for axis in varying if axis in axes)
        unique, count = tokens, 1
        while unique.lower() in taken:
            count += 1
            unique = f"{tokens}_{count}"
        taken.add(unique.lower())
        names.append(f"{stem}{unique}{suffix}")
    return names


def _token(value: AxisValue) -> str:
    """Text as it may stand in a file's name."""
    return re.sub(r"[^\w-]+", "-", str(value))[:64]
