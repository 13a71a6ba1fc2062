"""A recording, submitted frame by frame at a chosen rate, as if acquired now."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from refocusd import __version__
from refocusd.errors import InputError, TransportError
from refocusd.frame import canonical_axes
from refocusd.sources.recording.recording import Recording, RecordingPlan
from refocusd.transport.client import SILENCE_S, Connection, Upload
from refocusd.transport.messages import Counts, Open, Outcome

__all__ = ["recorded_times_s", "replay"]


def recorded_times_s(plan: RecordingPlan) -> list[float] | None:
    """Seconds from the first frame to each, or None if the recording does not tell.

    Times that do not increase are no rate (one file of several series, a clock
    that was set): None as well.
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
    recording: Recording,
    endpoint: str,
    output: Path,
    *,
    times_s: list[float] | None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Counts:
    """Submit every frame of a recording and wait until all have a final state.

    Parameters
    ----------
    recording : Recording
    endpoint : str
        The daemon's address.
    output : Path
        Folder of the refocused dataset; must not exist.
    times_s : list of float or None
        When to submit each frame, from the first; None is as fast as possible.
        A frame whose time has come while the daemon is busy waits for it:
        unlike an acquisition, a recording can.
    on_outcome : callable, optional
        Told every frame's final state.

    Returns
    -------
    Counts

    Raises
    ------
    TransportError
        If there is no daemon, or it goes away.
    InputError
        If the daemon refuses the recording.
    """
    plan = recording.plan()
    open_ = Open(
        acquisition=str(uuid.uuid4()),
        name=recording.name,
        height=plan.height,
        width=plan.width,
        dtype="uint8" if plan.dtype == np.uint8 else "uint16",
        raw="",
        output=str(output.resolve()),
        summary=json.dumps(dict(plan.summary), default=str),
        expected=len(plan),
        report=True,
    )
    with Connection(endpoint, "source", version=__version__) as connection:
        connection.welcome(timeout_s=10.0)
        upload = Upload(connection, open_, on_outcome)
        _until(connection, upload, lambda: upload.opened is not None)
        begun = time.perf_counter()
        for index, axes in enumerate(plan.axes):
            if times_s is not None:
                due = begun + times_s[index]
                while (left := due - time.perf_counter()) > 0:
                    upload.pump(left)
            _until(connection, upload, lambda: upload.credit > 0)
            key = canonical_axes(axes)
            try:
                frame = recording.read(index)
                metadata = json.dumps(_with_axes(frame.metadata, plan), default=str)
                upload.submit(frame.pixels, key, metadata, time.perf_counter_ns())
            except InputError as error:
                upload.miss([key], "failed", str(error))
        upload.close(len(plan))
        _until(connection, upload, lambda: upload.closed is not None)
    assert upload.closed is not None
    return upload.closed.counts


def _until(connection: Connection, upload: Upload, done: Callable[[], bool]) -> None:
    while not done():
        upload.pump(0.25)
        if upload.refused:
            raise InputError(upload.refused)
        if connection.silent_s > SILENCE_S:
            raise TransportError(
                f"the daemon at {connection.endpoint} went away; what it had written stays, start it "
                "again and replay into another --output"
            )
        if upload.closed and not done():
            raise TransportError(
                f"the daemon at {connection.endpoint} was stopped; what it had written stays"
            )


def _with_axes(metadata: Any, plan: RecordingPlan) -> dict[str, Any]:
    known = dict(metadata)
    if plan.pixel_um is not None:
        known.setdefault("PixelSizeUm", plan.pixel_um)
    return known
