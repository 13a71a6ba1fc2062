"""An acquisition as `Status` reports it."""

from __future__ import annotations

from typing import Literal

from refocusd.daemon.acquisitions.state import Acquisition, State
from refocusd.transport.messages import AcquisitionStatus

__all__ = ["describe_acquisition"]

#: The states of the wire protocol, which are fewer.
_REPORTED: dict[State, Literal["waiting", "live", "catching up", "closing", "ended"]] = {
    State.WAITING: "waiting",
    State.ORPHANED: "waiting",
    State.LIVE: "live",
    State.LIVE_CATCHING_UP: "live",
    State.DRAINING: "closing",
    State.CATCHING_UP: "catching up",
    State.CLOSING: "closing",
    State.ENDED: "ended",
}


def describe_acquisition(acquisition: Acquisition) -> AcquisitionStatus:
    """One acquisition in full."""
    message = acquisition.open
    incomplete = [acquisition.incomplete] if acquisition.incomplete else []
    return AcquisitionStatus(
        id=acquisition.id,
        name=message.name,
        raw=message.raw,
        output=acquisition.output,
        run=acquisition.run,
        state=_REPORTED[acquisition.state],
        height=message.height,
        width=message.width,
        dtype=message.dtype,
        counts=acquisition.counts(),
        queued=sum(len(lane.queue) for lane in acquisition.lanes),
        deferred=acquisition.deferred,
        warnings=acquisition.warnings + incomplete,
        focus=acquisition.focus,
    )
