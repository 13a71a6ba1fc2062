"""Frames of several cameras to which one acquisition gives the same axes.

With Micro-Manager's Multi Camera, every event gives one frame per camera, all with the event's
axes.  A raw dataset keeps only the last frame that is written under the same axes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refocusd.formats.sink import WrittenKeys
from refocusd.frame import REPEAT, Axes, canonical_axes

#: Axis by which cameras are distinguished.
AXIS = "camera"
#: At most this many events are remembered of which frames of some cameras are still to come.
MAX_OPEN = 10_000


class Cameras:
    """Finds out which camera took a frame, if there is more than one.

    Parameters
    ----------
    names : callable
        Returns the names of all cameras that an event exposes.  It is called once, at the first
        frame, because the core may answer only after an exposure.
    """

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self._ask = names
        self._names: Sequence[str] | None = None
        self._come: Counter[str] = Counter()

    def camera_of(self, metadata: Mapping[str, Any]) -> str:
        """Name of the camera that took a frame; empty if there is only one, or its axes name it."""
        if self._names is None:
            self._names = list(self._ask())
        if len(self._names) < 2 or AXIS in metadata["Axes"]:
            return ""
        # In a sequence, the key begins with the name of the device that joins the cameras.
        said = next((metadata[k] for k in metadata if k.endswith("CameraChannelIndex")), None)
        text = str(said)
        place = int(text) if text.isdecimal() else -1
        return self._names[place] if 0 <= place < len(self._names) else ""

    def others_come(self, key: str) -> bool:
        """Note one more frame of these axes; True if another camera's frame will replace it."""
        assert self._names is not None
        self._come[key] += 1
        if self._come[key] >= len(self._names):
            del self._come[key]
            return False
        if len(self._come) > MAX_OPEN:
            del self._come[next(iter(self._come))]
        return True


class DistinctAxes:
    """Gives each frame axes that no earlier one had, if necessary with the further axis ``repeat``."""

    def __init__(self) -> None:
        self._taken = WrittenKeys()
        self._repeats: Counter[str] = Counter()

    def __contains__(self, key: str) -> bool:
        """Whether a frame has these canonical axes."""
        return key in self._taken

    def of(self, axes: Axes) -> Axes:
        """The axes as they are, or with a number on the axis ``repeat``."""
        first = canonical_axes(axes)
        chosen, key = axes, first
        while key in self._taken:
            self._repeats[first] += 1
            chosen = {**axes, REPEAT: self._repeats[first]}
            key = canonical_axes(chosen)
        self._taken.add(key)
        return chosen


def names_by_core() -> list[str]:
    """Names of the cameras that the core of pycromanager's Python backend exposes together."""
    from mmpycorex import Core

    core = Core()
    count = core.get_number_of_camera_channels()
    return [str(core.get_camera_channel_name(index)) for index in range(count)]
