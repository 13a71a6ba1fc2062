"""The course of acquisitions: from a frame's final state to the last one's.

`Desk` takes in what sources say; here is what follows from what the writer,
the workers and the catch-up say.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from refocusd.config import Settings
from refocusd.daemon.acquisitions.describe import describe_acquisition
from refocusd.daemon.acquisitions.focus_monitor import FocusWatch
from refocusd.daemon.acquisitions.run_id import run_id
from refocusd.daemon.acquisitions.scheduler import Queues
from refocusd.daemon.acquisitions.state import Acquisition, Lane, Task
from refocusd.daemon.acquisitions.statistics import Statistics
from refocusd.daemon.events import DiskFull, GivenUp, SinkOpened, Written
from refocusd.daemon.output.writer import Writer
from refocusd.daemon.workers.pool import Send
from refocusd.errors import TransportError
from refocusd.frame import checksum
from refocusd.transport import messages as wire
from refocusd.transport.ring import SharedRing

__all__ = ["Course"]

log = logging.getLogger(__name__)

#: Ended acquisitions whose counts `Status` still tells.
REMEMBERED = 32
#: So long without a live frame, and the workers may catch up meanwhile.
IDLE_S = 1.0
#: Workers that may die on one frame; and links that may be cut meanwhile, which tells less.
MAX_DEATHS = 2
MAX_CUTS = 10


class Course:
    """Open acquisitions, their frames, and what happens to them.

    Parameters
    ----------
    settings : Settings
    ring : SharedRing
    writer : Writer
    send : callable
        Sends a message to a peer.
    catch_up : callable
        Starts a catch-up of an acquisition from its raw dataset, in a run.

    Attributes
    ----------
    open : dict of str to Acquisition
    tasks : dict of int to Task
        Frames between their submission and their final state.
    engine : Engines or None
        Of the first worker that was ready.
    last_live : float
        When a live frame last came (`time.monotonic`).
    catch_up_when_idle : bool
        Whether idle workers catch up while acquisitions go on.
    """

    def __init__(
        self,
        settings: Settings,
        ring: SharedRing,
        writer: Writer,
        send: Send,
        catch_up: Callable[[wire.Open, str], None],
    ) -> None:
        self._settings = settings
        self._ring = ring
        self._writer = writer
        self._send = send
        self._start_catch_up = catch_up
        self._ended: deque[wire.AcquisitionStatus] = deque(maxlen=REMEMBERED)
        self._unfinished = 0
        self.open: dict[str, Acquisition] = {}
        self.tasks: dict[int, Task] = {}
        self.engine: wire.Engines | None = None
        self.last_live = 0.0
        self.queues = Queues(settings, ring.address.nbytes, self.open, send)
        self.statistics = Statistics()
        self.focus = FocusWatch(settings)
        self.catch_up_when_idle = True
        self.stopping = False

    @property
    def empty(self) -> bool:
        """Whether no acquisition is open."""
        return not self.open

    @property
    def picked_up(self) -> int:
        """Open acquisitions that no source has begun here."""
        return sum(not acquisition.source for acquisition in self.open.values())

    @property
    def unfinished(self) -> int:
        """Frames of all acquisitions so far that failed or have no final state."""
        return self._unfinished + sum(a.unfinished for a in self.open.values())

    def counts(self) -> dict[str, wire.Counts]:
        """Counts of the open and the last ended acquisitions."""
        ended = {about.id: about.counts for about in self._ended}
        return ended | {key: a.counts() for key, a in self.open.items()}

    def details(self) -> list[wire.AcquisitionStatus]:
        """The open and the last ended acquisitions in full."""
        return [*self._ended, *(describe_acquisition(a) for a in self.open.values())]

    def run_of(self, acquisition: Acquisition) -> str:
        """Name of an acquisition's run; empty before an engine is ready."""
        if self.engine is None:
            return ""
        return run_id(self.engine, self._settings, acquisition.applied.id)

    def enter(self, acquisition: Acquisition) -> None:
        """An acquisition begins; it is opened on disk once its run has a name."""
        self.open[acquisition.id] = acquisition
        self.queues.enter(acquisition)
        if self.engine is not None:
            self._open_place(acquisition, self.engine)

    def engine_ready(self, engine: wire.Engines) -> None:
        """The first worker is ready: what was waiting for it can be opened."""
        if self.engine is None:
            self.engine = engine
            for acquisition in self.open.values():
                self._open_place(acquisition, engine)

    def _open_place(self, acquisition: Acquisition, engine: wire.Engines) -> None:
        acquisition.run = self.run_of(acquisition)
        applied = acquisition.applied
        if applied.selection.profiles or applied.warnings:
            self._writer.note_calibration(acquisition.id, applied)
        self._writer.open(acquisition.open, acquisition.run, engine)

    def tell_opened(self, acquisition: Acquisition, peer: bytes) -> None:
        """Tell a peer where the refocused frames go."""
        self._send(peer, wire.Opened(acquisition.id, acquisition.run, acquisition.output), None)

    # -- what the writer and the catch-up say -------------------------------------------

    def sink_opened(self, event: SinkOpened) -> None:
        """Tell the source, and give it slots."""
        acquisition = self.open.get(event.acquisition)
        if acquisition is None:
            return
        if event.error:
            log.error("%s: %s", acquisition.open.name, event.error)
            self._forget(acquisition)
            if acquisition.source:
                refused = wire.Refused(event.error, acquisition.id)
                self._send(acquisition.source, refused, None)
            return
        acquisition.opened = True
        acquisition.output = event.output
        acquisition.states = dict(event.before)
        acquisition.submitted = sum(event.before.values())
        log.info("acquisition %s → %s", acquisition.open.name, event.output or "preview only")
        if acquisition.closing:
            self.settle(acquisition)
        else:
            self.tell_opened(acquisition, acquisition.source)
            self.queues.grant(acquisition, acquisition.live)

    def written(self, event: Written) -> None:
        """A frame has its final state: count it and pass its slot on."""
        acquisition = self.open.get(event.acquisition)
        if acquisition is None:
            return
        task = self.tasks.pop(event.task, None)
        if task is None:
            acquisition.records -= 1
            again = event.known + (event.replaced if event.replaces is not None else 0)
            acquisition.missed = max(0, acquisition.missed - again)
        else:
            task.lane.in_flight -= 1
            acquisition.active.pop(task.submit.axes, None)
        if event.state is None or event.replaces is not None:
            # A second attempt at a frame is no second frame.
            acquisition.submitted -= bool(task and task.submit.live)
        if event.replaces is not None:
            acquisition.note(event.replaces, -event.replaced)
        if event.state is not None:
            acquisition.note(event.state, len(event.axes))
            live = task is not None and task.submit.live
            self.statistics.note(event, task.waited_ms if task and live else None)
            if acquisition.open.report and acquisition.source:
                for axes in event.axes:
                    outcome = wire.Outcome(acquisition.id, axes, event.state, event.reason)
                    self._send(acquisition.source, outcome, None)
        if task is not None:
            self.queues.recycle(acquisition, task.lane, task.submit.slot)
        self.settle(acquisition)

    def given_up(self, event: GivenUp) -> None:
        """A frame could not be written for now: it is left to the catch-up."""
        acquisition = self.open.get(event.acquisition)
        task = self.tasks.get(event.task)
        if acquisition is not None and task is not None:
            task.lane.in_flight -= 1
            # The same would fail the same again: what is left is for the next daemon.
            acquisition.incomplete = acquisition.incomplete or event.error
            self.give_up(acquisition, task)
            self.settle(acquisition)

    def disk_full(self, event: DiskFull) -> None:
        """Work on an acquisition rests while its disk is full."""
        if acquisition := self.open.get(event.acquisition):
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

    def catch_up_failed(self, key: str, error: str) -> None:
        """A catch-up ended early: what it could not do stays pending."""
        acquisition = self.open.get(key)
        if acquisition is None:
            return
        level = logging.INFO if self.stopping else logging.ERROR
        log.log(level, "catching up %s: %s", acquisition.open.name, error)
        if acquisition.closing:
            acquisition.incomplete = error
        if acquisition.catch_up is None:
            acquisition.catching = False
            self.settle(acquisition)
        else:
            self.close_lane(acquisition, acquisition.catch_up)

    def finished(self, key: str) -> None:
        """The sink is closed: the acquisition is over."""
        acquisition = self.open.get(key)
        if acquisition is None:
            return  # forgotten by a stop
        self._unfinished += acquisition.unfinished
        about = describe_acquisition(acquisition, ended=True)
        self._forget(acquisition)
        self._ended.append(about)
        if acquisition.source:
            self._send(acquisition.source, wire.Closed(key, about.counts), None)
        log.info(
            "%s: %d acquired, %d refocused, %d passed through, %d skipped, %d failed, %d pending",
            acquisition.open.name,
            *(getattr(about.counts, name) for name in about.counts.__struct_fields__),
        )

    # -- what the workers say -----------------------------------------------------------

    def again(self, tasks: list[Task]) -> None:
        """Frames whose worker is gone: to the front of their queue, unless they kill workers."""
        for task in reversed(tasks):
            acquisition = self.open.get(task.acquisition)
            if acquisition is None:
                continue  # dropped by a stop: stays pending
            if task.deaths >= MAX_DEATHS:
                self.fail(task, "two workers died on this frame")
            elif task.cuts >= MAX_CUTS:
                self.fail(task, f"the link to its worker was lost {MAX_CUTS} times")
            else:
                self.queues.put_back(acquisition, task)

    def write(self, task: Task, result: wire.Result, engine: wire.EngineInfo) -> None:
        """A worker filled the slot: have it written."""
        acquisition = self.open.get(task.acquisition)
        if acquisition is None:
            return  # dropped by a stop: stays pending
        focus = None
        if advice := self._advise(acquisition, task, result):
            focus = acquisition.focus = advice.focus
        self._writer.write(task.number, task.submit, result.checksum, result.facts, engine, focus)

    def _advise(
        self, acquisition: Acquisition, task: Task, result: wire.Result
    ) -> wire.Advice | None:
        """What this frame's estimate adds to what is known of the focus; told to the source."""
        advice = self.focus.note(acquisition.open, task.submit, result.facts)
        wanted = self._settings.correct_focus and acquisition.open.advise
        # A pause by the user holds the stage as well.
        if advice and wanted and acquisition.source and not self.queues.paused:
            self._send(acquisition.source, advice, None)
        return advice

    def fail(self, task: Task, reason: str) -> None:
        """Record that a frame could not be refocused."""
        acquisition, submit = self.open.get(task.acquisition), task.submit
        if acquisition is None:
            return  # dropped by a stop: stays pending
        if acquisition.open.raw and submit.live and self._overwritten(acquisition, submit):
            # By a source that was taken for gone and still had the slot: raw has the frame.
            log.warning("frame %s was overwritten in the ring: left to the catch-up", submit.axes)
            task.lane.in_flight -= 1
            self.give_up(acquisition, task)
            self.settle(acquisition)
            return
        log.error("frame %s: %s", submit.axes, reason)
        self._writer.record(
            task.acquisition,
            (submit.axes,),
            "failed",
            reason,
            task=task.number,
            live=submit.live,
        )

    def _overwritten(self, acquisition: Acquisition, submit: wire.Submit) -> bool:
        about = acquisition.open
        try:
            pixels = self._ring.view(submit.slot.offset, (about.height, about.width), about.dtype)
        except TransportError:
            return False
        return checksum(pixels) != submit.checksum

    # -- the course of an acquisition ---------------------------------------------------

    def look_at_the_clock(self, *, workers_idle: bool) -> None:
        """While no live frame has come for a moment, catch up what is behind."""
        idle = workers_idle and time.monotonic() - self.last_live > IDLE_S
        if not (idle and self.catch_up_when_idle) or self.queues.paused or self.stopping:
            return
        for acquisition in self.open.values():
            ready = acquisition.opened and not (acquisition.closing or acquisition.catching)
            if ready and acquisition.behind and not acquisition.stalled:
                self._begin_catch_up(acquisition)

    def _begin_catch_up(self, acquisition: Acquisition) -> None:
        acquisition.catching = True
        acquisition.behind = 0
        self._start_catch_up(acquisition.open, acquisition.run)

    def settle(self, acquisition: Acquisition) -> None:
        """Once a closing acquisition is idle: catch up what is pending, then finish."""
        lane = acquisition.catch_up
        if lane is not None and lane.closed and lane.idle:
            acquisition.catch_up = None
            acquisition.catching = False
        if not (acquisition.closing and acquisition.opened and acquisition.idle):
            return
        if acquisition.catching or acquisition.finishing:
            return
        may_catch_up = bool(acquisition.open.raw) and not (self.stopping or acquisition.incomplete)
        if may_catch_up and (acquisition.behind or not acquisition.caught_up):
            if acquisition.stalled:
                return  # until there is room on its disk
            acquisition.caught_up = True
            # What is pending is what raw holds and the ledger does not.
            self._begin_catch_up(acquisition)
            return
        acquisition.finishing = True
        counts = acquisition.counts()
        if not acquisition.told_end:
            acquisition.incomplete = acquisition.incomplete or "nobody has told its end"
        complete = not (acquisition.incomplete or counts.pending)
        self._writer.finish(acquisition.id, counts.acquired if complete else None)

    def stop(self) -> None:
        """Close every acquisition: what is queued is done, the rest stays pending."""
        self.stopping = True
        self.queues.paused = False
        for acquisition in list(self.open.values()):
            if not acquisition.opened or acquisition.stalled:
                self._drop(acquisition)
                continue
            if not acquisition.told_end or acquisition.catching:
                acquisition.incomplete = acquisition.incomplete or "the daemon was stopped"
            # What a catch-up has not sent yet stays pending, too.
            if acquisition.catch_up is not None:
                self.close_lane(acquisition, acquisition.catch_up)
            self.close_lane(acquisition, acquisition.live)

    def abandon(self) -> None:
        """The time for a stop is over: what will never be done, for the want of raw, is named."""
        for acquisition in self.open.values():
            about = acquisition.open
            if acquisition.opened and acquisition.active and not (about.raw or about.preview):
                axes = tuple(acquisition.active)
                self._writer.record(
                    about.acquisition, axes, "skipped", "no raw: the daemon stopped"
                )

    def _drop(self, acquisition: Acquisition) -> None:
        """The daemon stops, and nothing more can be done for this acquisition."""
        if acquisition.source:
            refused = wire.Refused("the daemon is stopping", acquisition.id, again=True)
            self._send(acquisition.source, refused, None)
        self._unfinished += max(acquisition.unfinished, 1)
        self._writer.finish(acquisition.id, None)
        self._forget(acquisition)

    # -- helpers ------------------------------------------------------------------------

    def close_lane(self, acquisition: Acquisition, lane: Lane) -> None:
        """No more frames come through this lane."""
        lane.closed = True
        self.queues.take_back_granted(lane)
        self.settle(acquisition)
        self.queues.top_up()

    def give_up(self, acquisition: Acquisition, task: Task) -> None:
        """Leave a frame to the catch-up: it stays pending, its slot goes round."""
        self.tasks.pop(task.number, None)
        acquisition.active.pop(task.submit.axes, None)
        acquisition.behind += 1
        acquisition.deferred += task.submit.live
        self.queues.recycle(acquisition, task.lane, task.submit.slot)

    def _forget(self, acquisition: Acquisition) -> None:
        del self.open[acquisition.id]
        self.focus.forget(acquisition.id)
        for task in self.queues.leave(acquisition):
            self.tasks.pop(task.number, None)
        self.queues.top_up()
