"""The broker's books as `Status` tells them."""

from __future__ import annotations

import time

from refocusd.daemon.acquisitions.state import Acquisition, WorkerPeer
from refocusd.transport.messages import AcquisitionStatus, WorkerStatus

__all__ = ["describe_acquisition", "describe_worker"]

#: Over which a worker's rate is taken.
RATE_S = 10.0


def describe_acquisition(acquisition: Acquisition, *, ended: bool = False) -> AcquisitionStatus:
    """One acquisition in full."""
    open_ = acquisition.open
    state: str = "live"
    if ended:
        state = "ended"
    elif not acquisition.opened:
        state = "waiting"
    elif acquisition.finishing:
        state = "closing"
    elif acquisition.closing:
        state = "catching up" if acquisition.catching else "closing"
    return AcquisitionStatus(
        id=acquisition.id,
        name=open_.name,
        raw=open_.raw,
        output=acquisition.output,
        run=acquisition.run,
        state=state,  # type: ignore[arg-type]
        height=open_.height,
        width=open_.width,
        dtype=open_.dtype,
        counts=acquisition.counts(),
        queued=sum(len(lane.queue) for lane in acquisition.lanes),
        deferred=acquisition.deferred,
        warnings=acquisition.warnings
        + ([acquisition.incomplete] if acquisition.incomplete else []),
        focus=acquisition.focus,
    )


def describe_worker(worker: WorkerPeer) -> WorkerStatus:
    """One worker."""
    now = time.monotonic()
    recent = sum(now - answered < RATE_S for answered in worker.recent)
    return WorkerStatus(
        identity=worker.identity.decode(errors="replace"),
        pid=worker.pid,
        state="busy" if worker.tasks else "ready" if worker.ready else "starting",
        remote=bool(worker.remote),
        frames=worker.answered,
        rate=recent / RATE_S,
        engine=worker.engine,
    )
