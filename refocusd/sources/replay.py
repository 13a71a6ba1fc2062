"""A recording, submitted to a daemon as if it were acquired now."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from refocusd.datasets.identity import fingerprint
from refocusd.formats.dataset import Dataset, Plan
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.from_disk import submit_frames
from refocusd.transport.messages import Counts, Open, Opened, Outcome


def recorded_times_s(plan: Plan) -> list[float] | None:
    """Seconds from the first frame to each, or None if the recording does not state them.

    None also if the times decrease (one file of several series, or a clock that was set) or are
    all the same.
    """
    times = plan.elapsed_ms
    if len(times) < 2 or any(t is None for t in times):
        return None
    known = [float(t) for t in times if t is not None]
    steps = np.diff(known)
    if steps.min() < 0 or known[-1] <= known[0]:
        return None
    return [(t - known[0]) / 1e3 for t in known]


def replay(
    recording: Dataset,
    endpoint: str,
    output: Path,
    *,
    times_s: list[float] | None,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_opened: Callable[[Opened], None] | None = None,
) -> Counts:
    """Submit every frame of a recording and wait until all have a final state.

    Parameters
    ----------
    recording : Dataset
    endpoint : str
        The daemon's address.
    output : Path
        Folder of the refocused dataset; must not exist.
    times_s, on_outcome, on_opened
        As in `submit_frames`, which also lists the errors raised.
    """
    form = recording.first_format()
    keys = recording.axes_keys()
    first = recording.read(recording.first_key())
    open_ = Open(
        acquisition=str(uuid.uuid4()),
        name=recording.name,
        height=form.height,
        width=form.width,
        dtype=form.dtype_name,
        raw="",
        output=str(output.resolve()),
        summary=json.dumps(dict(recording.summary), default=str),
        expected=len(keys),
        report=True,
        first=first_of(first.metadata, first.axes.get("channel", "")),
        recording=msgspec.json.encode(fingerprint(recording)).decode(),
    )
    closed = submit_frames(
        recording,
        keys,
        endpoint,
        open_,
        acquired=len(keys),
        live=True,
        times_s=times_s,
        on_outcome=on_outcome,
        on_opened=on_opened,
    )
    return closed.counts
