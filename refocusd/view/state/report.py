"""The state of daemon and view, as the page gets it: one JSON object."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from refocusd import __version__
from refocusd.transport.messages import AcquisitionStatus, Status, WorkerStatus
from refocusd.view.state.board import Board
from refocusd.view.state.figures import Figures
from refocusd.view.state.gpu import Gpu

__all__ = ["Health", "health", "json_bytes", "status_report"]

#: Warnings of one acquisition, and acquisitions, that are shown.
MAX_WARNINGS, MAX_ACQUISITIONS = 20, 50


@dataclass(frozen=True, slots=True)
class Health:
    """Whether frames would be refocused now, and if not, why."""

    ready: bool
    reason: str


def health(board: Board) -> Health:
    """Ready only when a worker has its engine built and warmed up."""
    status = board.status
    if status is None:
        return Health(False, board.link[1])
    if status.stopping:
        return Health(False, "the daemon is stopping")
    if status.workers < 1:
        if status.crew:
            return Health(False, "no worker is ready: an engine is being built and warmed up")
        return Health(False, "no worker is running; one is started again unless that failed often")
    return Health(True, "paused" if status.paused else "")


def status_report(board: Board, gpus: tuple[Gpu, ...]) -> dict[str, Any]:
    """What `/api/status` and the page's events say."""
    state, reason = board.link
    status = board.status
    is_well = health(board)
    report: dict[str, Any] = {
        "boot": board.boot,
        "version": __version__,
        "now": time.time(),
        "pages": board.pages,
        "is_behind": board.is_behind,
        "link": {"state": state, "reason": reason, "endpoint": board.endpoint},
        "health": asdict(is_well),
        "events": [asdict(event) for event in board.events()],
        "gpus": [asdict(gpu) for gpu in gpus],
        "daemon": None,
    }
    if status is not None:
        report["daemon"] = _daemon(status, board.figures())
    return report


def _daemon(status: Status, figures: Figures) -> dict[str, Any]:
    details = status.details[-MAX_ACQUISITIONS:]
    engine = status.engine
    return {
        "version": status.version,
        "pid": status.pid,
        "uptime_s": status.uptime_s,
        "paused": status.paused,
        "stopping": status.stopping,
        # Told by daemons that know it; the page then shows which of the two is in force.
        "catch_up": getattr(status, "catch_up", None),
        "engine": msgspec.to_builtins(engine) if engine is not None else None,
        "workers": [_worker(worker) for worker in status.crew],
        "acquisitions": [_acquisition(detail) for detail in details],
        "queued": sum(detail.queued for detail in status.details),
        "deferred": sum(detail.deferred for detail in status.details),
        "pending": sum(counts.pending for counts in status.acquisitions.values()),
        "frames": status.frames,
        "fps": figures.fps,
        "raw_mb_s": figures.raw_mb_s,
        "stages": {name: asdict(stage) for name, stage in figures.stages.items()},
        "ring_nbytes": status.ring_nbytes,
        "ring_free": status.ring_free,
        "raw_nbytes": status.raw_nbytes,
        "serial": status.serial,
    }


def _worker(worker: WorkerStatus) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(worker)
    return plain


def _acquisition(detail: AcquisitionStatus) -> dict[str, Any]:
    """Without the folders: a page gets frames by the acquisition's id."""
    return {
        "id": detail.id,
        "name": detail.name,
        "run": detail.run,
        "state": detail.state,
        "height": detail.height,
        "width": detail.width,
        "dtype": detail.dtype,
        "counts": msgspec.to_builtins(detail.counts),
        "queued": detail.queued,
        "deferred": detail.deferred,
        "warnings": detail.warnings[-MAX_WARNINGS:],
        "focus": msgspec.to_builtins(detail.focus),
        "has_raw": bool(detail.raw),
    }


def json_bytes(value: Any) -> bytes:
    """Compact JSON; what is not finite becomes null, which JSON knows."""
    return json.dumps(_finite(value), separators=(",", ":"), default=str, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
