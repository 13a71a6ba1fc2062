"""Plates and slides of blurred specimens, written as OME-Zarr 0.5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy.ndimage import gaussian_filter

from refocusd.frame import Pixels

#: Side of the specimen that is repeated over a slide, and the width of the slide's blur.
SPECIMEN_PX, SLIDE_BLUR_PX = 2000, 20.0
#: Frames at each position, and the number of distinct frames.
PER_POSITION, DISTINCT = 20, 8


def write_plate(
    path: Path,
    frames: int,
    shape: tuple[int, int],
    *,
    fields: int = 1,
    per_field: int = PER_POSITION,
    axis: str = "t",
) -> Path:
    """Write a plate of blurred fields as OME-Zarr 0.5; returns `path`.

    Parameters
    ----------
    path : Path
    frames : int
        In all fields together; the last field may have fewer than `per_field`.
    shape : (int, int)
        Height and width of a frame.
    fields : int
        Fields per well.
    per_field : int
        Frames per field.
    axis : {"t", "z"}
        Axis of the frames of a field.
    """
    rng = np.random.default_rng(0)
    pixels = [sample_field(rng, shape) for _ in range(DISTINCT)]
    plate = zarr.open_group(path, mode="w")
    positions = -(-frames // (fields * per_field))
    names = [f"{chr(65 + n // 24 % 26)}{n // 624 or ''}/{n % 24 + 1}" for n in range(positions)]
    rows, columns = ([n.split("/")[i] for n in names] for i in (0, 1))
    row_names, column_names = list(dict.fromkeys(rows)), list(dict.fromkeys(columns))
    wells = [
        {"path": name, "rowIndex": row_names.index(row), "columnIndex": column_names.index(column)}
        for name, row, column in zip(names, rows, columns, strict=True)
    ]
    about: dict[str, Any] = {
        "name": path.stem,
        "rows": [{"name": row} for row in row_names],
        "columns": [{"name": column} for column in column_names],
        "wells": wells,
    }
    plate.attrs["ome"] = {"version": "0.5", "plate": about}
    for number, name in enumerate(names):
        well = plate.create_group(name)
        images = [{"path": str(field)} for field in range(fields)]
        well.attrs["ome"] = {"version": "0.5", "well": {"images": images}}
        for field in range(fields):
            left = frames - (number * fields + field) * per_field
            _write_field(well.create_group(str(field)), axis, min(per_field, left), pixels)
    return path


def _write_field(image: Any, axis: str, frames: int, pixels: Sequence[Pixels]) -> None:
    scale = [{"type": "scale", "scale": [2.0, 0.645, 0.645]}]
    space = ({"name": name, "type": "space", "unit": "micrometer"} for name in "zyx")
    axes = [{"name": "t", "type": "time"}, *space]
    axes = [each for each in axes if each["name"] in (axis, "y", "x")]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    multiscale = {"name": "field", "axes": axes, "datasets": datasets}
    image.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    height, width = pixels[0].shape
    array = image.create_array(
        "0",
        shape=(frames, height, width),
        dtype="uint16",
        chunks=(1, height, width),
        dimension_names=[axis, "y", "x"],
    )
    for at in range(frames):
        array[at] = pixels[at % len(pixels)]


def write_slide(path: Path, side_px: int) -> Path:
    """Write a square OME-Zarr image of one blurred specimen, repeated in both directions."""
    rng = np.random.default_rng(0)
    specimen = sample_field(rng, (SPECIMEN_PX, SPECIMEN_PX), SLIDE_BLUR_PX)
    image = zarr.open_group(path, mode="w")
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [0.325, 0.325]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    multiscale: dict[str, Any] = {"name": "slide", "axes": axes, "datasets": datasets}
    image.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    array = image.create_array(
        "0",
        shape=(side_px, side_px),
        dtype="uint16",
        chunks=(SPECIMEN_PX // 2, SPECIMEN_PX // 2),
        dimension_names=["y", "x"],
    )
    for top in range(0, side_px, SPECIMEN_PX):
        rows = min(SPECIMEN_PX, side_px - top)
        row = np.tile(specimen[:rows], -(-side_px // SPECIMEN_PX))
        array[top : top + rows] = row[:, :side_px]
    return path


def sample_field(rng: np.random.Generator, shape: tuple[int, int], blur_px: float = 6.0) -> Pixels:
    """Blurred squares, 2.7 times as wide as the blur, with noise; uint16."""
    sharp = np.zeros(shape, np.float32)
    half, room = round(blur_px * 4 / 3), 3000 * (blur_px / 6) ** 2
    for y, x in rng.random((max(2, round(shape[0] * shape[1] / room)), 2)) * shape:
        rows = slice(max(0, int(y) - half), int(y) + half)
        sharp[rows, max(0, int(x) - half) : int(x) + half] += 800.0
    noisy = 200 + gaussian_filter(sharp, blur_px, mode="wrap") + rng.normal(0, 6, shape)
    return noisy.clip(0, 65535).astype(np.uint16)
