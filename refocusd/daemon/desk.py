"""The acquisitions as the broker sees them: opened, credited, closed, caught up."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from refocusd.config import Settings
from refocusd.daemon.books import Acquisition, Task
from refocusd.daemon.checks import check_frame, check_open
from refocusd.daemon.crew import Send
from refocusd.daemon.mailbox import SinkOpened, Written
from refocusd.daemon.writer import Writer, output_of
from refocusd.errors import InputError, TransportError
from refocusd.transport import messages as wire
from refocusd.transport.ring import SharedRing, Slot, SlotAllocator

__all__ = ["Desk", "run_id"]

log = logging.getLogger(__name__)

#: Slots of one acquisition at most: more only adds latency.
MAX_SLOTS = 32
#: Ended acquisitions whose counts `Status` still tells.
REMEMBERED = 32


def run_id(engine: wire.EngineInfo, settings: Settings) -> str:
    """Name of a run: what made the frames, whatever the acquisition.

    Model, engine (runtime, precision) and the settings that change pixels; the
    calibration profile joins them once there is one.
    """
    made_by = [engine.model_sha256, engine.key, settings.pass_in_focus, None]
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]


class Desk:
    """Open acquisitions, their slots and queues.

    Parameters
    ----------
    settings : Settings
    ring : SharedRing
    writer : Writer
    send : callable
        Sends a message to a peer.
    catch_up : callable
        Starts a catch-up of an acquisition from its raw dataset.
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
        self._catch_up = catch_up
        self._slots = SlotAllocator(ring.address.nbytes)
        self._numbers = itertools.count(1)
        self._open: dict[str, Acquisition] = {}
        self._ended: deque[tuple[str, wire.Counts]] = deque(maxlen=REMEMBERED)
        self._tasks: dict[int, Task] = {}
        #: Opened by sources before the first worker was ready: a run is named after its engine.
        self._waiting: list[Acquisition] = []
        self._turn: deque[str] = deque()
        self._engine: wire.EngineInfo | None = None
        self.stopping = False
        self._unfinished = 0

    @property
    def empty(self) -> bool:
        """Whether no acquisition is open."""
        return not self._open

    @property
    def unfinished(self) -> int:
        """Frames of all acquisitions so far that failed or have no final state."""
        return self._unfinished + sum(a.unfinished for a in self._open.values())

    def counts(self) -> dict[str, wire.Counts]:
        """Counts of the open and the last ended acquisitions."""
        return dict(self._ended) | {key: a.counts() for key, a in self._open.items()}

    # -- what sources say ---------------------------------------------------------------

    def open(self, identity: bytes, message: wire.Open, *, resume: bool) -> None:
        """A source announces an acquisition; with `resume`, our own catch-up takes one over."""
        known = self._open.get(message.acquisition)
        if known is not None and resume:
            known.peer = identity
            self._grant(known)
            self._send(identity, wire.Opened(known.id, "", str(output_of(known.open))), None)
            return
        try:
            if known is not None:
                raise InputError(f"acquisition {message.acquisition} is open already")
            check_open(message)
            acquisition = Acquisition(message, identity, identity)
            if Slot(0, acquisition.frame_nbytes).span > self._settings.ring_mib << 20:
                raise InputError(
                    f"a frame of {acquisition.frame_nbytes / 2**20:.1f} MiB, before and after, does "
                    f"not fit into the ring of {self._settings.ring_mib} MiB; set a larger ring_mib"
                )
        except InputError as error:
            self._send(identity, wire.Refused(str(error), message.acquisition), None)
            return
        self._open[acquisition.id] = acquisition
        self._turn.append(acquisition.id)
        if self._engine is None:
            self._waiting.append(acquisition)
        else:
            self._writer.open(message, run_id(self._engine, self._settings), self._engine)

    def engine_ready(self, engine: wire.EngineInfo) -> None:
        """The first worker is ready: what was waiting for it can be opened."""
        if self._engine is None:
            self._engine = engine
            for acquisition in self._waiting:
                run = run_id(engine, self._settings)
                self._writer.open(acquisition.open, run, engine)
            self._waiting.clear()

    def submit(self, identity: bytes, message: wire.Submit, part: memoryview | None) -> None:
        """A frame lies in a slot: queue it."""
        acquisition = self._of(identity, message.acquisition)
        if message.slot not in acquisition.granted:
            raise TransportError(f"slot {message.slot} is not yours to fill")
        check_frame(message)
        if part is not None:
            if part.nbytes != message.slot.nbytes:
                raise TransportError(
                    f"{part.nbytes} bytes of pixels for a frame of {message.slot.nbytes}"
                )
            view = self._ring.view(message.slot.offset, (1, message.slot.nbytes), "uint8")
            view[0] = np.frombuffer(part, np.uint8)
        acquisition.granted.remove(message.slot)
        task = Task(next(self._numbers), acquisition.id, message)
        self._tasks[task.number] = task
        acquisition.queue.append(task)
        acquisition.submitted += message.live

    def miss(self, identity: bytes, message: wire.Miss) -> None:
        """Frames will not come: the ledger says why."""
        acquisition = self._of(identity, message.acquisition)
        if not acquisition.opened:
            raise TransportError("an acquisition must be open before frames of it are missed")
        axes = tuple(message.axes)
        acquisition.missed += len(axes)
        acquisition.in_flight += 1
        live = identity == acquisition.source
        self._writer.record(acquisition.id, axes, message.state, message.reason, live=live)

    def close(self, identity: bytes, message: wire.Close) -> None:
        """No more frames come from this peer."""
        acquisition = self._of(identity, message.acquisition)
        acquisition.acquired = max(acquisition.acquired, message.acquired)
        self._begin_closing(acquisition)

    def lost(self, identity: bytes) -> None:
        """A source is gone without a word: its acquisitions are closed for it."""
        for acquisition in list(self._open.values()):
            if acquisition.peer != identity or acquisition.closing:
                continue
            log.warning("the source of %s is gone", acquisition.open.name)
            if not acquisition.open.raw:
                acquisition.incomplete = "its source is gone, and there is no raw data"
            self._begin_closing(acquisition)

    # -- what the writer and the catch-up say -------------------------------------------

    def sink_opened(self, event: SinkOpened) -> None:
        """Tell the source, and give it slots."""
        acquisition = self._open.get(event.acquisition)
        if acquisition is None:
            return
        if event.error:
            self._drop(acquisition)
            self._send(acquisition.source, wire.Refused(event.error, acquisition.id), None)
            return
        acquisition.opened = True
        assert self._engine is not None
        run = run_id(self._engine, self._settings)
        self._send(acquisition.peer, wire.Opened(acquisition.id, run, event.output), None)
        log.info("acquisition %s → %s", acquisition.open.name, event.output)
        if acquisition.closing:
            self.settle(acquisition)
        else:
            self._grant(acquisition)

    def written(self, event: Written) -> None:
        """A frame has its final state: count it and pass its slot on."""
        acquisition = self._open.get(event.acquisition)
        if acquisition is None:
            return
        task = self._tasks.pop(event.task, None)
        acquisition.in_flight -= 1
        if event.state is None or event.replaces is not None:
            # A second attempt at a frame is no second frame.
            acquisition.submitted -= bool(task and task.submit.live)
        if event.replaces is not None:
            acquisition.note(event.replaces, -len(event.axes))
        if event.state is not None:
            acquisition.note(event.state, len(event.axes))
            if acquisition.open.report:
                for axes in event.axes:
                    outcome = wire.Outcome(acquisition.id, axes, event.state, event.reason)
                    self._send(acquisition.source, outcome, None)
        if task is not None:
            self._recycle(acquisition, task.submit.slot)
        self.settle(acquisition)

    def catch_up_failed(self, key: str, error: str) -> None:
        """A catch-up ended early: what it could not do stays pending."""
        if acquisition := self._open.get(key):
            log.error("catching up %s: %s", acquisition.open.name, error)
            acquisition.incomplete = error
            self._begin_closing(acquisition)

    def finished(self, key: str) -> None:
        """The sink is closed: the acquisition is over."""
        acquisition = self._open[key]
        counts = acquisition.counts()
        self._unfinished += acquisition.unfinished
        self._drop(acquisition)
        self._ended.append((key, counts))
        self._send(acquisition.source, wire.Closed(key, counts), None)
        log.info(
            "%s: %d acquired, %d refocused, %d passed through, %d skipped, %d failed, %d pending",
            acquisition.open.name,
            *(getattr(counts, name) for name in counts.__struct_fields__),
        )

    # -- queues -------------------------------------------------------------------------

    def next_task(self) -> tuple[Task, Acquisition] | None:
        """The next frame to refocus, acquisitions in turn."""
        for _ in range(len(self._turn)):
            acquisition = self._open[self._turn[0]]
            self._turn.rotate(-1)
            if acquisition.opened and acquisition.queue:
                acquisition.in_flight += 1
                return acquisition.queue.popleft(), acquisition
        return None

    def again(self, tasks: list[Task]) -> None:
        """Frames whose worker is gone: to the front of their queue, unless they kill workers."""
        for task in reversed(tasks):
            acquisition = self._open.get(task.acquisition)
            if acquisition is None:
                continue  # dropped by a stop: stays pending
            if task.deaths >= 2:
                self.fail(task, "two workers died on this frame")
            else:
                acquisition.in_flight -= 1
                acquisition.queue.appendleft(task)

    def write(self, task: Task, result: wire.Result) -> None:
        """A worker filled the slot: have it written."""
        self._writer.write(task.number, task.submit, result.checksum, result.facts)

    def fail(self, task: Task, reason: str) -> None:
        """Record that a frame could not be refocused."""
        log.error("frame %s: %s", task.submit.axes, reason)
        submit = task.submit
        self._writer.record(
            task.acquisition,
            (submit.axes,),
            "failed",
            reason,
            task=task.number,
            live=submit.live,
        )

    def settle(self, acquisition: Acquisition) -> None:
        """Once a closing acquisition is idle: catch up what is pending, then finish."""
        if not acquisition.closing or not acquisition.idle or acquisition.finishing:
            return
        if not acquisition.opened:
            return  # the writer has not answered yet
        if acquisition.open.raw and not acquisition.caught_up:
            acquisition.caught_up = True
            if not self.stopping and not acquisition.incomplete:
                # What is pending is what raw holds and the ledger does not.
                acquisition.closing = False
                acquisition.peer = b""
                assert self._engine is not None
                self._catch_up(acquisition.open, run_id(self._engine, self._settings))
                return
        acquisition.finishing = True
        counts = acquisition.counts()
        complete = not (acquisition.incomplete or counts.pending)
        self._writer.finish(acquisition.id, counts.acquired if complete else None)

    def stop(self) -> None:
        """Close every acquisition: what is queued is done, the rest stays pending."""
        self.stopping = True
        for acquisition in list(self._open.values()):
            if acquisition in self._waiting or not acquisition.opened:
                self._drop(acquisition)
                refused = wire.Refused("the daemon is stopping", acquisition.id)
                self._send(acquisition.source, refused, None)
                self._unfinished += 1
                continue
            if not acquisition.closing:
                acquisition.incomplete = "the daemon was stopped"
            self._begin_closing(acquisition)

    # -- helpers ------------------------------------------------------------------------

    def _of(self, identity: bytes, key: str) -> Acquisition:
        acquisition = self._open.get(key)
        if acquisition is None or acquisition.peer != identity or acquisition.closing:
            raise TransportError(f"acquisition {key} is not open for this peer (any more)")
        return acquisition

    def _begin_closing(self, acquisition: Acquisition) -> None:
        acquisition.closing = True
        for slot in acquisition.granted:
            self._slots.give(slot)
        acquisition.granted.clear()
        self.settle(acquisition)
        self._top_up()

    def _grant(self, acquisition: Acquisition) -> None:
        """As many slots as a fair share of the free ring holds; at least one, if it has none."""
        span = Slot(0, acquisition.frame_nbytes).span
        wanted = min(MAX_SLOTS - acquisition.slots, self._slots.free // 2 // span)
        if acquisition.slots == 0:
            wanted = max(1, wanted)
        slots = list(self._take(acquisition.frame_nbytes, wanted))
        if slots:
            acquisition.granted.update(slots)
            self._send(acquisition.peer, wire.Credit(acquisition.id, slots), None)

    def _top_up(self) -> None:
        """Memory came free: acquisitions that had to do with less get more."""
        for acquisition in self._open.values():
            if acquisition.opened and not acquisition.closing and acquisition.peer:
                self._grant(acquisition)

    def _take(self, frame_nbytes: int, wanted: int) -> Iterator[Slot]:
        for _ in range(wanted):
            if (slot := self._slots.take(frame_nbytes)) is None:
                return
            yield slot

    def _recycle(self, acquisition: Acquisition, slot: Slot) -> None:
        """Give a slot back to its source, unless that closes or another has none."""
        starving = any(
            a.opened and a.peer and not a.closing and a.slots == 0
            for a in self._others(acquisition)
        )
        if acquisition.closing or starving:
            self._slots.give(slot)
            self._top_up()
        else:
            acquisition.granted.add(slot)
            self._send(acquisition.peer, wire.Credit(acquisition.id, [slot]), None)

    def _others(self, acquisition: Acquisition) -> Iterator[Acquisition]:
        return (a for a in self._open.values() if a is not acquisition)

    def _drop(self, acquisition: Acquisition) -> None:
        for slot in acquisition.granted:
            self._slots.give(slot)
        for task in acquisition.queue:
            self._tasks.pop(task.number, None)
            self._slots.give(task.submit.slot)
        if acquisition in self._waiting:
            self._waiting.remove(acquisition)
        self._turn.remove(acquisition.id)
        del self._open[acquisition.id]
        self._top_up()
