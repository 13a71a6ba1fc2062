"""Images of an OME-Zarr (0.4 or 0.5) as recordings, read by the zarr library."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import ConfigError, InputError
from refocusd.formats.dataset import Dataset, Plan
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import AxisValue, Pixels, canonical_axes, checked_pixels

__all__ = ["OmeZarrImage", "ome_zarr_images"]

#: Groups of a plate lie three below it: row, column, field.
MOST_DEPTH = 3
_AXES = {"t": "time", "c": "channel", "z": "z"}
_UM = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3}


def ome_zarr_images(folder: Path, depth: int = MOST_DEPTH) -> list[Path]:
    """Groups at or below a folder that are images, without their labels; none if it is no Zarr."""
    attributes = _attributes(folder)
    if attributes is None:
        return []
    if "multiscales" in attributes:
        return [folder]
    if depth == 0:
        return []
    inner = sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name != "labels")
    return [image for entry in inner for image in ome_zarr_images(entry, depth - 1)]


def _attributes(folder: Path) -> dict[str, Any] | None:
    """OME metadata of a Zarr group of version 2 or 3; None if it is none."""
    for name in ("zarr.json", ".zattrs", ".zgroup"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}): repair or remove it") from error
        if name == "zarr.json":
            found = found.get("attributes", {}) if isinstance(found, dict) else {}
        found = found.get("ome", found) if isinstance(found, dict) else {}
        return found if isinstance(found, dict) else {}
    return None


class OmeZarrImage(Dataset):
    """The full resolution of one image.

    Parameters
    ----------
    folder : Path
        Its group.

    Raises
    ------
    ConfigError
        If the zarr library is not installed.
    InputError
        If the group cannot be read, or is no image of uint8 or uint16.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import zarr
        except ImportError as error:
            raise ConfigError(
                f"{folder} is an OME-Zarr, and zarr is not installed: pip install 'refocusd[zarr]'"
            ) from error
        super().__init__(folder)
        try:
            described = (_attributes(folder) or {})["multiscales"][0]
            dataset = described["datasets"][0]
            names = [str(axis["name"]) for axis in described["axes"]]
            units = [str(axis.get("unit", "micrometer")) for axis in described["axes"]]
            scale = _scale(dataset, len(names))
            self._array: Any = zarr.open_array(str(folder / str(dataset["path"])), mode="r")
        except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
            raise InputError(f"{folder} is not a readable OME-Zarr image ({error!r})") from error
        shape, dtype = self._array.shape, np.dtype(self._array.dtype)
        if names[-2:] != ["y", "x"] or len(shape) != len(names) or set(names[:-2]) - set(_AXES):
            raise InputError(f"{folder} has the axes {names}; t, c, z, y, x in this order are read")
        if dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
            raise InputError(f"{folder} has pixels of type {dtype}; uint8 and uint16 are read")
        outer = [_AXES[name] for name in names[:-2]]
        channels = _channels(_attributes(folder) or {})
        indices = list(itertools.product(*(range(n) for n in shape[:-2])))
        lengths = dict(zip(names, zip(scale, units, strict=True), strict=True))
        self._summary = {"z-step_um": _um(*lengths["z"])} if "z" in lengths else {}
        self._plan = Plan(
            axes=tuple(
                {axis: _value(axis, at, channels) for axis, at in zip(outer, index, strict=True)}
                for index in indices
            ),
            elapsed_ms=(None,) * len(indices),
            format=PageFormat(shape[-2], shape[-1], dtype),
            pixel_um=_um(*lengths["x"]),
        )
        self._frames = dict(zip(map(canonical_axes, self._plan.axes), indices, strict=True))

    @property
    def summary(self) -> dict[str, Any]:
        """The distance of planes, where it is said."""
        return self._summary

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _format(self, key: str) -> PageFormat:  # noqa: ARG002
        assert self._plan is not None
        return self._plan.format

    def _metadata(self, key: str) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def _pixels(self, key: str) -> Pixels:
        try:
            return checked_pixels(np.ascontiguousarray(self._array[self._frames[key]]))
        except (OSError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(f"frame {key} of {self.path} cannot be read ({error})") from error


def _scale(dataset: dict[str, Any], axes: int) -> list[float]:
    for transformation in dataset.get("coordinateTransformations", ()):
        if transformation.get("type") == "scale":
            return [float(value) for value in transformation["scale"]]
    return [math.nan] * axes


def _um(length: float, unit: str) -> float | None:
    um = length * _UM.get(unit, math.nan)
    return um if math.isfinite(um) and um > 0 else None


def _channels(attributes: dict[str, Any]) -> list[str]:
    omero = attributes.get("omero")
    channels = omero.get("channels", ()) if isinstance(omero, dict) else ()
    return [str(channel.get("label", number)) for number, channel in enumerate(channels)]


def _value(axis: str, index: int, channels: list[str]) -> AxisValue:
    return channels[index] if axis == "channel" and index < len(channels) else index
