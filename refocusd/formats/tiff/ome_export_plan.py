"""The plan of an export to OME-TIFF, checked before anything is written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.disk_space import check_free_space, free_space_needed
from refocusd.formats.file_names import files_in, listed_images
from refocusd.formats.ome_zarr.contents import common_axes
from refocusd.formats.ome_zarr.layout import GRID
from refocusd.formats.open_dataset import kind_of, open_dataset
from refocusd.formats.scale import Scale, scale_of, z_position_um, z_step_um
from refocusd.formats.sink import refuse_within
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Axes, AxisValue, canonical_axes, counted

ENDINGS = (".ome.tif", ".ome.tiff")
#: A grid of more planes means that an axis counts something else.
MAX_PLANES = 1 << 22


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One OME-TIFF.

    Parameters
    ----------
    path : Path
    axes : mapping of str to int or str
        What its frames have in common: position, and all axes but time, channel, z.
    sizes : (int, int, int)
        Planes along t, c and z.
    channels : tuple of int, str or None
        Value of each channel on its axis; None stands for frames without that axis.
    keys : mapping of (int, int, int) to str
        Frame of each plane (t, c, z) that has one.
    """

    path: Path
    axes: Axes
    sizes: tuple[int, int, int]
    channels: tuple[AxisValue | None, ...]
    keys: Mapping[tuple[int, int, int], str]

    @property
    def planes(self) -> int:
        """Number of planes, with a frame or without."""
        return math.prod(self.sizes)


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """The files that will be written, and what they hold; nothing is written yet.

    Parameters
    ----------
    files : tuple of ExportFile
    format : PageFormat
        Shape and type of every plane.
    scale : Scale
    """

    files: tuple[ExportFile, ...]
    format: PageFormat
    scale: Scale

    @property
    def frames(self) -> int:
        """Number of frames that will be written."""
        return sum(len(file.keys) for file in self.files)

    @property
    def planes(self) -> int:
        """Number of planes of all files."""
        return sum(file.planes for file in self.files)

    @property
    def missing(self) -> int:
        """Number of planes without a frame: zeros are written there."""
        return self.planes - self.frames

    @property
    def steps(self) -> int:
        """How many times `export` reports progress."""
        return self.frames + self.planes


