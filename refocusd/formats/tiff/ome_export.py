"""Export of a dataset to OME-TIFF: one file a position, planes in the order t, c, z.

Source: OME data model 2016-06 (https://docs.openmicroscopy.org/ome-model/latest/);
tifffile writes the file and its OME-XML.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.disk_space import write_error
from refocusd.formats.scale import channel_label
from refocusd.formats.tiff.ome_export_plan import ExportFile, ExportPlan, Frames
from refocusd.frame import AxisValue, Pixels

__all__ = ["Exported", "export"]

#: Classic TIFF counts bytes in 32 bits; its directories need room beside the pixels.
MAX_TIFF_BYTES = 2**32 - 2**28


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Parameters
    ----------
    files : tuple of Path
    frames : int
    filled : int
        Planes of zeros, where the dataset has no frame.
    nbytes : int
        Of all files.
    """

    files: tuple[Path, ...]
    frames: int
    filled: int
    nbytes: int


def export(
    plan: ExportPlan,
    source: Frames,
    on_step: Callable[[], None] = lambda: None,
    *,
    max_tiff_bytes: int = MAX_TIFF_BYTES,
) -> Exported:
    """Write the files, one plane at a time; they appear when all of them are whole.

    Parameters
    ----------
    plan : ExportPlan
        By `plan_export` of the same source.
    source : Frames
    on_step : callable
        Called `ExportPlan.steps` times.
    max_tiff_bytes : int
        Length from which a file is a BigTIFF.

    Raises
    ------
    InputError
        If a frame cannot be read.
    OutputError
        If the disk refuses; nothing is left behind, and what was there stays.
    """
    parts = [file.path.with_name(file.path.name + ".part") for file in plan.files]
    folder = plan.files[0].path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, part in zip(plan.files, parts, strict=True):
            # 8 KiB a plane are more than its directory and its part of the OME-XML.
            plane = plan.height * plan.width * plan.dtype.itemsize + 8192
            big = plane * math.prod(file.sizes) > max_tiff_bytes
            _write(file, part, plan, source, on_step, big=big)
        nbytes = sum(part.stat().st_size for part in parts)
        for file, part in zip(plan.files, parts, strict=True):
            part.replace(file.path)
    except OSError as error:
        raise write_error(error, folder, "exporting") from error
    finally:
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    return Exported(tuple(file.path for file in plan.files), plan.frames, plan.missing, nbytes)


def _write(
    file: ExportFile,
    part: Path,
    plan: ExportPlan,
    source: Frames,
    on_step: Callable[[], None],
    *,
    big: bool,
) -> None:
    import tifffile

    um = plan.scale.pixel_um
    with tifffile.TiffWriter(part, bigtiff=big, ome=True) as tiff:
        tiff.write(
            _planes(file, plan, source, on_step),
            shape=(*file.sizes, plan.height, plan.width),
            dtype=plan.dtype,
            photometric="minisblack",
            resolution=None if um is None else (1e4 / um, 1e4 / um),
            resolutionunit=None if um is None else "CENTIMETER",
            metadata=_ome_metadata(file, plan, source, on_step),
        )


def _planes(
    file: ExportFile, plan: ExportPlan, source: Frames, on_step: Callable[[], None]
) -> Iterator[Pixels]:
    shape = (plan.height, plan.width)
    black: Pixels = np.zeros(shape, plan.dtype)
    for place in np.ndindex(*file.sizes):
        key = file.keys.get(place)
        pixels = black if key is None else source.read(key).pixels
        if (pixels.shape, pixels.dtype) != (shape, plan.dtype):
            raise InputError(f"{source.path} has changed since it was opened: export it again")
        yield pixels
        on_step()


def _ome_metadata(
    file: ExportFile, plan: ExportPlan, source: Frames, on_step: Callable[[], None]
) -> dict[str, Any]:
    scale, summary = plan.scale, source.summary
    times: dict[tuple[int, int, int], tuple[float | None, datetime | None]] = {}
    name = ""
    for place, key in file.keys.items():
        metadata = source.metadata(key)
        times[place] = _time_of(metadata)
        name = name or str(metadata.get("PositionName") or "")
        on_step()
    common = ", ".join(f"{axis} {value}" for axis, value in file.axes.items())
    said: dict[str, Any] = {"axes": "TCZYX", "Name": name or common or source.path.name}
    for letter, um in (("X", scale.pixel_um), ("Y", scale.pixel_um), ("Z", scale.z_um)):
        if um is not None:
            said |= {f"PhysicalSize{letter}": um, f"PhysicalSize{letter}Unit": "µm"}
    if scale.interval_s is not None:
        said |= {"TimeIncrement": scale.interval_s, "TimeIncrementUnit": "s"}
    if any(channels := _channel_names(file.along[1], summary)):
        said["Channel"] = {"Name": channels}
    if elapsed := _elapsed_s(times):
        said["Plane"] = [
            {"DeltaT": elapsed[place], "DeltaTUnit": "s"} if place in elapsed else {}
            for place in np.ndindex(*file.sizes)
        ]
    return said


def _channel_names(
    channels: Mapping[AxisValue | None, int], summary: Mapping[str, Any]
) -> list[str]:
    names = [channel_label(value, summary) for value in channels]
    # A number is told where it is not the channel's place.
    if any(names) or any(value not in (None, place) for value, place in channels.items()):
        names = [name or f"channel {value}" for name, value in zip(names, channels, strict=True)]
    return names


def _time_of(metadata: Mapping[str, Any]) -> tuple[float | None, datetime | None]:
    """Elapsed time in s, and the time at which the core had the frame, as far as they are told."""
    elapsed: float | None = None
    received: datetime | None = None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        elapsed = float(metadata.get("ElapsedTime-ms", "")) / 1000
    with contextlib.suppress(TypeError, ValueError):
        received = datetime.fromisoformat(metadata.get("TimeReceivedByCore", ""))
    return elapsed if elapsed is None or math.isfinite(elapsed) else None, received


def _elapsed_s(
    times: Mapping[tuple[int, int, int], tuple[float | None, datetime | None]],
) -> dict[tuple[int, int, int], float]:
    """When each plane was taken.

    A hardware-triggered sequence has one ``ElapsedTime-ms`` for all of its
    frames; there the time at which each one reached the core is to be used.
    """
    received = {place: time for place, (_, time) in times.items() if time is not None}
    if len(received) == len(times):
        with contextlib.suppress(TypeError):  # some with and some without a time zone
            first = min(received.values())
            return {place: (time - first).total_seconds() for place, time in received.items()}
    return {place: elapsed for place, (elapsed, _) in times.items() if elapsed is not None}
