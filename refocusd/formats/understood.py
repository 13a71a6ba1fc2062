"""How a dataset was understood, in one line for a person."""

from __future__ import annotations

import json

from refocusd.formats.dataset import Dataset
from refocusd.formats.scale import channel_label, scale_of
from refocusd.frame import AxisValue, counted

ORDER = ("time", "position", "z", "channel")
#: Names of more channels than this are not listed.
MAX_NAMES = 6


def understood(dataset: Dataset) -> str:
    """Axes and sizes, channels, pixel size, distance of planes, and what said so.

    Raises
    ------
    InputError
        If the metadata of the first frame cannot be read.
    """
    keys = dataset.axes_keys()
    if not keys:
        return f"{dataset.name}: no frames; by {dataset.source}"
    #: Of each axis its values, and the first frame of each.
    values: dict[str, dict[AxisValue, str]] = {}
    for key in keys:
        for axis, value in json.loads(key).items():
            values.setdefault(axis, {}).setdefault(value, key)
    order = [*(axis for axis in ORDER if axis in values), *(a for a in values if a not in ORDER)]
    sizes = " × ".join(f"{axis} {len(values[axis])}" for axis in order)
    summary = dataset.summary
    several = values.get("channel", {})
    few = len(several) <= MAX_NAMES
    names = [
        channel_label(value, summary, dataset.metadata(key) if few else {})
        for value, key in several.items()
    ]
    names = [name for name in names if name] or [n for n in [channel_label(None, summary)] if n]
    channels = f" (channels {', '.join(names)})" if 0 < len(names) <= MAX_NAMES else ""
    scale = scale_of(dataset.metadata(keys[0]), summary)
    pixel = f"{scale.pixel_um:g} µm a pixel" if scale.pixel_um else "pixel size not known"
    step = f", planes {scale.z_um:g} µm apart" if scale.z_um else ""
    what = f"{counted(len(keys))} of {dataset.first_format()}: {sizes or 'no axes'}{channels}"
    return f"{dataset.name}: {what}; {pixel}{step}; by {dataset.source}"
