"""The state of daemon and view for the page: one JSON object."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec

from refocusd import __version__
from refocusd.formats.metadata import json_object
from refocusd.transport.messages import AcquisitionStatus, Status
from refocusd.view.json_text import json_bytes
from refocusd.view.state.figures import Figures
from refocusd.view.state.gpu import Gpu
from refocusd.view.state.view_state import ViewState

#: At most this many warnings of an acquisition, and acquisitions, are shown.
MAX_WARNINGS, MAX_ACQUISITIONS = 20, 50

#: Fields that are passed on as they are.
_OF_STATUS = (
    *("version", "pid", "uptime_s", "paused", "stopping", "catch_up", "engine", "frames"),
    *("ring_nbytes", "ring_free", "raw_nbytes", "serial", "unseen", "unseen_last"),
)
_OF_ACQUISITION = (
    *("id", "name", "run", "state", "height", "width", "dtype"),
    *("counts", "queued", "deferred", "focus"),
)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether frames would be refocused now; if not, `reason` says why."""

    ready: bool
    reason: str


def health(state: ViewState) -> Health:
    """Ready once a worker has built and warmed up its engine."""
    status = state.status
    if status is None:
        return Health(False, state.link.reason)
    if status.stopping:
        return Health(False, "the daemon is stopping")
    if status.workers < 1:
        if status.crew:
            return Health(False, "no worker is ready: an engine is being built and warmed up")
        return Health(
            False, "no worker is running; one is restarted unless that has failed too often"
        )
    return Health(True, "paused" if status.paused else "")


def status_json(state: ViewState, gpus: tuple[Gpu, ...]) -> bytes:
    """The state as JSON, for the API's ``status`` and its status events."""
    status = state.status
    return json_bytes(
        {
            "boot": state.boot,
            "version": __version__,
            "now": time.time(),
            "pages": state.pages,
            "is_behind": state.is_behind,
            "link": {
                "state": state.link.state,
                "reason": state.link.reason,
                "endpoint": state.endpoint,
            },
            "health": health(state),
            "events": state.events,
            "gpus": gpus,
            "daemon": _daemon(status, state.figures) if status is not None else None,
        }
    )


def acquisitions_of(state: ViewState) -> list[dict[str, Any]]:
    """The open acquisitions and the last ones that ended, oldest first."""
    details = state.status.details if state.status is not None else []
    return [_acquisition(detail) for detail in details[-MAX_ACQUISITIONS:]]


def _daemon(status: Status, figures: Figures) -> dict[str, Any]:
    return {
        **{name: getattr(status, name) for name in _OF_STATUS},
        "workers": status.crew,
        "doubted": [
            {**msgspec.structs.asdict(frame), "axes": json_object(frame.axes) or {}}
            for frame in status.doubted
        ],
        "acquisitions": [_acquisition(detail) for detail in status.details[-MAX_ACQUISITIONS:]],
        "queued": sum(detail.queued for detail in status.details),
        "deferred": sum(detail.deferred for detail in status.details),
        "pending": sum(counts.pending for counts in status.acquisitions.values()),
        "fps": figures.fps,
        "raw_mb_s": figures.raw_mb_s,
        "stages": figures.stages,
    }


def _acquisition(detail: AcquisitionStatus) -> dict[str, Any]:
    """An acquisition without its folders: a page names it by its id."""
    return {
        **{name: getattr(detail, name) for name in _OF_ACQUISITION},
        "warnings": detail.warnings[-MAX_WARNINGS:],
        "has_raw": bool(detail.raw),
    }
