"""Notes of OME-Zarr writers on an image and its frames, under Micro-Manager's names.

===========================  ==============================================================
ome-writers, pymmcore-plus   attributes of each image: ``ome_writers``; of the root: ``pymmcore_plus``
bioformats2raw               ``OME/METADATA.ome.xml`` beside the images
===========================  ==============================================================

OME-Zarr itself has no place for exposures, times and stage positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.formats.metadata import finite_number
from refocusd.formats.ome_zarr.store.groups import image_folders, read_attributes
from refocusd.formats.tiff.ome_xml import described_images

XML = Path("OME", "METADATA.ome.xml")
#: ome-writers' name, ours, and the factor from their unit to ours.
_OME_WRITERS = (
    ("delta_t", "ElapsedTime-ms", 1e3),
    ("exposure_time", "Exposure-ms", 1e3),
    ("position_x", "XPositionUm", 1.0),
    ("position_y", "YPositionUm", 1.0),
    ("position_z", "ZPositionUm", 1.0),
)


@dataclass(frozen=True, slots=True)
class FrameNotes:
    """Name of an image, its start (ISO 8601), and metadata of each frame by its index."""

    name: str = ""
    started: str = ""
    frames: Mapping[tuple[int, ...], Mapping[str, Any]] = field(default_factory=dict)


def frame_notes(root: Path, image: Path, outer: Sequence[str]) -> FrameNotes:
    """Notes on an image; missing or illegible ones are left out.

    Parameters
    ----------
    root : Path
        Folder of the store.
    image : Path
        The image's group.
    outer : sequence of str
        Axes of the array without y and x.
    """
    try:
        if (root / XML).is_file() and image.parent == root:
            return _of_xml(root, image, outer)
        of_root, of_image = read_attributes(root), read_attributes(image)
    except InputError:
        return FrameNotes()
    said = _inside(of_image, "ome_writers", "frame_metadata")
    frames = {
        tuple(frame["storage_index"]): {
            ours: number * factor
            for theirs, ours, factor in _OME_WRITERS
            if (number := finite_number(frame.get(theirs))) is not None
        }
        for frame in (said if isinstance(said, list) else ())
        if isinstance(frame, dict) and isinstance(frame.get("storage_index"), list)
    }
    started = next(
        (
            s
            for a in (of_image, of_root)
            if (s := _inside(a, "pymmcore_plus", "summary_metadata", "datetime"))
        ),
        "",
    )
    return FrameNotes("", started if isinstance(started, str) else "", frames)


def _of_xml(root: Path, image: Path, outer: Sequence[str]) -> FrameNotes:
    number = list(image_folders(root).values()).index(image)
    described = described_images(root / XML)
    if number >= len(described):
        return FrameNotes()
    about = described[number]
    frames = {}
    for (z, c, t), said in about.planes.items():
        at = {"z": z, "channel": c, "time": t}
        frames[tuple(at.get(axis, 0) for axis in outer)] = said
    return FrameNotes(about.name, about.started, frames)


def _inside(said: Any, *names: str) -> Any:
    for name in names:
        said = said.get(name) if isinstance(said, dict) else None
    return said
