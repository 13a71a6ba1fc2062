"""Sends frames to workers and their results to the writer; handles workers that are lost or hang."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from refocusd.daemon.acquisitions.lifecycle import Lifecycle
from refocusd.daemon.acquisitions.state import Acquisition, Task
from refocusd.daemon.events import FrameNotWritten, FramesWritten
from refocusd.daemon.output.jobs import RecordFrames, WriteFrame
from refocusd.daemon.workers.describe import describe_engine
from refocusd.daemon.workers.pool import WorkerPool
from refocusd.daemon.workers.processes import WorkerProcesses
from refocusd.errors import TransportError
from refocusd.frame import checksum
from refocusd.transport import messages as wire
from refocusd.transport.client import SILENCE_S
from refocusd.transport.ring import SharedRing
from refocusd.transport.secure.endpoints import Endpoints

log = logging.getLogger(__name__)

#: A frame fails after this many workers died on it, or this many links were lost, which proves less.
MAX_DEATHS = 2
MAX_CUTS = 10


@dataclass(slots=True)
class Dispatcher:
    """Sends frames to free workers, their results to the writer, and the writer's answers to the source.

    Frames of an acquisition that a stopping daemon has dropped stay pending.

    Parameters
    ----------
    endpoints, ring, lifecycle, pool, processes
        See their classes.
    on_ready : callable
        Called whenever a worker becomes ready.
    """

    endpoints: Endpoints
    ring: SharedRing
    lifecycle: Lifecycle
    pool: WorkerPool
    processes: WorkerProcesses
    on_ready: Callable[[], None]

    def dispatch(self) -> None:
        """Send waiting frames to workers while there are free ones."""
        scheduler = self.lifecycle.scheduler
        while (worker := self.pool.free(fresh=scheduler.stays_fresh)) and (
            found := scheduler.next_task()
        ):
            task, acquisition = found
            focus = self.lifecycle.focus.ask(acquisition, task.submit)
            blur = self.lifecycle.blurs.of(acquisition, task.submit)
            self.pool.assign(worker, task, acquisition, focus, blur)

    def join(self, identity: bytes, message: wire.Hello, remote: str | None) -> None:
        """Add a worker that has connected; if it is known, requeue the frames that it held before."""
        self._requeue(self.pool.lose(identity))
        inline = message.inline or bool(remote)
        self.pool.join(identity, pid=message.pid, inline=inline, remote=remote or "")

    def lose(self, identity: bytes, *, cut: bool = False) -> None:
        """Requeue the frames of a worker that is gone, or (`cut`) whose link was lost."""
        self._requeue(self.pool.lose(identity, cut=cut))

    def receive(self, identity: bytes, message: wire.Message, part: memoryview | None) -> None:
        """Process a message of a worker.

        Raises
        ------
        TransportError
            If a worker may not send that.
        """
        match message:
            case wire.Ready():
                self._ready(identity, message)
            case wire.Result():
                # The answer of a worker that was presumed hung is ignored.
                if task := self.pool.take_back(identity, message.task):
                    try:
                        self.pool.fill(identity, task, part)
                    except TransportError as error:
                        self._fail(task, str(error))
                    else:
                        engine = self.pool.engine_of(identity, task.channel)
                        self._write(task, message, engine)
            case wire.Failure():
                if task := self.pool.take_back(identity, message.task):
                    self._fail(task, message.reason)
            case _:
                raise TransportError(f"a worker does not send {type(message).__name__}")

    def _ready(self, identity: bytes, message: wire.Ready) -> None:
        self.pool.set_ready(identity, message)
        name = identity.decode(errors="replace")
        self.processes.was_ready(name)
        engine = describe_engine(message.engine)
        log.info("%s: %s, ready in %.1f s", name, engine, message.seconds)
        self.lifecycle.engine_ready(message.engine)
        self.on_ready()

    def tick(self) -> list[bytes]:
        """Replace workers that hang or are silent; return the identities of those whose link is lost."""
        for identity in self.pool.hung(self.lifecycle.settings.task_timeout_s):
            self._replace(identity, "holds one frame too long")
        for identity in self.pool.silent(SILENCE_S):
            self._replace(identity, "is silent")
        lost = self.endpoints.gone()
        for identity, why in lost:
            log.warning("%s: %s; its frames go to others", identity.decode(errors="replace"), why)
            self.lose(identity, cut=True)
        return [identity for identity, _ in lost]

    def _replace(self, identity: bytes, why: str) -> None:
        name = identity.decode(errors="replace")
        if self.pool.is_remote(identity):
            self.endpoints.cut(identity, why)  # `gone` names it at the next tick
        else:
            log.warning("%s %s: replaced", name, why)
            self.processes.kill(name)

    # -- what becomes of a frame ------------------------------------------------------------

    def _write(self, task: Task, result: wire.Result, engine: wire.EngineInfo) -> None:
        """Send a frame to the writer after a worker has filled its slot."""
        acquisition = self.lifecycle.acquisitions.get(task.acquisition)
        if acquisition is None:
            return
        self.lifecycle.blurs.note(acquisition, task.submit, result.facts)
        focus = None
        if advice := self.lifecycle.focus.note(acquisition.open, task.submit, result.facts):
            focus = acquisition.focus = advice.focus
            wanted = self.lifecycle.settings.correct_focus and acquisition.open.advise
            # While the user pauses the daemon, the stage is not moved either.
            if wanted and acquisition.source and not self.lifecycle.scheduler.paused:
                self.lifecycle.send(acquisition.source, advice, None)
        job = WriteFrame(
            *(task.number, task.submit, result.checksum, result.facts, engine, focus),
            *(result.trust, task.late),
        )
        self.lifecycle.writer.put(job)

    def _fail(self, task: Task, reason: str) -> None:
        """Record that a frame could not be refocused."""
        acquisition, submit = self.lifecycle.acquisitions.get(task.acquisition), task.submit
        if acquisition is None:
            return
        if acquisition.open.raw and submit.live and self._overwritten(acquisition, submit):
            # A source that was presumed gone has written into the slot; raw still has the frame.
            log.warning("frame %s was overwritten in the ring: left to the catch-up", submit.axes)
            self._put_off(acquisition, task)
            return
        log.error("frame %s: %s", submit.axes, reason)
        axes = (submit.axes,)
        self.lifecycle.writer.put(
            RecordFrames(acquisition.id, axes, "failed", reason, task.number, submit.live)
        )

    def _requeue(self, tasks: list[Task]) -> None:
        """Put frames whose worker is gone at the front of the queue, unless they have cost too many workers."""
        for task in reversed(tasks):
            if task.deaths >= MAX_DEATHS:
                self._fail(task, "two workers died on this frame")
            elif task.cuts >= MAX_CUTS:
                self._fail(task, f"the link to its worker was lost {MAX_CUTS} times")
            elif task.acquisition in self.lifecycle.acquisitions:
                self.lifecycle.scheduler.requeue(task)

    def written(self, acquisition: Acquisition, event: FramesWritten) -> None:
        """Count frames that have a final state, and pass on the slot."""
        task = self.lifecycle.acquisitions.task(event.task)
        acquisition.written(event, task)
        live = task is not None and task.submit.live
        self.lifecycle.statistics.note(event, task.waited_ms if task and live else None)
        self.lifecycle.note_outcome(acquisition, event)
        if event.state and acquisition.open.report and acquisition.source:
            for axes in event.axes:
                outcome = wire.Outcome(acquisition.id, axes, event.state, event.reason)
                self.lifecycle.send(acquisition.source, outcome, None)
        if task is not None:
            task.lane.in_flight -= 1
            self.lifecycle.acquisitions.end_task(acquisition, task)
            self.lifecycle.scheduler.recycle(acquisition, task.lane, task.submit.slot)
        self.lifecycle.settle(acquisition)

    def not_written(self, acquisition: Acquisition, event: FrameNotWritten) -> None:
        """Leave a frame that could not be written to the catch-up."""
        if task := self.lifecycle.acquisitions.task(event.task):
            # After an error, another attempt would fail as well: pending frames are left to the next daemon.
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
