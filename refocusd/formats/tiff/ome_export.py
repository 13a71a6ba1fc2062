"""Export of a dataset to OME-TIFF: one file per position, planes in the order t, c, z.

Source: OME data model 2016-06 (https://docs.openmicroscopy.org/ome-model/latest/);
tifffile writes the file and its OME-XML.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refocusd import files
from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.disk_space import METADATA_BYTES, write_error
from refocusd.formats.metadata import MOST_MS, TIMES, elapsed_ms, received_at, start_of
from refocusd.formats.scale import channel_colour, channel_label
from refocusd.formats.tiff.ome_export_plan import ExportFile, ExportPlan
from refocusd.formats.tiff.ome_xml import REFOCUSED
from refocusd.frame import AxisValue, Pixels
from refocusd.profiles.microscope_metadata import number_within, stage_position_um

#: Classic TIFF counts bytes in 32 bits; its directories need room beside the pixels.
MAX_TIFF_BYTES = 2**32 - 2**28
#: What XML 1.0 does not allow.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class _Clock:
    """When an acquisition began, in ISO 8601, and how many ms later each frame was taken, by key."""

    started: str
    elapsed_ms: Mapping[str, float | None]

    @classmethod
    def of(cls, source: Dataset, keys: Sequence[str]) -> _Clock:
        """Times of the frames of all files: all positions share one clock."""
        said = [{name: m.get(name) for name in TIMES} for m in map(source.metadata, keys)]
        elapsed = dict(zip(keys, elapsed_ms(said), strict=True))
        first = next(
            (received_at(m) for key, m in zip(keys, said, strict=True) if not elapsed[key]), None
        )
        started = start_of(source.summary, first)
        return cls(started.isoformat() if started else "", elapsed)


def export(
    plan: ExportPlan,
    source: Dataset,
    on_step: Callable[[], None] = lambda: None,
    *,
    max_tiff_bytes: int = MAX_TIFF_BYTES,
) -> int:
    """Write the files, one plane at a time; they appear when all of them are whole.

    Parameters
    ----------
    plan : ExportPlan
        From `plan_export` of the same source.
    source : Dataset
    on_step : callable
        Called `ExportPlan.steps` times.
    max_tiff_bytes : int
        Length from which a file is a BigTIFF.

    Returns
    -------
    int
        Bytes of all files.

    Raises
    ------
    InputError
        If a frame cannot be read.
    OutputError
        If the disk refuses; nothing is left behind, and what was there stays.
    """
    # Names that nothing uses: neither another export, nor a pipe, which would block.
    mark = secrets.token_hex(4)
    parts = [file.path.with_name(f"{file.path.name}.{mark}.part") for file in plan.files]
    folder = plan.files[0].path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clock = _Clock.of(source, [key for file in plan.files for key in file.keys.values()])
        for file, part in zip(plan.files, parts, strict=True):
            big = file.planes * (plan.format.nbytes + METADATA_BYTES) > max_tiff_bytes
            _write(file, part, plan, source, clock, on_step, big=big)
        nbytes = sum(part.stat().st_size for part in parts)
        for file, part in zip(plan.files, parts, strict=True):
            files.replace(part, file.path)
    except OSError as error:
        raise write_error(error, folder, "exporting") from error
    finally:
        for part in parts:
            with contextlib.suppress(OSError):
                files.remove(part)
    return nbytes


def _write(
    file: ExportFile,
    part: Path,
    plan: ExportPlan,
    source: Dataset,
    clock: _Clock,
    on_step: Callable[[], None],
    *,
    big: bool,
) -> None:
    import tifffile

    form, um = plan.format, plan.scale.pixel_um
    with tifffile.TiffWriter(part, bigtiff=big, ome=True) as tiff:
        tiff.write(
            _planes(file, plan, source, on_step),
            shape=(*file.sizes, form.height, form.width),
            dtype=form.dtype,
            photometric="minisblack",
            resolution=None if um is None else (1e4 / um, 1e4 / um),
            resolutionunit=None if um is None else "CENTIMETER",
            metadata=_ome_metadata(file, plan, source, clock, on_step),
        )


def _planes(
    file: ExportFile, plan: ExportPlan, source: Dataset, on_step: Callable[[], None]
) -> Iterator[Pixels]:
    form = plan.format
    black: Pixels = np.zeros((form.height, form.width), form.dtype)
    for place in np.ndindex(*file.sizes):
        key = file.keys.get(place)
        pixels = black if key is None else source.read(key).pixels
        if (pixels.shape, pixels.dtype) != (black.shape, black.dtype):
            raise InputError(f"{source.path} has changed since it was opened: export it again")
        yield pixels
        on_step()


def _ome_metadata(
    file: ExportFile,
    plan: ExportPlan,
    source: Dataset,
    clock: _Clock,
    on_step: Callable[[], None],
) -> dict[str, Any]:
    """What tifffile writes into the OME-XML."""
    scale = plan.scale
    planes: dict[tuple[int, int, int], dict[str, Any]] = {}
    channels = [channel_label(value, source.summary) for value in file.channels]
    name = ""
    for place, key in file.keys.items():
        metadata = source.metadata(key)
        planes[place] = _plane(metadata, clock.elapsed_ms[key])
        name = name or str(metadata.get("PositionName") or "")
        channel = place[1]
        channels[channel] = channel_label(file.channels[channel], source.summary, metadata)
        on_step()
    common = ", ".join(f"{axis} {value}" for axis, value in file.axes.items())
    title = _xml_text(name or common or source.path.name)
    told: dict[str, Any] = {"axes": "TCZYX", "Name": title}
    for size, value, unit in (
        ("PhysicalSizeX", scale.pixel_um, "µm"),
        ("PhysicalSizeY", scale.pixel_um, "µm"),
        ("PhysicalSizeZ", scale.z_um, "µm"),
        ("TimeIncrement", scale.interval_s, "s"),
    ):
        if value is not None:
            told |= {size: value, f"{size}Unit": unit}
    if clock.started:
        told["AcquisitionDate"] = clock.started
    mark = source.summary.get("refocusd")
    if isinstance(mark, dict) and ("sink" in mark or "exported" in mark):
        told["Description"] = REFOCUSED
    if any(channels := _channel_names(file.channels, channels)):
        told["Channel"] = {"Name": [_xml_text(name) for name in channels]}
    if any(colours := [channel_colour(value, source.summary) for value in file.channels]):
        told.setdefault("Channel", {})["Color"] = [_rgba(colour) for colour in colours]
    if any(planes.values()):
        told["Plane"] = [planes.get(place, {}) for place in np.ndindex(*file.sizes)]
    return told


def _xml_text(text: str) -> str:
    """Text without characters that XML does not allow, such as control characters; tifffile does not check."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _rgba(colour: str) -> int:
    """A colour as OME-XML has it: 32 bits with a sign, alpha last; white if there is none."""
    number = int(colour or "FFFFFF", 16) << 8 | 0xFF
    return number - (1 << 32) if number >= 1 << 31 else number


def _plane(metadata: Mapping[str, Any], ms: float | None) -> dict[str, Any]:
    """Time, exposure and stage position of a plane, as far as its metadata have them."""
    plane: dict[str, Any] = {}
    for name, value, unit in (
        ("DeltaT", None if ms is None else ms / 1000, "s"),
        ("ExposureTime", number_within(metadata, ("Exposure-ms", "Exposure"), 0, MOST_MS), "ms"),
        ("PositionX", stage_position_um(metadata, "X"), "µm"),
        ("PositionY", stage_position_um(metadata, "Y"), "µm"),
        ("PositionZ", stage_position_um(metadata, "Z"), "µm"),
    ):
        if value is not None:
            plane |= {name: value, f"{name}Unit": unit}
    return plane


def _channel_names(channels: Sequence[AxisValue | None], names: list[str]) -> list[str]:
    # Numbers are written if they differ from the channels' places.
    if any(names) or any(value not in (None, place) for place, value in enumerate(channels)):
        names = [
            name or ("no channel" if value is None else f"channel {value}")
            for name, value in zip(names, channels, strict=True)
        ]
    return names
