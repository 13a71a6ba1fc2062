"""Previews of the newest frames: one for each channel, slice and position."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refocusd.formats.metadata import json_object
from refocusd.frame import Axes, Pixels, canonical_axes
from refocusd.transport.messages import Shown

#: Limits on the previews that are kept; the oldest go first.
MAX_PREVIEWS = 24
MAX_PREVIEW_NBYTES = 96 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """A reduced frame, the newest with its axes apart from time.

    Parameters
    ----------
    number : int
        Counts up from 1 in this process.
    shown : Shown
        The daemon's message about it.
    raw, refocused : ndarray, shape (ceil(height / step), ceil(width / step))
        Every `step`-th pixel, in counts.
    axes, metadata : mapping
    """

    number: int
    shown: Shown
    raw: Pixels
    refocused: Pixels
    axes: Axes
    metadata: Mapping[str, Any]


class Previews:
    """The previews, bounded in number and bytes; the owner holds a lock around each call."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: OrderedDict[tuple[str, str], Preview] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, shown: Shown, raw: Pixels, refocused: Pixels) -> None:
        """Keep a frame, instead of the previous one that differs from it in time only."""
        axes = json_object(shown.axes) or {}
        kind = {name: str(value) for name, value in axes.items() if name != "time"}
        key = shown.acquisition, canonical_axes(kind)
        self.count += 1
        metadata = json_object(shown.metadata) or {}
        self._kept[key] = Preview(self.count, shown, raw, refocused, axes, metadata)
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_PREVIEWS or (
            len(self._kept) > 1
            and sum(2 * p.raw.nbytes for p in self._kept.values()) > MAX_PREVIEW_NBYTES
        ):
            self._kept.popitem(last=False)

    def newest(self, match: Axes, acquisition: str) -> Preview | None:
        """The newest frame with these axes; of any acquisition if `acquisition` is empty."""
        return next(
            (
                preview
                for preview in reversed(self._kept.values())
                if acquisition in ("", preview.shown.acquisition)
                and match.items() <= preview.axes.items()
            ),
            None,
        )
