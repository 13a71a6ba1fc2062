"""Refocused datasets as layers: raw, refocused and trust maps, channel by channel, read when shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.config import load_settings
from refocusd.datasets.dataset import find_dataset
from refocusd.datasets.output import Output
from refocusd.datasets.run_folder import trust_maps_of
from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.scale import channel_label, scale_of
from refocusd.formats.tiff.ome_export_plan import stack_z_step_um
from refocusd.frame import AxisValue
from refocusd.imaging.trust_map import AS_ACQUIRED
from refocusd.napari_plugin.layers import ESTIMATE, LayerData, spatial, trust_look
from refocusd.optional import need
from refocusd.view.frames.snapshot import auto_window

#: Colours of the channels in turn, if there are several.
COLOURS = ("green", "magenta", "cyan", "yellow", "red", "blue")
#: The last dimensions before y and x, after all others.
_INNER = ("time", "z")

#: Value of an axis in a frame; None if the frame has no such axis.
_Value = AxisValue | None


def get_reader(path: str | list[str]) -> Callable[[str | Path], list[LayerData]] | None:
    """The reader of a path, for napari; None if the path is not a refocused dataset."""
    if isinstance(path, str) and Output.at(Path(path)) is not None:
        return dataset_layers
    return None


def dataset_layers(path: str | Path) -> list[LayerData]:
    """The layers of one run: raw frames (if they are on disk), refocused frames, trust maps.

    Each channel has its own layers.  Other axes with more than one value are dimensions; `time` and
    `z` come last before y and x.  Frames that are not on disk are zero.

    Parameters
    ----------
    path : path
        Folder of the refocused dataset.

    Raises
    ------
    InputError
        If it cannot be read, or has no frames.
    """
    found = find_dataset(path, load_settings().ledgers)
    output = found.outputs[0]
    with ExitStack() as files:  # closed at the end; files are opened again for each frame

        def opened(place: Path) -> _Frames:
            return _Frames(files.enter_context(open_dataset(place)))

        refocused = opened(output.path)
        refocused.dataset.first_format()  # if there is no frame, this error says what to do
        images = [refocused] if found.raw is None else [opened(found.raw), refocused]
        maps = []
        with suppress(InputError):  # small frames have no maps, nor do those of older versions
            trust = opened(trust_maps_of(output.path))
            trust.dataset.first_format()
            maps.append(trust)
        about = {"model": output.model, "run": output.run, "note": ESTIMATE}
        return _layers(images, maps, about)


def _layers(images: list[_Frames], maps: list[_Frames], about: dict[str, str]) -> list[LayerData]:
    grid, refocused = _Grid.of(images), images[-1]
    size = (len(grid.names) + 2, *refocused.size_um(with_z=grid.names[-1:] == ("z",)))
    layers: list[LayerData] = []
    for frames in images + maps:
        for number, channel in enumerate(grid.channels):
            label = refocused.label(channel)
            if frames in maps:
                name, missing = f"trust {label}", AS_ACQUIRED
                look = {**trust_look(*size), "visible": not number}
            else:
                name, missing = f"{frames.dataset.name} {label}", 0
                several = len(grid.channels) > 1
                look = {
                    **spatial(*size),
                    "contrast_limits": _window(images, channel),
                    "colormap": COLOURS[number % len(COLOURS)] if several else "gray",
                    # The first channel covers the layers below: raw and refocused must not be added.
                    "blending": "additive" if number else "translucent",
                }
            array = grid.array(frames, channel, missing)
            look |= {"name": name.rstrip(), "axis_labels": (*grid.names, "y", "x")}
            look["metadata"] = {"refocusd": {**about, "axes": grid.values}}
            layers.append((array, look, "image"))
    return layers


@dataclass(slots=True, eq=False)
class _Frames:
    """A dataset, and the axes of its frames by channel and canonical key."""

    dataset: Dataset
    by_channel: dict[_Value, dict[str, dict[str, AxisValue]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in self.dataset.axes_keys():
            axes = json.loads(key)
            self.by_channel.setdefault(axes.get("channel"), {})[key] = axes

    def size_um(self, *, with_z: bool) -> tuple[float | None, float | None]:
        """Size of a pixel, and distance between planes, um; None if not known."""
        scale = scale_of(self.dataset.metadata(self.dataset.axes_keys()[0]), self.dataset.summary)
        if not with_z:
            return scale.pixel_um, None
        return scale.pixel_um, scale.z_um or stack_z_step_um(self.dataset, self.by_channel.values())

    def label(self, channel: _Value) -> str:
        """Name of a channel; empty if there is only one without a name."""
        given = channel_label(channel, self.dataset.summary)
        return given or ("" if channel is None else str(channel))


@dataclass(frozen=True, slots=True)
class _Grid:
    """The dimensions that datasets of the same acquisition have in common.

    Parameters
    ----------
    values : mapping of str to list
        Values along each dimension, outermost first: an axis with more than one value is a
        dimension, except the channel.
    channels : list of int, str or None
        Values of the channel axis; None stands for frames without one.
    """

    values: dict[str, list[_Value]]
    channels: list[_Value]

    @classmethod
    def of(cls, datasets: list[_Frames]) -> _Grid:
        found: dict[str, dict[_Value, None]] = {}
        every = [
            axes for each in datasets for some in each.by_channel.values() for axes in some.values()
        ]
        for name in {name: None for axes in every for name in axes}:
            found[name] = dict.fromkeys(axes.get(name) for axes in every)
        # Numbers are sorted; names keep the order of the acquisition.
        values = {
            name: sorted(some, key=lambda value: value if isinstance(value, int) else -1)
            for name, some in found.items()
        }
        channels = values.pop("channel", [None])
        order = sorted(values, key=lambda name: _INNER.index(name) if name in _INNER else -1)
        return cls({name: values[name] for name in order if len(values[name]) > 1}, channels)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.values)

    def array(self, frames: _Frames, channel: _Value, missing: int) -> Any:
        """The frames of a channel as one dask array; each is read when it is needed."""
        dataset, form = frames.dataset, frames.dataset.first_format()
        places = {
            name: {value: at for at, value in enumerate(v)} for name, v in self.values.items()
        }
        keys = {
            tuple(places[name].get(axes.get(name)) for name in places): key
            for key, axes in frames.by_channel.get(channel, {}).items()
        }
        lock = threading.Lock()  # a reader is for one thread at a time

        def block(block_id: tuple[int, ...]) -> NDArray[Any]:
            shape = (1,) * len(places) + (form.height, form.width)
            key = keys.get(block_id[:-2])
            if key is None:
                return np.full(shape, missing, form.dtype)
            # No file stays open: on Windows its owner could not move or delete it.
            with lock, dataset:
                return dataset.read(key).pixels.reshape(shape)

        steps = tuple((1,) * len(values) for values in self.values.values())
        return need("dask.array", "the plugin for napari", "napari").map_blocks(
            block,
            chunks=(*steps, (form.height,), (form.width,)),
            dtype=form.dtype,
            meta=np.empty((0,) * (len(steps) + 2), form.dtype),
        )


def _window(images: list[_Frames], channel: _Value) -> tuple[float, float]:
    """One contrast for raw and refocused frames, from the middle frame."""
    keys = list(images[-1].by_channel.get(channel) or images[0].by_channel[channel])
    key = keys[len(keys) // 2]
    window = auto_window(*(each.dataset.read(key).pixels for each in images if key in each.dataset))
    return window.low, window.high
