"""Frames as the page gets them: a JSON header, then raw counts of both frames.

::

    u32 length of the header (little-endian), header (JSON, padded with blanks to
    a multiple of 8 bytes with its length word), raw pixels, refocused pixels

Pixels are little-endian counts of the header's ``dtype``, shape ``rows ×
columns``; a frame that is not there is named in ``missing`` and left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from refocusd.formats.metadata import number_or_none, plausible_pixel_um
from refocusd.frame import Pixels
from refocusd.transport.messages import FrameFacts
from refocusd.view.frames.datasets import FramePair
from refocusd.view.state.board import Board, Preview
from refocusd.view.state.report import json_bytes

__all__ = ["frame_bytes", "pair_header", "pixel_um", "preview_header", "reduced", "step_for"]

#: Metadata that the page shows beside a frame, where the microscope gave them.
_SHOWN = (
    "Exposure",
    "ElapsedTime-ms",
    "ZPosition_um_Intended",
    "Camera",
    "Binning",
    "ReceivedTime",
)


#: Why frames pass through an engine without a network, as the ledger has it.
IDENTITY = "identity engine"


def step_for(height: int, width: int, side: int) -> int:
    """Every how many pixels are shown so that no side is longer than `side`."""
    return max(1, math.ceil(max(height, width) / side))


def reduced(pixels: Pixels, step: int) -> Pixels:
    """Every `step`-th pixel: counts that were measured, not averages."""
    return cast("Pixels", np.ascontiguousarray(pixels[::step, ::step]))


def pixel_um(metadata: Mapping[str, Any]) -> float | None:
    """Width of a pixel in the specimen, in um, if the microscope was told it."""
    # Micro-Manager's Java side writes the first name, pycromanager's Python side the second.
    for name in ("PixelSizeUm", "PixelSize_um"):
        um = plausible_pixel_um(number_or_none(metadata.get(name)))
        if um is not None:
            return um
    return None


def preview_header(board: Board, preview: Preview, step: int) -> dict[str, Any]:
    """What is said of a live frame; `step` is over the whole frame."""
    shown = preview.shown
    status = board.last_status
    engine = status.engine if status is not None else None
    return {
        "id": f"{board.boot}-{preview.number}",
        "live": True,
        "acquisition": shown.acquisition,
        "name": shown.name,
        "axes": dict(preview.axes),
        "state": shown.state,
        "reason": IDENTITY if engine is not None and engine.backend == "identity" else "",
        "height": shown.height,
        "width": shown.width,
        "dtype": shown.dtype,
        "step": step,
        "left": 0,
        "top": 0,
        "pixel_um": pixel_um(preview.metadata),
        "latency_ms": shown.latency_ms,
        "caught_up": not shown.live,
        "facts": _facts(shown.facts),
        "metadata": _metadata(preview.metadata),
        "missing": [],
    }


def pair_header(pair: FramePair, step: int, left: int = 0, top: int = 0) -> dict[str, Any]:
    """What is said of a frame from disk."""
    made_by = pair.made_by
    state = made_by.get("state") if pair.refocused is not None else "pending"
    missing = [name for name in ("raw", "refocused") if getattr(pair, name) is None]
    known = pair.raw if pair.raw is not None else pair.refocused
    assert known is not None
    facts = {name: made_by.get(name) for name in FrameFacts.__struct_fields__}
    return {
        "id": f"{pair.acquisition.id}-{pair.key}",
        "live": False,
        "acquisition": pair.acquisition.id,
        "name": pair.acquisition.name,
        "axes": json.loads(pair.key),
        "state": state if isinstance(state, str) else "unknown",
        "reason": str(made_by.get("reason", "")),
        "height": known.shape[0],
        "width": known.shape[1],
        "dtype": known.dtype.name,
        "step": step,
        "left": left,
        "top": top,
        "pixel_um": pixel_um(pair.metadata),
        "latency_ms": made_by.get("latency_ms"),
        "caught_up": made_by.get("live") is False,
        "facts": facts if made_by else None,
        "metadata": _metadata(pair.metadata),
        "missing": missing,
    }


def frame_bytes(
    header: Mapping[str, Any], *frames: Pixels | None
) -> tuple[bytes | memoryview, ...]:
    """The parts of one answer; all frames have one shape.

    Parameters
    ----------
    header : mapping
        Gets ``rows`` and ``columns``.
    frames : ndarray of uint8 or uint16, shape (rows, columns), or None
        C-contiguous; None is left out.
    """
    there = [frame for frame in frames if frame is not None]
    rows, columns = there[0].shape
    text = json_bytes({**header, "rows": rows, "columns": columns})
    text += b" " * (-(4 + len(text)) % 8)
    little: list[NDArray[Any]] = [
        frame.astype(frame.dtype.newbyteorder("<"), copy=False) for frame in there
    ]
    return (
        len(text).to_bytes(4, "little") + text,
        *(frame.data.cast("B") for frame in little),
    )


def _facts(facts: FrameFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in facts.__struct_fields__}


def _metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(metadata[name])[:80] for name in _SHOWN if name in metadata}
