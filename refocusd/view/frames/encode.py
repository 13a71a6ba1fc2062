"""Frames as they are sent to the page: a JSON header, then the counts of both frames.

::

    u32 length of the header (little-endian), header (JSON, padded with blanks to
    a multiple of 8 bytes with its length word), raw pixels, refocused pixels

Pixels are little-endian counts of the header's ``dtype``, shape ``rows ×
columns``. A frame that does not exist is named in ``missing`` and left out.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refocusd.frame import Pixels
from refocusd.imaging.trust_map import CELL_PX, trust_shape
from refocusd.profiles.microscope_metadata import pixel_um_of
from refocusd.transport.messages import FrameFacts
from refocusd.view.frames.datasets import FramePair
from refocusd.view.json_text import json_bytes
from refocusd.view.state.view_state import Preview, ViewState

#: Metadata that the page shows beside a frame, if the microscope gave them.
_SHOWN = (
    "Exposure",
    "ElapsedTime-ms",
    "ZPosition_um_Intended",
    "Camera",
    "Binning",
    "ReceivedTime",
)


#: Reason in the ledger why frames pass through an engine that has no network.
IDENTITY = "identity engine"


@dataclass(frozen=True, slots=True)
class Region:
    """The part of a frame that is sent: every `step`-th pixel of a rectangle, never averages."""

    left: int
    top: int
    right: int
    bottom: int
    step: int = 1

    def of(self, pixels: Pixels) -> Pixels:
        """The counts of the region."""
        return pixels[self.top : self.bottom : self.step, self.left : self.right : self.step]


def step_for(shape: tuple[int, ...], side: int) -> int:
    """The smallest step between shown pixels with which no side is longer than `side`."""
    return max(1, math.ceil(max(shape) / side))


def preview_bytes(state: ViewState, preview: Preview, step: int) -> bytes:
    """A live frame: every `step`-th pixel of the preview."""
    shown = preview.shown
    status = state.last_status
    engine = status.engine if status is not None else None
    header = {
        "id": state.id_of(preview),
        "live": True,
        "acquisition": shown.acquisition,
        "name": shown.name,
        "axes": preview.axes,
        "state": shown.state,
        "reason": IDENTITY if engine is not None and engine.backend == "identity" else "",
        "height": shown.height,
        "width": shown.width,
        "dtype": shown.dtype,
        "step": shown.step * step,
        "left": 0,
        "top": 0,
        "pixel_um": pixel_um_of(preview.metadata),
        "latency_ms": shown.latency_ms,
        "caught_up": not shown.live,
        "facts": shown.facts,
        "metadata": _metadata(preview.metadata),
        "trust": _trust((shown.height, shown.width), shown.trust),
        "missing": [],
    }
    height, width = preview.raw.shape
    whole = Region(0, 0, width, height, step)
    return _frame_bytes(header, [whole.of(preview.raw), whole.of(preview.refocused)])


def pair_bytes(pair: FramePair, region: Region) -> bytes:
    """A frame from disk, or a part of it."""
    made_by = pair.made_by
    frames = pair.frames
    height, width = pair.shape
    state = made_by.get("state") if "refocused" in frames else "pending"
    facts = {name: made_by.get(name) for name in FrameFacts.__struct_fields__}
    header = {
        "id": f"{pair.acquisition.id}-{pair.key}",
        "live": False,
        "acquisition": pair.acquisition.id,
        "name": pair.acquisition.name,
        "axes": json.loads(pair.key),
        "state": state if isinstance(state, str) else "unknown",
        "reason": str(made_by.get("reason", "")),
        "height": height,
        "width": width,
        "dtype": next(iter(frames.values())).dtype.name,
        "step": region.step,
        "left": region.left,
        "top": region.top,
        "pixel_um": pixel_um_of(pair.metadata),
        "latency_ms": made_by.get("latency_ms"),
        "caught_up": made_by.get("live") is False,
        "facts": facts if made_by else None,
        "metadata": _metadata(pair.metadata),
        "trust": _trust(pair.shape, pair.trust),
        "missing": [name for name in ("raw", "refocused") if name not in frames],
    }
    return _frame_bytes(header, [region.of(pixels) for pixels in frames.values()])


def _frame_bytes(header: Mapping[str, Any], frames: list[Pixels]) -> bytes:
    """Header and frames of one shape; ``rows`` and ``columns`` are added to the header."""
    rows, columns = frames[0].shape
    text = json_bytes({**header, "rows": rows, "columns": columns})
    text += b" " * (-(4 + len(text)) % 8)
    little = (frame.astype(frame.dtype.newbyteorder("<"), copy=False) for frame in frames)
    return b"".join((len(text).to_bytes(4, "little"), text, *(f.tobytes() for f in little)))


def _trust(shape: tuple[int, int], cells: bytes) -> dict[str, Any] | None:
    """The trust map of a frame for the header, if `cells` fits the frame's shape."""
    rows, columns = trust_shape(shape)
    if len(cells) != rows * columns:
        return None
    text = base64.b64encode(cells).decode()
    return {"rows": rows, "columns": columns, "cell_px": CELL_PX, "cells": text}


def _metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(metadata[name])[:80] for name in _SHOWN if name in metadata}
