"""What the broker knows: acquisitions, lanes, tasks, workers.  Data with a little arithmetic."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from refocusd.frame import FinalState
from refocusd.profiles.applied import Applied
from refocusd.transport.messages import MAX_CALIBRATIONS, Counts, Engines, FocusAdvice, Open, Submit
from refocusd.transport.ring import Slot

__all__ = ["Acquisition", "Lane", "Task", "WorkerPeer"]


@dataclass(slots=True)
class Task:
    """One frame between its submission and its final state."""

    number: int
    acquisition: str
    submit: Submit
    lane: Lane
    #: A channel that has a model of its own; "" for any other.
    channel: str = ""
    #: Workers that died, and links to workers that were lost, while they were at it.
    deaths: int = 0
    cuts: int = 0
    #: When a worker began with it (`time.monotonic`), and how long it had waited until then.
    sent_at: float = 0.0
    waited_ms: float = 0.0


@dataclass(slots=True)
class Lane:
    """One way into an acquisition: its source's, or the catch-up's.

    A slot of the ring that belongs to the lane is granted (the peer fills it),
    queued, or in flight (at a worker or the writer).
    """

    peer: bytes
    live: bool
    granted: set[Slot] = field(default_factory=set)
    queue: deque[Task] = field(default_factory=deque)
    in_flight: int = 0
    #: No more frames come from its peer.
    closed: bool = False

    @property
    def idle(self) -> bool:
        """Whether nothing of it is queued, at a worker or being written."""
        return not self.queue and self.in_flight == 0

    @property
    def slots(self) -> int:
        """Slots that it holds, wherever they are."""
        return len(self.granted) + len(self.queue) + self.in_flight


@dataclass(slots=True)
class Acquisition:
    """One acquisition while it is open."""

    open: Open
    #: Who is told of it: its source (b"" for one that a restarted daemon picked up).
    source: bytes
    live: Lane
    #: While frames are read from the raw dataset, by a thread that `catching` tells of.
    catch_up: Lane | None = None
    catching: bool = False
    #: The calibration profiles that apply to it; the name of its run, once an engine is ready.
    applied: Applied = field(default_factory=Applied)
    run: str = ""
    #: Where its frames are written, once the writer has said so.
    output: str = ""
    opened: bool = False
    #: Canonical axes of the frames that the daemon holds, and whether they came live: none is
    #: worked on twice at a time.
    active: dict[str, bool] = field(default_factory=dict)
    #: Orders to the writer without pixels that it has not answered yet.
    records: int = 0
    #: Frames that raw has and the daemon gave up or never got: left to the catch-up.
    behind: int = 0
    deferred: int = 0
    #: Whether, after its last frame, it has been compared with the raw dataset.
    caught_up: bool = False
    finishing: bool = False
    #: Its disk is full: nothing of it is worked on until there is room.
    stalled: bool = False
    #: Why it is not known to be complete; empty if it is.
    incomplete: str = ""
    submitted: int = 0
    missed: int = 0
    #: Frames that went by at least, once the source or the raw dataset has said so.
    acquired: int = 0
    #: Whether that is the end: its source has closed it, or raw was read to the end since.
    told_end: bool = False
    states: dict[FinalState, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    #: The newest, of any of its fields.
    focus: FocusAdvice | None = None

    @property
    def id(self) -> str:
        """The acquisition's UUID."""
        return self.open.acquisition

    @property
    def frame_nbytes(self) -> int:
        """Bytes of one frame."""
        return self.open.height * self.open.width * (2 if self.open.dtype == "uint16" else 1)

    @property
    def lanes(self) -> list[Lane]:
        """The live lane first."""
        return [self.live] if self.catch_up is None else [self.live, self.catch_up]

    @property
    def idle(self) -> bool:
        """Whether nothing of it is queued, at a worker or being written."""
        return self.records == 0 and all(lane.idle for lane in self.lanes)

    @property
    def closing(self) -> bool:
        """Whether its source will send nothing more."""
        return self.live.closed

    def lane_of(self, peer: bytes) -> Lane | None:
        """The open lane of this peer."""
        return next((lane for lane in self.lanes if lane.peer == peer and not lane.closed), None)

    def counts(self) -> Counts:
        """Frames by final state."""
        final = sum(self.states.values())
        acquired = max(self.acquired, self.submitted + self.missed, final)
        return Counts(
            acquired=acquired,
            refocused=self.states.get("refocused", 0),
            passed_through=self.states.get("passed_through", 0),
            skipped=self.states.get("skipped", 0),
            failed=self.states.get("failed", 0),
            pending=acquired - final,
        )

    @property
    def unfinished(self) -> int:
        """Frames that failed or have no final state; at least one if it is not complete."""
        counts = self.counts()
        return max(counts.failed + counts.pending, 1 if self.incomplete else 0)

    def note(self, state: FinalState, frames: int = 1) -> None:
        """Count frames that reached a final state."""
        self.states[state] = self.states.get(state, 0) + frames


@dataclass(slots=True)
class WorkerPeer:
    """One worker: what it holds, and when it was last heard."""

    identity: bytes
    pid: int
    inline: bool
    #: Name of its key, for one on another host; "" for the daemon's own.
    remote: str = ""
    ready: bool = False
    engine: Engines | None = None
    tasks: deque[Task] = field(default_factory=deque)
    heard: float = field(default_factory=time.monotonic)
    #: Frames answered, and when: for its rate.
    answered: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=256))
    #: Keys of the calibrations that it knows, the oldest first.
    calibrations: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_CALIBRATIONS))
    #: Seconds that a pixel took at most, of late; 0 before its first answer.
    s_per_px: float = 0.0
