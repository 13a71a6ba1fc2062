"""The daemon's books with everything around them played: what `test_broker_model.py` drives."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from refocusd.config import Settings
from refocusd.daemon.acquisitions.intake import Desk
from refocusd.daemon.acquisitions.lifecycle import Course
from refocusd.daemon.acquisitions.state import Task
from refocusd.daemon.events import DiskFull, Finished, GivenUp, SinkOpened, Written
from refocusd.daemon.workers.pool import AT_HAND, Crew
from refocusd.frame import Pixels, checksum
from refocusd.transport import messages as wire
from refocusd.transport.ring import SharedRing, Slot

__all__ = ["ENGINE", "MAX_FRAMES", "ModelWriter", "Peer", "PlayedBroker", "Reading", "Story"]

RING_MIB = 1
ENGINE = wire.Engines("identity", "exact", "CPU", "identity", "", "")
FACTS = wire.FrameFacts(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0, "refocused")
#: Frames of one acquisition at most: more finds nothing else, and takes longer to settle.
MAX_FRAMES = 40


@dataclass
class Peer:
    """A source, or a catch-up: what it was told and what it holds."""

    identity: bytes
    slots: deque[Slot] = field(default_factory=deque)
    opened: bool = False
    refused: str = ""


@dataclass
class Story:
    """One acquisition, as a microscope would tell it."""

    open: wire.Open
    peer: Peer
    went_by: list[str] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    #: Of these, what is in the raw dataset, and what the source will never submit.
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
    """Orders in, answers out, one at a time; a ledger of final states."""

    def __init__(self) -> None:
        self.orders: deque[tuple[Any, ...]] = deque()
        self.ledger: dict[str, dict[str, str]] = {}
        self.places: set[str] = set()
        self.full: set[str] = set()
        self.told_full: set[str] = set()

    def open(self, open_: wire.Open, run: str, engine: wire.Engines) -> None:
        self.orders.append(("open", open_))

    def write(self, task: int, submit: wire.Submit, *_: Any) -> None:
        self.orders.append(("write", task, submit))

    def record(
        self, acquisition: str, axes: tuple[str, ...], state: str, reason: str, **more: Any
    ) -> None:
        self.orders.append(("record", acquisition, axes, state, reason, more.get("task", 0)))

    def finish(self, acquisition: str, acquired: int | None) -> None:
        self.orders.append(("finish", acquisition, acquired))

    def answer(self, has_raw: dict[str, bool]) -> list[Any]:
        """Do the oldest order, as the real writer would; the events that follow."""
        order = self.orders.popleft()
        if order[0] == "open":
            key = order[1].acquisition
            self.places.add(key)
            states = self.ledger.setdefault(key, {})
            return [SinkOpened(key, "/out", before=Counter(states.values()))]  # type: ignore[arg-type]
        if order[0] == "finish":
            self.places.discard(order[1])
            return [Finished(order[1])]
        key = order[2].acquisition if order[0] == "write" else order[1]
        assert key in self.places, "the writer is asked for an acquisition that it has closed"
        states = self.ledger[key]
        if order[0] == "record":
            _, _, axes, state, reason, task = order
            return [self._written(task, key, axes, state, reason)]
        _, task, submit = order
        if states.get(submit.axes) in ("refocused", "passed_through"):
            return [Written(task, key, (submit.axes,), None)]
        if key in self.full:
            if not has_raw[key]:
                return [self._written(task, key, (submit.axes,), "skipped", "no raw: full")]
            told = [] if key in self.told_full else [DiskFull(key, full=True)]
            self.told_full.add(key)
            return [*told, GivenUp(task, key)]
        return [self._written(task, key, (submit.axes,), "refocused", "")]

    def _written(
        self, task: int, key: str, axes: tuple[str, ...], state: Any, reason: str
    ) -> Written:
        states = self.ledger[key]
        # What is done stays done; of a failed or skipped frame a later attempt takes the place.
        done = ("refocused",) if state == "refocused" else ("refocused", "skipped")
        fresh = tuple(a for a in dict.fromkeys(axes) if states.get(a) not in done)
        before: Any = {states[a] for a in fresh if a in states}
        replaced = sum(a in states for a in fresh)
        known = len(axes) - len(fresh)
        states.update(dict.fromkeys(fresh, state))
        replaces = before.pop() if before else None
        ended = state if fresh else None
        return Written(task, key, fresh, ended, reason, replaces, replaced=replaced, known=known)


class PlayedBroker:
    """The real books, the messages they send, and what the broker itself does between them."""

    def set_up(self, policy: Any) -> None:
        """Begin, without a worker."""
        self.settings = Settings(
            ring_mib=RING_MIB, policy=policy, backend="identity", ledgers="none"
        )
        self.ring = SharedRing.create(RING_MIB << 20)
        self.writer = ModelWriter()
        writer: Any = self.writer
        self.crew = Crew(self.send, self.ring)
        self.course = Course(self.settings, self.ring, writer, self.send, self.catch_up)
        self.desk = Desk(self.settings, self.ring, writer, self.send, self.course)
        self.total_free = self.course.queues.free_nbytes
        self.stories: dict[str, Story] = {}
        self.readings: list[Reading] = []
        self.peers: dict[bytes, Peer] = {}
        #: Sources that are gone, which the daemon has not noticed.
        self.unnoticed: list[bytes] = []
        #: Tasks as the workers were told of them, oldest first.
        self.workers: dict[bytes, list[wire.Task]] = {}
        self.answered: list[tuple[bytes, int]] = []
        self.names = itertools.count(1)
        self.broken = False
        #: Live frames of others sent to workers since an acquisition with waiting ones had a turn.
        self.passed_over: Counter[str] = Counter()

    def active(self) -> list[Story]:
        return [s for s in self.stories.values() if not s.closed]

    def busy(self) -> list[bytes]:
        return [identity for identity, tasks in self.workers.items() if tasks]

    def save(self, story: Story) -> None:
        if story.open.raw:
            story.raw = list(story.went_by)

    # -- the wire, played ---------------------------------------------------------------

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

    def catch_up(self, open_: wire.Open, run: str) -> None:
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
        """As the broker does after every batch of events."""
        while worker := self.crew.free():
            waiting = [a.id for a in self.course.open.values() if a.live.queue and not a.stalled]
            found = self.course.queues.next_task()
            if found is None:
                break
            task, acquisition = found
            if task.lane.live:
                self.passed_over.update(key for key in waiting if key != acquisition.id)
                del self.passed_over[acquisition.id]
            self.crew.assign(worker, task, acquisition)
        for key in list(self.passed_over):
            if key not in self.course.open or not self.course.open[key].live.queue:
                del self.passed_over[key]

    def submit(self, peer: Peer, story: Story, axes: str, *, live: bool) -> None:
        slot = peer.slots.popleft()
        pixels = self.ring.view(slot.offset, (story.open.height, story.open.width), "uint16")
        message = wire.Submit(story.id, axes, slot, checksum(pixels), "{}", 0, live=live)
        if live:
            story.sent.add(axes)
        self.desk.submit(peer.identity, message, None)

    def answer(self, identity: bytes, number: int, *, well: bool) -> None:
        """As the broker takes a `Result` or a `Failure`."""
        if task := self.crew.take_back(identity, number):
            if well:
                result = wire.Result(number, 1, FACTS)
                self.course.write(task, result, self.crew.engine_of(identity, task.channel))
            else:
                self.course.fail(task, "the worker said so")

    def tell(self, event: Any) -> None:
        """As the broker passes events on."""
        if isinstance(event, Written):
            self.course.written(event)
        elif isinstance(event, SinkOpened):
            self.course.sink_opened(event)
        elif isinstance(event, GivenUp):
            self.course.given_up(event)
        elif isinstance(event, DiskFull):
            self.course.disk_full(event)
        else:
            self.course.finished(event.acquisition)

    # -- what is always so --------------------------------------------------------------

    def tasks_by_place(self) -> dict[str, list[Task]]:
        lanes = [lane for a in self.course.open.values() for lane in a.lanes]
        queued = [task for lane in lanes for task in lane.queue]
        at_workers = [task for w in self.crew._workers.values() for task in w.tasks]
        orders = [order for order in self.writer.orders if order[0] in ("write", "record")]
        numbers = [order[1] if order[0] == "write" else order[5] for order in orders]
        writing = [self.course.tasks[n] for n in numbers if n]
        return {"queued": queued, "at workers": at_workers, "writing": writing}

    def every_frame_is_in_one_place(self) -> None:
        places = self.tasks_by_place().values()
        # What a stop has dropped stays where it is; nobody waits for it.
        tasks = [task for place in places for task in place if task.acquisition in self.course.open]
        known = {n for n, task in self.course.tasks.items() if task.acquisition in self.course.open}
        numbers = [task.number for task in tasks]
        assert len(set(numbers)) == len(numbers), "a task is in two places"
        assert set(numbers) == known, "a task is nowhere"
        frames = Counter((task.acquisition, task.submit.axes) for task in tasks)
        assert max(frames.values(), default=0) <= 1, "a frame is worked on twice at once"

    def every_slot_has_one_owner(self) -> None:
        lanes = [lane for a in self.course.open.values() for lane in a.lanes]
        slots = [slot for lane in lanes for slot in lane.granted]
        slots += [task.submit.slot for task in self.course.tasks.values()]
        for first, second in itertools.pairwise(sorted(slots, key=lambda slot: slot.offset)):
            assert first.offset + first.span <= second.offset, "two owners of one slot"
        held = sum(slot.span for slot in slots)
        if not self.course.stopping:
            assert self.course.queues.free_nbytes + held == self.total_free, "a slot is lost"
        for lane in lanes:
            if lane.peer and not lane.closed:
                assert lane.granted == set(self.peers[lane.peer].slots)

    def lanes_and_workers_are_bounded_and_count_right(self) -> None:
        places = self.tasks_by_place()
        in_flight = Counter(id(t.lane) for t in places["at workers"] + places["writing"])
        for acquisition in self.course.open.values():
            for lane in acquisition.lanes:
                assert lane.in_flight == in_flight[id(lane)]
                assert lane.slots <= 32
        for worker in self.crew._workers.values():
            assert len(worker.tasks) <= AT_HAND
            assert [t.number for t in worker.tasks] == [
                t.task for t in self.workers[worker.identity]
            ]

    def counts_add_up(self) -> None:
        unread = {order[1] for order in self.writer.orders if order[0] == "record" and not order[5]}
        for key, acquisition in self.course.open.items():
            counts = acquisition.counts()
            assert counts.pending >= 0, counts
            if acquisition.opened and key not in unread:
                assert counts.final == len(self.writer.ledger[key]), counts
                # What came twice counts until the writer has said so.
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