def plan_export(source: Dataset, output: Path, *, fill: bool, overwrite: bool) -> ExportPlan:
    """Plan an export, and check everything that can be checked without reading pixels.

    Times and planes have the place of their number, from 0; channels follow one
    another in order, and so do names.  If frames differ in further axes (position),
    each of these gets a file, named after ``output``: ``cells_position3.ome.tif``.

    Parameters
    ----------
    source : Dataset
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
    refuse_within(output, source.path)
    for folder in output.resolve().parents[:2]:
        # Folders of image files have no mark: many recordings may lie in one.
        if folder.is_dir() and kind_of([entry.name for entry in folder.iterdir()]):
            refuse_within(output, folder)
    form, groups = _by_file(source)
    names = _file_names(output.name, len(ending), [json.loads(common) for common in groups])
    files = tuple(
        _planned(output.with_name(name), frames)
        for name, frames in zip(names, groups.values(), strict=True)
    )
    scale = scale_of(source.metadata(source.axes_keys()[0]), source.summary)
    if scale.z_um is None:
        scale = replace(scale, z_um=stack_z_step_um(source, groups.values()))
    plan = ExportPlan(files, form, scale)
    _refuse_missing(source.path, plan, fill=fill)
    if _holds_frames(output.resolve().parent, {file.path.name for file in files}):
        refuse_within(output, output.parent)
    _refuse_existing(files, overwrite=overwrite)
    check_free_space(output, free_space_needed(form.nbytes, plan.planes))
    return plan


def _by_file(source: Dataset) -> tuple[PageFormat, dict[str, dict[str, Axes]]]:
    """Format of all frames, and the frames of each file, by the axes that they have in common.

    Raises
    ------
    InputError
    """
    keys = source.axes_keys()
    if not keys:
        raise InputError(f"{source.path} holds no frame yet: wait for its first, or resume it")
    form = source.format_of(keys[0])
    groups: dict[str, dict[str, Axes]] = {}
    for key in keys:
        if (other := source.format_of(key)) != form:
            raise InputError(
                f"{source.path} has frames of different formats: {key} is {other}, and others are "
                f"{form}; an OME-TIFF has one"
            )
        axes = json.loads(key)
        groups.setdefault(canonical_axes(common_axes(axes)), {})[key] = axes
    return form, groups


def _refuse_existing(files: Iterable[ExportFile], *, overwrite: bool) -> None:
    for file in files:
        if file.path.is_dir():
            raise OutputError(f"{file.path} is a folder: choose another --output")
        if file.path.exists() and not overwrite:
            raise OutputError(
                f"{file.path} exists already, and is not overwritten: choose another --output, or "
                "say --overwrite"
            )


def _holds_frames(folder: Path, exports: Collection[str]) -> bool:
    """Whether the image files in a folder are one recording: single frames, or named by their axes.

    Stacks that are separate recordings may lie beside exports, and so may earlier exports.
    """
    try:
        files = files_in(folder).files if folder.is_dir() and listed_images(folder) else ()
        others = [file for file in files if file.path.name not in exports]
        if len(others) < 2:
            return False
        with open_dataset(others[0].path) as first:
            return not first.summary.get("refocusd") and (bool(others[0].axes) or len(first) == 1)
    except InputError:
        return False  # no reader would read these files as one recording


def stack_z_step_um(source: Dataset, groups: Iterable[Mapping[str, Axes]]) -> float | None:
    """Distance between planes in um, from the stage positions of the first stack; None if unknown."""
    stacks: dict[str, dict[int, str]] = {}
    for frames in groups:
        for key, axes in frames.items():
            if isinstance(z := axes.get("z"), int):
                rest = canonical_axes({name: axes[name] for name in axes if name != "z"})
                stacks.setdefault(rest, {})[z] = key
    stack = next((planes for planes in stacks.values() if len(planes) > 1), None)
    if stack is None:
        return None
    ends = [(z, z_position_um(source.metadata(stack[z]))) for z in (min(stack), max(stack))]
    (first, first_um), (last, last_um) = ends
    if first_um is None or last_um is None:
        return None
    return z_step_um((first, first_um), (last, last_um))


def _planned(path: Path, frames: Mapping[str, Axes]) -> ExportFile:
    t, c, z = (_along(name, [axes.get(name) for axes in frames.values()]) for name in GRID)
    keys = {
        (t[axes.get("time")], c[axes.get("channel")], z[axes.get("z")]): key
        for key, axes in frames.items()
    }
    sizes = (max(t.values()) + 1, max(c.values()) + 1, max(z.values()) + 1)
    return ExportFile(path, common_axes(next(iter(frames.values()))), sizes, tuple(c), keys)


def _along(name: str, values: Iterable[AxisValue | None]) -> dict[AxisValue | None, int]:
    """Place of each value of an axis: its absence, numbers, then names as they came."""
    present = dict.fromkeys(values)
    absent = [None] if None in present else []
    numbers = sorted(value for value in present if isinstance(value, int))
    names = [value for value in present if isinstance(value, str)]
    if name == "channel" or not numbers:
        return {value: place for place, value in enumerate([*absent, *numbers, *names])}
    # Planes are counted from 0, because the first frames may be those that are missing.
    # Micro-Manager leaves out an axis along which it announced one frame: that frame is at 0.
    start = 0 if absent and numbers[0] > 0 else len(absent) - min(0, numbers[0])
    places: dict[AxisValue | None, int] = dict.fromkeys(absent, 0)
    places |= {number: start + number for number in numbers}
    return places | {name: start + numbers[-1] + 1 + n for n, name in enumerate(names)}


def _refuse_missing(path: Path, plan: ExportPlan, *, fill: bool) -> None:
    if plan.planes > MAX_PLANES:
        raise InputError(
            f"{path} has {counted(plan.frames)} in a grid of {plan.planes} planes, counted "
            "from 0 along time and z: too many for an OME-TIFF; export a dataset with smaller "
            "numbers"
        )
    if plan.missing and not fill:
        file = next(file for file in plan.files if file.planes > len(file.keys))
        t, c, z = next(place for place in np.ndindex(*file.sizes) if place not in file.keys)
        raise InputError(
            f"{path} has {plan.frames} of the {plan.planes} frames of its grid: {plan.missing} "
            f"missing, such as t={t}, c={c}, z={z} of {file.path.name} (counted from 0); "
            "--fill writes zeros there, and `refocusd resume` first refocuses those that raw has"
        )


def _file_names(name: str, ending: int, several: list[Axes]) -> list[str]:
    """Names that distinguish the files by the axes in which they differ."""
    if len(several) == 1:
        return [name]
    stem, suffix = name[:-ending], name[-ending:]
    varying = [
        axis
        for axis in sorted({axis for axes in several for axis in axes})
        if len({axes.get(axis) for axes in several}) > 1
    ]
    names: dict[str, str] = {}
    for axes in several:
        tokens = "".join(f"_{_token(axis)}{_token(axes[axis])}" for axis in varying if axis in axes)
        unique, count = tokens, 1
        while unique.lower() in names:
            count += 1
            unique = f"{tokens}_{count}"
        names[unique.lower()] = f"{stem}{unique}{suffix}"
    return list(names.values())


def _token(value: AxisValue) -> str:
    """Text in a form that a file's name may have."""
    return re.sub(r"[^\w-]+", "-", str(value))[:64]
