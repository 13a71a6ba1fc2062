"""Builds what is recorded of a refocused frame: its metadata, and its attempt in the ledger."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import msgspec

from refocusd import __version__
from refocusd.daemon.output.jobs import WriteFrame
from refocusd.errors import OutputError
from refocusd.frame import FinalState
from refocusd.ledger import WRITTEN, Attempt
from refocusd.transport.messages import FocusAdvice, FrameFacts


def frame_metadata(run: str, job: WriteFrame, state: FinalState, reason: str) -> dict[str, Any]:
    """The microscope's metadata of a frame, with a ``refocusd`` object added.

    Raises
    ------
    OutputError
        If the frame's own metadata is not JSON.
    """
    submit, engine = job.submit, job.engine
    try:
        metadata = json.loads(submit.metadata or "{}")
    except ValueError as error:
        raise OutputError(f"the frame's metadata is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        metadata = {"metadata": metadata}
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
        "checksum": job.checksum,
        "raw_checksum": submit.checksum,
        "calibration": None,  # replaced by the facts if a profile applied
        **_known_values(job.facts),
    }
    if job.focus is not None:
        metadata["refocusd"]["focus"] = _known_values(job.focus)
    return metadata


def attempt_of(run: str, job: WriteFrame, state: FinalState, reason: str) -> Attempt:
    """The attempt at a frame that was to be written, as the ledger records it; its latency ends now."""
    submit, facts = job.submit, job.facts
    return Attempt(
        run=run,
        acquisition=submit.acquisition,
        axes=submit.axes,
        state=state,
        reason=reason,
        live=submit.live,
        latency_ms=(time.perf_counter_ns() - submit.taken_ns) / 1e6,
        engine_ms=facts.engine_ms,
        facts=msgspec.to_builtins(facts),
        checksum=job.checksum if state in WRITTEN else None,
        raw_checksum=submit.checksum,
    )


def _known_values(facts: FrameFacts | FocusAdvice) -> dict[str, Any]:
    """Facts as plain values: floats have six significant digits; None and NaN (not JSON) are left out."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in msgspec.structs.asdict(facts).items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }
