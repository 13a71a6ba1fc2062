"""Moves acquisitions from their announcement to their end, in response to each event.

`Intake` receives what sources send, and `workers.dispatcher` follows single frames to the
workers and on to their final state.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Protocol

from refocusd.config import Settings
from refocusd.daemon.acquisitions.blur.known import KnownBlurs
from refocusd.daemon.acquisitions.focus.monitor import FocusMonitor
from refocusd.daemon.acquisitions.registry import Acquisitions
from refocusd.daemon.acquisitions.run_id import run_id
from refocusd.daemon.acquisitions.scheduler import Scheduler
from refocusd.daemon.acquisitions.self_calibrations import SelfCalibrations
from refocusd.daemon.acquisitions.state import Acquisition, Change, Lane, Send, State, Task
from refocusd.daemon.acquisitions.statistics import Statistics
from refocusd.daemon.events import (
    CatchUpFailed,
    DiskFull,
    FramesWritten,
    OutputClosed,
    OutputOpened,
)
from refocusd.daemon.output.jobs import CloseOutput, OpenOutput, RecordFrames
from refocusd.daemon.output.writer import Writer
from refocusd.transport import messages as wire
from refocusd.transport.outcome_log import OutcomeLog

log = logging.getLogger(__name__)

#: The facts of a frame that peers receive with `Follow`.
_OF_FACTS = (
    *("verdict", "reasons", "written", "error_chance"),
    *("blur_px", "defocus_um", "defocus_uncertainty_um"),
)
#: Without a live frame for this long, idle workers catch up.
IDLE_S = 1.0
#: A catch-up may take this many times as long to open raw as a source may be silent (`source_timeout_s`),
#: because its index can be long, and its share slow.
OPENING = 20


class StartCatchUp(Protocol):
    """Starts a catch-up: `CatchUps.start`."""

    def __call__(self, open_: wire.Open, run: str, *, last: bool) -> None: ...  # noqa: D102


@dataclass(slots=True)
class Lifecycle:
    """Opens, catches up and closes acquisitions.

    `Intake`, `Dispatcher` and `Control` find the other parts of the broker here.

    Parameters
    ----------
    settings, writer, acquisitions, scheduler, focus, blurs, calibrations
        See their classes.
    send : callable
        Sends a message to a peer.
    catch_up : callable
        Starts a catch-up of an acquisition from its raw dataset, in a run (`CatchUps.start`).

    Attributes
    ----------
    engine : Engines or None
        Engines of the first worker that was ready; None before that.
    last_live : float
        When the last live frame arrived (`time.monotonic`).
    catch_up_when_idle : bool
        Whether idle workers catch up while acquisitions are live.
    stopping : bool
        Whether the daemon is stopping.
    """

    settings: Settings
    writer: Writer
    acquisitions: Acquisitions
    scheduler: Scheduler
    send: Send
    catch_up: StartCatchUp
    focus: FocusMonitor
    blurs: KnownBlurs
    calibrations: SelfCalibrations
    statistics: Statistics = field(default_factory=Statistics)
    outcomes: OutcomeLog = field(default_factory=OutcomeLog)
    engine: wire.Engines | None = None
    last_live: float = 0.0
    catch_up_when_idle: bool = True
    stopping: bool = False

    # -- the beginning --------------------------------------------------------------------

    def begin(self, acquisition: Acquisition) -> None:
        """Add an acquisition; its output is opened once an engine is ready, which gives its run an id."""
        self.acquisitions.add(acquisition)
        self.scheduler.add(acquisition)
        if self.engine is not None:
            self._open_output(acquisition, self.engine)

    def engine_ready(self, engine: wire.Engines) -> None:
        """Open the acquisitions that have waited for the first worker."""
        if self.engine is None:
            self.engine = engine
            for acquisition in self.acquisitions:
                self._open_output(acquisition, engine)

    def run_of(self, acquisition: Acquisition) -> str:
        """Id of an acquisition's run; empty before an engine is ready."""
        if self.engine is None:
            return ""
        return run_id(self.engine, self.settings, acquisition.applied.id)

    def _open_output(self, acquisition: Acquisition, engine: wire.Engines) -> None:
        acquisition.run = self.run_of(acquisition)
        self.writer.put(OpenOutput(acquisition.open, acquisition.run, engine, acquisition.applied))

    def report_opened(self, acquisition: Acquisition, lane: Lane) -> None:
        """Tell the peer of a lane where the refocused frames go, and give it slots."""
        about = acquisition.run, acquisition.output, acquisition.reads_raw
        opened = wire.Opened(acquisition.id, *about)
        self.send(lane.peer, opened, None)
        self.scheduler.grant(acquisition, lane)

    # -- what the writer and the catch-up report --------------------------------------------

    def output_opened(self, acquisition: Acquisition, event: OutputOpened) -> None:
        """Tell the source that its output is open and give it slots, or that it cannot be opened."""
        name = acquisition.open.name
        if event.error:
            log.error("%s: %s", name, event.error)
            self.acquisitions.remove(acquisition)
            self._release(acquisition)
            if acquisition.source:
                refused = wire.Refused(event.error, acquisition.id)
                self.send(acquisition.source, refused, None)
            return
        acquisition.output_opened(event.output, dict(event.before))
        acquisition.reads_raw = event.reads_raw
        log.info("acquisition %s → %s", name, event.output or "preview only")
        if acquisition.live.closed:
            self.settle(acquisition)
        else:
            self.report_opened(acquisition, acquisition.live)

    def disk_full(self, acquisition: Acquisition, event: DiskFull) -> None:
        """Pause an acquisition while its disk is full."""
        acquisition.stalled = event.full
        warning = f"the disk of {acquisition.output} is full: paused until there is room"
        if event.full:
            acquisition.warnings.append(warning)
        elif warning in acquisition.warnings:
            acquisition.warnings.remove(warning)
        if event.full and self.stopping:
            self._drop(acquisition)
        else:
            self.settle(acquisition)

    def catch_up_failed(self, acquisition: Acquisition, event: CatchUpFailed) -> None:
        """End a catch-up that failed; the frames that it did not reach stay pending."""
        level = logging.INFO if self.stopping else logging.ERROR
        log.log(level, "catching up %s: %s", acquisition.open.name, event.error)
        if acquisition.live.closed:
            acquisition.incomplete = event.error
        if acquisition.catch_up is not None:
            self.close_lane(acquisition, acquisition.catch_up)
        elif acquisition.state.catching_up:
            acquisition.catch_up_ended()
            self.settle(acquisition)

    def output_closed(self, acquisition: Acquisition, event: OutputClosed) -> None:
        """End an acquisition whose output is closed, and tell its source."""
        acquisition.incomplete = acquisition.incomplete or event.error
        counts = acquisition.counts()
        self.acquisitions.end(acquisition)
        self._release(acquisition)
        if acquisition.source:
            self.send(acquisition.source, wire.Closed(acquisition.id, counts), None)
        log.info(
            "%s: %d acquired, %d refocused, %d passed through, %d skipped, %d failed, %d pending",
            acquisition.open.name,
            *(getattr(counts, name) for name in counts.__struct_fields__),
        )
        if not self.stopping:
            self.calibrations.ended(acquisition)

    def note_outcome(self, acquisition: Acquisition, event: FramesWritten) -> None:
        """Log the outcomes of frames for the peers that follow them."""
        if event.state is None or acquisition.open.preview:
            return
        facts, now = event.facts, time.time()
        of_facts = {} if facts is None else {name: getattr(facts, name) for name in _OF_FACTS}
        name = acquisition.open.name
        for axes in event.axes:
            about = acquisition.id, name, axes, event.state, event.reason
            self.outcomes.add(wire.FrameOutcome(now, *about, **of_facts))

    # -- on the way to the end --------------------------------------------------------------

    def give_up(self, acquisition: Acquisition, task: Task) -> None:
        """Leave a frame that was removed from its queue to the catch-up, and pass on its slot."""
        self.acquisitions.give_up(acquisition, task)
        self.scheduler.recycle(acquisition, task.lane, task.submit.slot)

    def close_lane(self, acquisition: Acquisition, lane: Lane) -> None:
        """Close a lane through which no more frames come, and reclaim its slots."""
        acquisition.lane_closed(lane)
        self.scheduler.reclaim(lane)
        self.settle(acquisition)
        self.scheduler.top_up()

    def tick(self, *, workers_idle: bool) -> None:
        """Start catch-ups while no live frames arrive; call it a few times a second.

        A catch-up that takes too long to open raw is abandoned, because its disk hangs.
        """
        opening_s = OPENING * self.settings.source_timeout_s
        for acquisition in self.acquisitions:
            waits = acquisition.state.catching_up and acquisition.catch_up is None
            if waits and time.monotonic() - acquisition.catch_up_at > opening_s:
                error = f"{acquisition.open.raw} cannot be opened within {opening_s:.0f} s"
                self.catch_up_failed(acquisition, CatchUpFailed(acquisition.id, error))
        idle = workers_idle and time.monotonic() - self.last_live > IDLE_S
        if not (idle and self.catch_up_when_idle) or self.scheduler.paused or self.stopping:
            return
        for acquisition in self.acquisitions:
            if acquisition.state is State.LIVE and acquisition.behind and not acquisition.stalled:
                self._start_catch_up(acquisition)

    def _start_catch_up(self, acquisition: Acquisition) -> None:
        acquisition.catch_up_started()
        # Frames are pending if raw holds them and the ledger does not.
        self.catch_up(acquisition.open, acquisition.run, last=acquisition.live.closed)

    def settle(self, acquisition: Acquisition) -> None:
        """If a closed acquisition is idle, catch up its pending frames, and then close its output."""
        lane = acquisition.catch_up
        if lane is not None and lane.closed and lane.idle:
            acquisition.catch_up_ended()
        if acquisition.state is not State.DRAINING or not acquisition.idle:
            return
        if acquisition.needs_catch_up and not (self.stopping or acquisition.incomplete):
            if not acquisition.stalled:  # otherwise when there is room on its disk
                self._start_catch_up(acquisition)
            return
        acquisition.change(Change.ALL_WRITTEN)
        counts = acquisition.counts()
        if not acquisition.end_known:
            acquisition.incomplete = acquisition.incomplete or "its source has not reported its end"
        complete = not (acquisition.incomplete or counts.pending)
        self.writer.put(CloseOutput(acquisition.id, counts.acquired if complete else None))

    def stop(self) -> None:
        """Close every acquisition: frames that are queued are refocused, the others stay pending."""
        self.stopping = True
        self.scheduler.paused = False
        for acquisition in self.acquisitions:
            if not acquisition.state.opened or acquisition.stalled:
                self._drop(acquisition)
                continue
            if not acquisition.end_known or acquisition.state.catching_up:
                acquisition.incomplete = acquisition.incomplete or "the daemon was stopped"
            if acquisition.state.catching_up and acquisition.catch_up is None:
                acquisition.catch_up_ended()  # its disk may hang
            # The catch-up's lane first; frames that it has not sent yet stay pending, too.
            for lane in reversed(acquisition.lanes):
                self.close_lane(acquisition, lane)
            self.settle(acquisition)

    def abandon(self) -> None:
        """Record as skipped, when the time for a stop is over, the frames in memory that have no raw data."""
        for acquisition in self.acquisitions:
            about = acquisition.open
            if acquisition.state.opened and acquisition.active and not (about.raw or about.preview):
                axes = tuple(acquisition.active)
                reason = "no raw: the daemon stopped"
                self.writer.put(RecordFrames(acquisition.id, axes, "skipped", reason))

    def _drop(self, acquisition: Acquisition) -> None:
        """End an acquisition for which a stopping daemon can do nothing more."""
        if acquisition.source:
            refused = wire.Refused("the daemon is stopping", acquisition.id, again=True)
            self.send(acquisition.source, refused, None)
        self.acquisitions.drop(acquisition)
        self.writer.put(CloseOutput(acquisition.id, None))
        self._release(acquisition)

    def _release(self, acquisition: Acquisition) -> None:
        self.focus.forget(acquisition.id)
        self.blurs.end(acquisition.id)
        for task in self.scheduler.remove(acquisition):
            self.acquisitions.end_task(acquisition, task)
        self.scheduler.top_up()
