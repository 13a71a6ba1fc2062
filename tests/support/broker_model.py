"""The broker's state in a simulated environment, which `test_broker_model.py` drives."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec

from refocusd.config import Settings
from refocusd.daemon.acquisitions.blur.known import KnownBlurs
from refocusd.daemon.acquisitions.focus.monitor import FocusMonitor
from refocusd.daemon.acquisitions.intake import Intake
from refocusd.daemon.acquisitions.lifecycle import Lifecycle
from refocusd.daemon.acquisitions.registry import Acquisitions
from refocusd.daemon.acquisitions.scheduler import Scheduler
from refocusd.daemon.acquisitions.self_calibrations import SelfCalibrations
from refocusd.daemon.acquisitions.state import Acquisition, Task
from refocusd.daemon.events import (
    CatchUpFailed,
    DiskFull,
    FrameNotWritten,
    FramesWritten,
    OutputClosed,
    OutputOpened,
    SavedFrameRead,
)
from refocusd.daemon.output.jobs import CloseOutput, Job, OpenOutput, RecordFrames, WriteFrame
from refocusd.daemon.workers.dispatcher import Dispatcher
from refocusd.daemon.workers.pool import MAX_TASKS, WorkerPool
from refocusd.frame import Pixels, checksum
from refocusd.transport import messages as wire
from refocusd.transport.ring import SharedRing, Slot

RING_MIB = 1
ENGINE = wire.Engines("identity", "exact", "CPU", "identity", "", "")
FACTS = wire.FrameFacts(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0, "trusted")
#: Maximum number of frames of an acquisition: more find no other faults and take longer.
MAX_FRAMES = 40


@dataclass
class Peer:
    """A source or a catch-up: what it was told and what it holds."""

    identity: bytes
    slots: deque[Slot] = field(default_factory=deque)
    opened: bool = False
    refused: str = ""


@dataclass
class Story:
    """One acquisition, as seen by the microscope."""

    open: wire.Open
    peer: Peer
    went_by: list[str] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    #: Which of these are in the raw dataset, and which the source will never submit.
    raw: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    closed: bool = False
    #: Its source was lost, or its catch-up failed: frames may be pending at its end.
    hurt: bool = False
    ended: wire.Counts | None = None

    @property
    def id(self) -> str:
        return self.open.acquisition


@dataclass
class Reading:
    """A catch-up thread: what it found pending, and how far it is."""

    story: Story
    keys: list[str]
    pending: deque[str]
    peer: Peer


class ModelWriter:
    """Jobs in, answers out, one at a time; a ledger of final states."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.ledger: dict[str, dict[str, str]] = {}
        self.outputs: set[str] = set()
        self.full: set[str] = set()
        self.told_full: set[str] = set()

    def put(self, job: Job) -> None:
        self.jobs.append(job)

    def tasks(self) -> list[int]:
        """Tasks waiting to be written or recorded."""
        numbers = [job.task for job in self.jobs if isinstance(job, (WriteFrame, RecordFrames))]
        return [number for number in numbers if number]

    def answer(self, has_raw: dict[str, bool]) -> list[Any]:
        """Do the oldest job as the real writer would; returns the events that follow."""
        job = self.jobs.popleft()
        if isinstance(job, OpenOutput):
            key = job.open.acquisition
            self.outputs.add(key)
            states = self.ledger.setdefault(key, {})
            before: Any = Counter(states.values())
            return [OutputOpened(key, "/out", reads_raw=bool(job.open.raw), before=before)]
        if isinstance(job, CloseOutput):
            self.outputs.discard(job.acquisition)
            return [OutputClosed(job.acquisition)]
        key = job.submit.acquisition if isinstance(job, WriteFrame) else job.acquisition
        assert key in self.outputs, "the writer is asked for an acquisition that it has closed"
        states = self.ledger[key]
        if isinstance(job, RecordFrames):
            return [self._written(job.task, key, job.axes, job.state, job.reason)]
        task, axes = job.task, job.submit.axes
        if states.get(axes) in ("refocused", "passed_through"):
            return [FramesWritten(key, task, (axes,), None)]
        if key in self.full:
            if not has_raw[key]:
                return [self._written(task, key, (axes,), "skipped", "no raw: full")]
            told = [] if key in self.told_full else [DiskFull(key, full=True)]
            self.told_full.add(key)
            return [*told, FrameNotWritten(key, task)]
        return [self._written(task, key, (axes,), "refocused", "")]

    def _written(
        self, task: int, key: str, axes: tuple[str, ...], state: Any, reason: str
    ) -> FramesWritten:
        states = self.ledger[key]
        # A finished frame stays finished; a later attempt replaces a failed or skipped one.
        done = ("refocused",) if state == "refocused" else ("refocused", "skipped")
        fresh = tuple(a for a in dict.fromkeys(axes) if states.get(a) not in done)
        before: Any = {states[a] for a in fresh if a in states}
        replaced = sum(a in states for a in fresh)
        known = len(axes) - len(fresh)
        states.update(dict.fromkeys(fresh, state))
        replaces = before.pop() if before else None
        ended = state if fresh else None
        return FramesWritten(
            key, task, fresh, ended, reason, replaces, replaced=replaced, known=known
        )


