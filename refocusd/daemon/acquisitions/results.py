"""From a worker's answer to a frame's final state: written, failed, or queued again."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from refocusd.config import Settings
from refocusd.daemon.acquisitions.lifecycle import Lifecycle
from refocusd.daemon.acquisitions.registry import Acquisitions
from refocusd.daemon.acquisitions.scheduler import Scheduler
from refocusd.daemon.acquisitions.state import Acquisition, Send, Task
from refocusd.daemon.events import FrameNotWritten, FramesWritten
from refocusd.daemon.output.jobs import RecordFrames, WriteFrame
from refocusd.daemon.output.writer import Writer
from refocusd.errors import TransportError
from refocusd.frame import checksum
from refocusd.transport import messages as wire
from refocusd.transport.ring import SharedRing

__all__ = ["Results"]

log = logging.getLogger(__name__)

#: Workers that may die on one frame; and links that may be lost meanwhile, which proves less.
MAX_DEATHS = 2
MAX_CUTS = 10


@dataclass(slots=True)
class Results:
    """Passes what workers answer to the writer, and what the writer answers to the source.

    A task of an acquisition that a stopping daemon has dropped stays pending.

    Parameters
    ----------
    settings, ring, writer, acquisitions, scheduler, lifecycle
        See their classes.
    send : callable
        Sends a message to a peer.
    """

    settings: Settings
    ring: SharedRing
    writer: Writer
    acquisitions: Acquisitions
    scheduler: Scheduler
    lifecycle: Lifecycle
    send: Send

    def write(self, task: Task, result: wire.Result, engine: wire.EngineInfo) -> None:
        """A worker has filled the slot: have it written."""
        acquisition = self.acquisitions.get(task.acquisition)
        if acquisition is None:
            return
        focus = None
        if advice := self.lifecycle.focus.note(acquisition.open, task.submit, result.facts):
            focus = acquisition.focus = advice.focus
            wanted = self.settings.correct_focus and acquisition.open.advise
            # A pause by the user holds the stage as well.
            if wanted and acquisition.source and not self.scheduler.paused:
                self.send(acquisition.source, advice, None)
        job = WriteFrame(task.number, task.submit, result.checksum, result.facts, engine, focus)
        self.writer.put(job)

    def fail(self, task: Task, reason: str) -> None:
        """A frame could not be refocused."""
        acquisition, submit = self.acquisitions.get(task.acquisition), task.submit
        if acquisition is None:
            return
        if acquisition.open.raw and submit.live and self._overwritten(acquisition, submit):
            # By a source that was presumed gone and still had the slot: raw has the frame.
            log.warning("frame %s was overwritten in the ring: left to the catch-up", submit.axes)
            self._put_off(acquisition, task)
            return
        log.error("frame %s: %s", submit.axes, reason)
        axes = (submit.axes,)
        self.writer.put(
            RecordFrames(acquisition.id, axes, "failed", reason, task.number, submit.live)
        )

    def requeue(self, tasks: list[Task]) -> None:
        """Queue frames whose worker is gone again, in front, unless they kill workers."""
        for task in reversed(tasks):
            if task.deaths >= MAX_DEATHS:
                self.fail(task, "two workers died on this frame")
            elif task.cuts >= MAX_CUTS:
                self.fail(task, f"the link to its worker was lost {MAX_CUTS} times")
            elif acquisition := self.acquisitions.get(task.acquisition):
                self.scheduler.requeue(acquisition, task)

    def written(self, event: FramesWritten) -> None:
        """Count frames that have a final state, and pass the slot on."""
        acquisition = self.acquisitions.get(event.acquisition)
        if acquisition is None:
            return
        task = self.acquisitions.task(event.task)
        acquisition.written(event, task)
        live = task is not None and task.submit.live
        self.lifecycle.statistics.note(event, task.waited_ms if task and live else None)
        if event.state and acquisition.open.report and acquisition.source:
            for axes in event.axes:
                outcome = wire.Outcome(acquisition.id, axes, event.state, event.reason)
                self.send(acquisition.source, outcome, None)
        if task is not None:
            task.lane.in_flight -= 1
            self.acquisitions.end_task(acquisition, task)
            self.scheduler.recycle(acquisition, task.lane, task.submit.slot)
        self.lifecycle.settle(acquisition)

    def not_written(self, event: FrameNotWritten) -> None:
        """A frame could not be written: leave it to the catch-up."""
        acquisition = self.acquisitions.get(event.acquisition)
        task = self.acquisitions.task(event.task)
        if acquisition is not None and task is not None:
            # The same would fail the same way again: what is left is for the next daemon.
            acquisition.incomplete = acquisition.incomplete or event.error
            self._put_off(acquisition, task)

    def _put_off(self, acquisition: Acquisition, task: Task) -> None:
        task.lane.in_flight -= 1
        self.lifecycle.give_up(acquisition, task)
        self.lifecycle.settle(acquisition)

    def _overwritten(self, acquisition: Acquisition, submit: wire.Submit) -> bool:
        try:
            pixels = self.ring.view(submit.slot.offset, acquisition.shape, acquisition.open.dtype)
        except TransportError:
            return False
        return checksum(pixels) != submit.checksum
