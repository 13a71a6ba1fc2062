"""Describes a worker for `Status` and the log."""

from __future__ import annotations

import time

from refocusd.daemon.workers.worker import WorkerPeer
from refocusd.transport.messages import EngineInfo, WorkerStatus

#: Time over which a worker's rate is averaged.
RATE_S = 10.0


def describe_worker(worker: WorkerPeer) -> WorkerStatus:
    """One worker, for `Status`."""
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


def describe_engine(engine: EngineInfo) -> str:
    """One line for the log: model, backend, device, precision."""
    model = engine.model_id or "no model"
    return f"{model} on {engine.backend} ({engine.device}, {engine.precision})"
