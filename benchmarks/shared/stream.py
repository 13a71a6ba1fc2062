"""Frames submitted to a real daemon without a microscope, at a chosen rate."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refocusd import __version__
from refocusd.datasets.run_figures import read_attempts
from refocusd.frame import Pixels, canonical_axes
from refocusd.transport.client import Connection
from refocusd.transport.messages import Open, Outcome
from refocusd.transport.session import Session, State

#: Number of distinct frames: at 2048² they do not fit into a processor's cache.
_DISTINCT = 8
#: Metadata like Micro-Manager's for a hardware-sequenced frame, of about the same size.
_METADATA = {
    "Binning": "1",
    "Camera": "Camera",
    "ElapsedTime-ms": 0.0,
    "PixelType": "GRAY16",
    "ROI-X-start": "0",
    "ROI-Y-start": "0",
    "TimeReceivedByCore": "2026-01-01 00:00:00.000000",
    "PixelSize_um": 0.645,
    "Time": "2026-01-01 00:00:00 -",
    "Exposure": 10.0,
}


@dataclass(frozen=True, slots=True)
class Streamed:
    """One acquisition of a stream.

    Parameters
    ----------
    seconds : float
        From the first frame's submission to the last one's outcome.
    written_ms : list of float
        For each frame in order: time from when it was due until it is in the
        refocused dataset, without the time in the engine; from the ledger.
    answered_ms : list of float
        For each frame in order: time from when it was due until the source has
        received its outcome, including the time in the engine.
    unaccounted : int
        Frames without a final state, or absent from the ledger.
    failed : int
    """

    seconds: float
    written_ms: list[float]
    answered_ms: list[float]
    unaccounted: int
    failed: int


def sample_frames(side_px: int) -> list[Pixels]:
    """Frames of random 12-bit counts: uint16, shape (side_px, side_px)."""
    rng = np.random.default_rng(0)
    shape = (_DISTINCT, side_px, side_px)
    return list(rng.integers(100, 4096, shape, np.uint16))


def _announced(output: Path, frame: Pixels, count: int) -> Open:
    """The announcement of `count` frames like `frame`."""
    height, width = frame.shape
    return Open(
        acquisition=str(uuid.uuid4()),
        name="stream",
        height=height,
        width=width,
        dtype="uint16",
        raw="",
        output=str(output.resolve()),
        summary="{}",
        expected=count,
        report=True,
    )


def stream(
    endpoint: str,
    output: Path,
    frames: Sequence[Pixels],
    count: int,
    *,
    fps: float | None,
    inline: bool,
    on_written: Callable[[int], None] | None = None,
) -> Streamed:
    """Submit `count` frames and wait until all have a final state.

    Parameters
    ----------
    endpoint : str
        Address of the daemon.
    output : Path
        Folder of the refocused dataset; must not exist.
    frames : sequence of ndarray
        Submitted in turn, starting over after the last.
    count : int
    fps : float or None
        Frames per second; None submits as fast as the daemon gives credit.  Times
        start when a frame was due, even if the daemon made it wait.
    inline : bool
        Send pixels through the socket instead of the ring.
    on_written : callable, optional
        Called with the number of frames done, after each.

    Raises
    ------
    TransportError
        If the daemon refuses the acquisition, or ends.
    """
    keys = [canonical_axes({"time": index}) for index in range(count)]
    metadata = [json.dumps({**_METADATA, "Axes": {"time": i}}) for i in range(count)]
    taken_ns: dict[str, int] = {}
    answered_ns: dict[str, int] = {}

    def note(outcome: Outcome) -> None:
        answered_ns[outcome.axes] = time.perf_counter_ns()
        if on_written is not None:
            on_written(len(answered_ns))

    def connect() -> Connection:
        return Connection(endpoint, "source", inline=inline, version=__version__)

    with Session(endpoint, on_outcome=note, connect=connect) as session:
        session.until(lambda: session.state is State.READY)
        session.announce(_announced(output, frames[0], count))
        session.until(lambda: session.credit > 0)
        begun_ns = time.perf_counter_ns()
        for index, key in enumerate(keys):
            if fps is not None:
                due_ns = begun_ns + round(index / fps * 1e9)
                while (left_ns := due_ns - time.perf_counter_ns()) > 0:
                    session.pump(left_ns / 1e9)
                taken_ns[key] = due_ns
                session.until(lambda: session.credit > 0)
            else:
                session.until(lambda: session.credit > 0)
                taken_ns[key] = time.perf_counter_ns()
            pixels = frames[index % len(frames)]
            while not session.submit(pixels, key, metadata[index], taken_ns[key]):
                session.until(lambda: True)  # the socket's queue is full
        session.close(count)
        session.until(lambda: session.closed)
    assert session.closed is not None
    attempts = read_attempts([output])
    return Streamed(
        seconds=(max(answered_ns.values()) - begun_ns) / 1e9,
        written_ms=[
            a.latency_ms - a.engine_ms
            for a in attempts
            if a.latency_ms is not None and a.engine_ms is not None
        ],
        answered_ms=[
            (answered_ns[key] - taken_ns[key]) / 1e6 for key in keys if key in answered_ns
        ],
        unaccounted=max(count - session.closed.counts.final, count - len(attempts)),
        failed=session.closed.counts.failed,
    )
