"""What the writer is ordered to do, and what a frame's metadata then say."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from refocusd import __version__
from refocusd.errors import OutputError
from refocusd.frame import FinalState
from refocusd.profiles.applied import Applied
from refocusd.transport.messages import EngineInfo, Engines, FocusAdvice, FrameFacts, Open, Submit

__all__ = [
    "CloseSink",
    "NoteProfiles",
    "OpenSink",
    "Order",
    "RecordOnly",
    "WriteFrame",
    "frame_metadata",
    "state_of",
]


@dataclass(frozen=True, slots=True)
class OpenSink:
    """Make room for an acquisition."""

    open: Open
    run: str
    engine: Engines


@dataclass(frozen=True, slots=True)
class NoteProfiles:
    """The calibration profiles of an acquisition that is about to be opened."""

    acquisition: str
    applied: Applied


@dataclass(frozen=True, slots=True)
class WriteFrame:
    """Write the refocused half of a frame's slot."""

    task: int
    submit: Submit
    checksum: int
    facts: FrameFacts
    engine: EngineInfo
    focus: FocusAdvice | None


@dataclass(frozen=True, slots=True)
class RecordOnly:
    """Record frames that have no pixels to write."""

    task: int
    acquisition: str
    axes: tuple[str, ...]
    state: FinalState
    reason: str
    live: bool


@dataclass(frozen=True, slots=True)
class CloseSink:
    """Close an acquisition; `acquired` is None for one that is not complete."""

    acquisition: str
    acquired: int | None


Order = OpenSink | NoteProfiles | WriteFrame | RecordOnly | CloseSink


def frame_metadata(run: str, order: WriteFrame, state: FinalState, reason: str) -> dict[str, Any]:
    """What the microscope said of a frame, and one ``refocusd`` object of ours.

    Raises
    ------
    OutputError
        If the frame's own metadata are no JSON.
    """
    submit, engine = order.submit, order.engine
    metadata = _metadata(submit.metadata)
    metadata["refocusd"] = {
        "version": __version__,
        "run": run,
        "model": engine.model_id,
        "model_sha256": engine.model_sha256,
        "engine": engine.key,
        "precision": engine.precision,
        "state": state,
        "reason": reason,
        "live": submit.live,
        "latency_ms": round((time.perf_counter_ns() - submit.taken_ns) / 1e6, 3),
        "checksum": order.checksum,
        "raw_checksum": submit.checksum,
        "calibration": None,  # unless a profile applied: the documented defaults do
        **_rounded(order.facts),
    }
    if order.focus is not None:
        metadata["refocusd"]["focus"] = _rounded(order.focus)
    return metadata


def state_of(order: WriteFrame) -> tuple[FinalState, str]:
    """The final state of a frame that a worker has done, and why."""
    refocused = order.facts.verdict == "refocused"
    if order.engine.backend == "identity":
        return "refocused" if refocused else "passed_through", "identity engine"
    return ("refocused", "") if refocused else ("passed_through", "already in focus")


def _rounded(facts: FrameFacts | FocusAdvice) -> dict[str, Any]:
    """What is known as plain values, floats to six significant digits."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in msgspec.structs.asdict(facts).items()
        # JSON has no NaN; what is not known is left out.
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


def _metadata(text: str) -> dict[str, Any]:
    try:
        metadata = json.loads(text or "{}")
    except ValueError as error:
        raise OutputError(f"the frame's metadata is not JSON: {error}") from error
    return metadata if isinstance(metadata, dict) else {"metadata": metadata}