class PlayedBroker:
    """The broker's real state, the messages it sends, and what it does between them."""

    def set_up(self, policy: Any) -> None:
        """Begin without a worker."""
        self.settings = Settings(
            ring_mib=RING_MIB, policy=policy, backend="identity", ledgers="none"
        )
        self.ring = SharedRing.create(RING_MIB << 20)
        self.writer = ModelWriter()
        writer: Any = self.writer
        self.pool = WorkerPool(self.send, self.ring)
        self.acquisitions = Acquisitions()
        self.scheduler = Scheduler(
            self.settings, self.ring.address.nbytes, self.acquisitions, self.send
        )
        self.lifecycle = Lifecycle(
            self.settings,
            writer,
            self.acquisitions,
            self.scheduler,
            self.send,
            self.catch_up,
            FocusMonitor(self.settings),
            KnownBlurs(self.settings),
            SelfCalibrations(self.settings),
        )
        saved_frames: Any = SimpleNamespace(read=self.read_saved)
        self.intake = Intake(self.ring, self.lifecycle, saved_frames)
        #: Frames that are being read from raw, oldest first.
        self.reads: deque[SavedFrameRead] = deque()
        nobody: Any = None  # neither remote workers nor processes
        self.dispatcher = Dispatcher(nobody, self.ring, self.lifecycle, self.pool, nobody, nobody)
        self.total_free = self.scheduler.free_nbytes
        self.stories: dict[str, Story] = {}
        self.readings: list[Reading] = []
        self.peers: dict[bytes, Peer] = {}
        #: Sources that are gone without the daemon having noticed.
        self.unnoticed: list[bytes] = []
        #: Tasks that each worker was sent, oldest first.
        self.workers: dict[bytes, list[wire.Task]] = {}
        self.answered: list[tuple[bytes, int]] = []
        self.names = itertools.count(1)
        self.broken = False
        #: For an acquisition with waiting frames: live frames of others sent since its last turn.
        self.passed_over: Counter[str] = Counter()

    def active(self) -> list[Story]:
        return [s for s in self.stories.values() if not s.closed]

    def busy(self) -> list[bytes]:
        return [identity for identity, tasks in self.workers.items() if tasks]

    def save(self, story: Story) -> None:
        if story.open.raw:
            story.raw = list(story.went_by)

    # -- the wire, simulated ------------------------------------------------------------

    def send(self, identity: bytes, message: wire.Message, pixels: Pixels | None) -> None:
        if identity in self.workers:
            assert isinstance(message, (wire.Task, wire.Stop))
            if isinstance(message, wire.Task):
                self.workers[identity].append(message)
            return
        peer = self.peers.get(identity)
        assert peer is not None, f"{message} is sent to nobody"
        if isinstance(message, wire.Credit):
            peer.slots.extend(message.slots)
        elif isinstance(message, wire.Opened):
            peer.opened = True
        elif isinstance(message, wire.Refused):
            peer.refused = message.reason
        elif isinstance(message, wire.Closed):
            story = self.stories[message.acquisition]
            assert story.ended is None, "closed twice"
            story.ended = message.counts

    def catch_up(self, open_: wire.Open, run: str, *, last: bool) -> None:
        story = self.stories[open_.acquisition]
        assert not any(r.story is story for r in self.readings), "two catch-ups of one acquisition"
        done = self.writer.ledger[story.id]
        keys = list(story.raw)
        pending = deque(key for key in keys if key not in done)
        self.readings.append(Reading(story, keys, pending, self.new_peer("catch-up")))

    def new_peer(self, kind: str) -> Peer:
        identity = f"{kind}-{next(self.names)}".encode()
        self.peers[identity] = Peer(identity)
        return self.peers[identity]

    def dispatch(self) -> None:
        """Dispatch, as the broker does after every batch of events."""
        while worker := self.pool.free(fresh=self.scheduler.stays_fresh):
            waiting = [a.id for a in self.acquisitions if a.live.queue and not a.stalled]
            found = self.scheduler.next_task()
            if found is None:
                break
            task, acquisition = found
            if task.lane.live:
                self.passed_over.update(key for key in waiting if key != acquisition.id)
                del self.passed_over[acquisition.id]
            self.pool.assign(worker, task, acquisition)
        for key in list(self.passed_over):
            passed = self.acquisitions.get(key)
            if passed is None or not passed.live.queue:
                del self.passed_over[key]

    def read_saved(self, open_: wire.Open, frame: wire.Submit) -> None:
        read = msgspec.structs.replace(frame, saved=None)
        self.reads.append(SavedFrameRead(open_.acquisition, read))

    def saved_frame_read(self, *, there: bool) -> None:
        event = self.reads.popleft()
        error = "" if there else "not in its file yet"
        self.tell(msgspec.structs.replace(event, error=error))

    def submit(
        self, peer: Peer, story: Story, axes: str, *, live: bool, on_disk: bool = False
    ) -> None:
        slot = peer.slots.popleft()
        pixels = self.ring.view(slot.offset, (story.open.height, story.open.width), "uint16")
        place = wire.SavedFrame("a.tif", 0, 0, 2) if on_disk and story.open.raw else None
        about = slot, checksum(pixels), "{}", 0
        message = wire.Submit(story.id, axes, *about, live=live, saved=place)
        if live:
            story.sent.add(axes)
        self.intake.submit(peer.identity, message, None)

    def answer(self, identity: bytes, number: int, *, well: bool) -> None:
        """Answer a task by a `Result` or a `Failure`, as a worker would."""
        if well:
            self.dispatcher.receive(identity, wire.Result(number, 1, FACTS), None)
        else:
            self.dispatcher.receive(identity, wire.Failure(number, "the worker said so"), None)

    def tell(self, event: Any) -> None:
        """Pass an event on, as the broker does."""
        if (acquisition := self.acquisitions.get(event.acquisition)) is None:
            return
        handlers: dict[type[Any], Callable[[Acquisition, Any], None]] = {
            FramesWritten: self.dispatcher.written,
            FrameNotWritten: self.dispatcher.not_written,
            OutputOpened: self.lifecycle.output_opened,
            SavedFrameRead: self.intake.saved_frame_read,
            DiskFull: self.lifecycle.disk_full,
            CatchUpFailed: self.lifecycle.catch_up_failed,
            OutputClosed: self.lifecycle.output_closed,
        }
        handlers[type(event)](acquisition, event)

    # -- invariants ---------------------------------------------------------------------

    def tasks_by_place(self) -> dict[str, list[Task]]:
        lanes = [lane for a in self.acquisitions for lane in a.lanes]
        queued = [task for lane in lanes for task in lane.queue]
        at_workers = [task for w in self.pool._workers.values() for task in w.tasks]
        writing = [self.acquisitions._tasks[number] for number in self.writer.tasks()]
        return {"queued": queued, "at workers": at_workers, "writing": writing}

    def every_frame_is_in_one_place(self) -> None:
        places = self.tasks_by_place().values()
        # Frames that a stop has dropped stay where they are; nobody waits for them.
        tasks = [
            task for place in places for task in place if task.acquisition in self.acquisitions
        ]
        known = {
            n
            for n, task in self.acquisitions._tasks.items()
            if task.acquisition in self.acquisitions
        }
        numbers = [task.number for task in tasks]
        assert len(set(numbers)) == len(numbers), "a task is in two places"
        assert set(numbers) == known, "a task is nowhere"
        frames = Counter((task.acquisition, task.submit.axes) for task in tasks)
        assert max(frames.values(), default=0) <= 1, "a frame is worked on twice at once"

    def every_slot_has_one_owner(self) -> None:
        lanes = [lane for a in self.acquisitions for lane in a.lanes]
        slots = [slot for lane in lanes for slot in lane.granted]
        slots += [task.submit.slot for task in self.acquisitions._tasks.values()]
        slots += [event.frame.slot for event in self.reads]
        for first, second in itertools.pairwise(sorted(slots, key=lambda slot: slot.offset)):
            assert first.offset + first.span <= second.offset, "two owners of one slot"
        held = sum(slot.span for slot in slots)
        if not self.lifecycle.stopping:
            assert self.scheduler.free_nbytes + held == self.total_free, "a slot is lost"
        for lane in lanes:
            if lane.peer and not lane.closed:
                assert lane.granted == set(self.peers[lane.peer].slots)

    def lanes_and_workers_are_bounded_and_count_right(self) -> None:
        places = self.tasks_by_place()
        in_flight = Counter(id(t.lane) for t in places["at workers"] + places["writing"])
        reads = Counter(event.acquisition for event in self.reads)
        for acquisition in self.acquisitions:
            for lane in acquisition.lanes:
                read = reads[acquisition.id] if lane.live else 0
                assert lane.in_flight == in_flight[id(lane)] + read
                assert lane.slots <= 32
        for worker in self.pool._workers.values():
            assert len(worker.tasks) <= MAX_TASKS
            assert [t.number for t in worker.tasks] == [
                t.task for t in self.workers[worker.identity]
            ]

    def counts_add_up(self) -> None:
        unread = {
            job.acquisition
            for job in self.writer.jobs
            if isinstance(job, RecordFrames) and not job.task
        }
        for acquisition in self.acquisitions:
            key = acquisition.id
            counts = acquisition.counts()
            assert counts.pending >= 0, counts
            if acquisition.state.opened and key not in unread:
                assert counts.final == len(self.writer.ledger[key]), counts
                # A duplicate counts until the writer has reported it.
                went_by = len(self.stories[key].went_by)
                assert counts.acquired <= went_by + len(acquisition.active), counts

    def check_end(self, story: Story) -> None:
        counts, states = story.ended, self.writer.ledger.get(story.id, {})
        if story.hurt:
            return
        assert counts is not None, "the source was never told of the end"
        assert set(states) == set(story.went_by), "a frame has no end"
        assert counts.acquired == counts.final == len(story.went_by)
        said = Counter(states.values())
        assert (counts.refocused, counts.skipped, counts.failed) == (
            said["refocused"],
            said["skipped"],
            said["failed"],
        )
