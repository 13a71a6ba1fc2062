"""OME-Zarr stores as the field's own writers write them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

#: Wells and fields of `write_plate`.
FIELDS = ("A/1/0", "A/1/1", "B/03/0")
_SIZES = {"t": 2, "c": 2, "z": 3, "y": 48, "x": 64}
_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_STEPS = {"t": 30.0, "c": 1.0, "z": 2.0, "y": 0.65, "x": 0.65}
_UNITS = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}


def pixels_of(shape: Sequence[int], seed: int = 0) -> NDArray[np.uint16]:
    """Blurred spots, different in each frame."""
    rng = np.random.default_rng(seed)
    frames = rng.random((int(np.prod(shape[:-2])), *shape[-2:])) < 0.01
    glow = np.stack([gaussian_filter(frame * 40_000.0, 2.0) for frame in frames])
    return (
        (150 + glow + rng.normal(0, 2, glow.shape)).clip(1, 65535).astype(np.uint16).reshape(shape)
    )


def write_image(
    folder: Path,
    *,
    axes: str = "tczyx",
    version: str = "0.5",
    levels: int = 2,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    compressors: Any = "auto",
    channels: Sequence[str] = ("DAPI", "GFP"),
    seed: int = 0,
    dtype: str = "uint16",
) -> NDArray[Any]:
    """Write one multiscale image with the zarr library; returns its pixels."""
    form = 2 if version == "0.4" else 3
    shape = tuple(_SIZES[axis] for axis in axes)
    pixels = pixels_of(shape, seed).astype(dtype)
    group = zarr.open_group(folder, mode="a", zarr_format=form)  # type: ignore[arg-type]
    datasets = []
    for level in range(levels):
        data = pixels[..., :: 2**level, :: 2**level]
        form_only: dict[str, Any] = {} if form == 2 else {"dimension_names": list(axes)}
        array = group.create_array(
            str(level),
            shape=data.shape,
            dtype=data.dtype,
            chunks=tuple(chunks or (*([1] * (len(axes) - 2)), *data.shape[-2:])),
            shards=None if shards is None else tuple(shards),
            compressors=compressors,
            chunk_key_encoding={"name": "v2" if form == 2 else "default", "separator": "/"},
            **form_only,
        )
        array[:] = data
        scale = [_STEPS[a] * (2**level if a in "yx" else 1) for a in axes]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [{"type": "scale", "scale": scale}],
            }
        )
    described = {
        "multiscales": [
            {
                "name": folder.name,
                "axes": [
                    {"name": a, "type": _TYPES[a]} | ({"unit": _UNITS[a]} if a in _UNITS else {})
                    for a in axes
                ],
                "datasets": datasets,
                **({"version": version} if form == 2 else {}),
            }
        ]
    }
    if "c" in axes:
        window = {"min": 0, "max": 65535, "start": 100, "end": 9000}
        described["omero"] = {  # type: ignore[assignment]
            "channels": [
                {"label": label, "color": "FFFFFF", "active": True, "window": window}
                for label in channels
            ]
        }
    _attributes(group, described, version)
    return pixels


def write_plate(
    folder: Path, *, version: str = "0.5", fields: Sequence[str] = FIELDS, **image: Any
) -> dict[str, NDArray[Any]]:
    """Write a plate with the zarr library; returns the pixels of each field."""
    form = 2 if version == "0.4" else 3
    wells = list(dict.fromkeys(field.rpartition("/")[0] for field in fields))
    rows = sorted({well.split("/")[0] for well in wells})
    columns = sorted({well.split("/")[1] for well in wells})
    plate = zarr.open_group(folder, mode="w", zarr_format=form)  # type: ignore[arg-type]
    about = {
        "name": "screen 7",
        "rows": [{"name": row} for row in rows],
        "columns": [{"name": column} for column in columns],
        "field_count": len(fields),
        "wells": [
            {
                "path": well,
                "rowIndex": rows.index(well.split("/")[0]),
                "columnIndex": columns.index(well.split("/")[1]),
            }
            for well in wells
        ],
    }
    _attributes(plate, {"plate": about | {"version": version}}, version)
    for well in wells:
        inside = [field.rpartition("/")[2] for field in fields if field.startswith(well + "/")]
        said: dict[str, Any] = {"images": [{"path": name} for name in inside]}
        group = plate.require_group(well)
        _attributes(group, {"well": said | {"version": version}}, version)
    return {
        field: write_image(folder / field, version=version, seed=number, **image)
        for number, field in enumerate(fields)
    }


def _attributes(group: Any, said: dict[str, Any], version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if version == "0.4":
            group.attrs.update(said)
        else:
            group.attrs["ome"] = {"version": version, **said}
