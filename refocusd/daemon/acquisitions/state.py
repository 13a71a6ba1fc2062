"""State of an open acquisition: its state machine, lanes, frames and counts.

::

    waiting ──────▶ live ◀────▶ live, catching up
     ▲ │             ▲ │               ▲ │
     │ ▼             │ ▼               │ ▼
    orphaned ─────▶ draining ◀──▶ catching up
                       │
                       ▼
                    closing ──────▶ ended

An acquisition is *waiting* until its output is open, and *orphaned* if its source has gone
by then (or if it has none, because an earlier daemon left it unfinished).  When the source closes it,
the frames in flight are drained, pending frames are caught up from raw, and the writer closes it.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from refocusd.config import Untrusted
from refocusd.daemon.events import FramesWritten
from refocusd.frame import FinalState, Pixels
from refocusd.processes.self_calibration import FEWEST_PLANES
from refocusd.profiles.applied import Applied
from refocusd.transport.messages import Counts, FocusAdvice, Message, Open, Submit
from refocusd.transport.ring import Slot

#: Sends a message, with pixels if any, to the peer with that identity.
Send = Callable[[bytes, Message, Pixels | None], None]


class State(Enum):
    """State of an acquisition, between its announcement and its end."""

    WAITING = auto()
    ORPHANED = auto()
    LIVE = auto()
    LIVE_CATCHING_UP = auto()
    DRAINING = auto()
    CATCHING_UP = auto()
    CLOSING = auto()
    ENDED = auto()

    @property
    def opened(self) -> bool:
        """Whether the writer has opened the output."""
        return self not in (State.WAITING, State.ORPHANED)

    @property
    def catching_up(self) -> bool:
        """Whether a thread reads pending frames from the raw dataset."""
        return self in (State.LIVE_CATCHING_UP, State.CATCHING_UP)


class Change(Enum):
    """An event that moves an acquisition from one state to the next."""

    OUTPUT_OPENED = auto()
    SOURCE_CLOSED = auto()
    SOURCE_RETURNED = auto()
    CATCH_UP_STARTED = auto()
    CATCH_UP_ENDED = auto()
    ALL_WRITTEN = auto()
    ENDED = auto()


TRANSITIONS: dict[Change, dict[State, State]] = {
    Change.OUTPUT_OPENED: {State.WAITING: State.LIVE, State.ORPHANED: State.DRAINING},
    Change.SOURCE_CLOSED: {
        State.WAITING: State.ORPHANED,
        State.LIVE: State.DRAINING,
        State.LIVE_CATCHING_UP: State.CATCHING_UP,
    },
    Change.SOURCE_RETURNED: {
        State.ORPHANED: State.WAITING,
        State.DRAINING: State.LIVE,
        State.CATCHING_UP: State.LIVE_CATCHING_UP,
    },
    Change.CATCH_UP_STARTED: {
        State.LIVE: State.LIVE_CATCHING_UP,
        State.DRAINING: State.CATCHING_UP,
    },
    Change.CATCH_UP_ENDED: {
        State.LIVE_CATCHING_UP: State.LIVE,
        State.CATCHING_UP: State.DRAINING,
    },
    Change.ALL_WRITTEN: {State.DRAINING: State.CLOSING},
    # A stopping daemon, or an output that cannot be opened, ends it from any state.
    Change.ENDED: {state: State.ENDED for state in State if state is not State.ENDED},
}
#: Changes that may be reported again in these states, where they have no effect: a link repeats a
#: message, or a source closes after the daemon's stop has closed its lane.
_REPEATABLE = {
    Change.SOURCE_CLOSED: {State.ORPHANED, State.DRAINING, State.CATCHING_UP, State.CLOSING},
    Change.SOURCE_RETURNED: {State.WAITING, State.LIVE, State.LIVE_CATCHING_UP},
    Change.CATCH_UP_ENDED: set(State) - {State.LIVE_CATCHING_UP, State.CATCHING_UP, State.ENDED},
}


def next_state(state: State, change: Change) -> State:
    """The state that follows.

    Raises
    ------
    ValueError
        If this change cannot happen in this state.
    """
    if state in _REPEATABLE.get(change, ()):
        return state
    try:
        return TRANSITIONS[change][state]
    except KeyError:
        raise ValueError(f"{change.name} cannot happen to an acquisition in {state.name}") from None


@dataclass(slots=True)
class Task:
    """One frame between its submission and its final state."""

    number: int
    acquisition: str
    submit: Submit
    lane: Lane
    #: A channel that has a model of its own; "" for any other.
    channel: str = ""
    #: What is written if the result is not trusted.
    untrusted: Untrusted = "deconvolve"
    #: Number of workers that died, and of links to workers that were lost, while they worked on it.
    deaths: int = 0
    cuts: int = 0
    #: When a worker started on it (`time.monotonic`), and how long it had waited until then.
    sent_at: float = 0.0
    waited_ms: float = 0.0
    #: A newer live frame went to a worker before it, so the live image does not show it.
    late: bool = False


@dataclass(slots=True)
class Lane:
    """One way into an acquisition: that of its source, or that of the catch-up.

    A slot of the ring that belongs to the lane is granted (the peer may fill it),
    queued, or in flight (at a worker or the writer).
    """

    peer: bytes
    live: bool
    granted: set[Slot] = field(default_factory=set)
    #: Granted slots that its peer was asked to return, and by when (`time.monotonic`).
    recalled: dict[Slot, float] = field(default_factory=dict)
    #: Slots that its peer did not return in time, and may still fill.
    taken: set[Slot] = field(default_factory=set)
    #: When it last used a slot, got one after it had none, and lost one because it did not use it
    #: (`time.monotonic`).
    used_at: float = field(default_factory=time.monotonic)
    got_at: float = 0.0
    lost_at: float = 0.0
    queue: deque[Task] = field(default_factory=deque)
    in_flight: int = 0
    #: When the newest frame that went to a worker was taken (`Submit.taken_ns`).
    newest_ns: int = 0
    #: Whether its peer sends no more frames.
    closed: bool = False

    @property
    def idle(self) -> bool:
        """Whether none of its frames is queued, at a worker or being written."""
        return not self.queue and self.in_flight == 0

    def spend(self, slot: Slot) -> None:
        """Note that the peer has filled a slot."""
        self.granted.discard(slot)
        self.recalled.pop(slot, None)
        self.used_at = time.monotonic()

    def lose(self, slot: Slot) -> None:
        """Withdraw a slot that the peer has not filled, because it is needed elsewhere."""
        self.granted.discard(slot)
        self.recalled.pop(slot, None)
        self.lost_at = time.monotonic()

    def unused_for(self, seconds: float) -> bool:
        """Whether it has slots, and has used none of them for this long."""
        since = max(self.used_at, self.got_at)
        return self.slots > 0 and self.idle and time.monotonic() - since > seconds

    @property
    def slots(self) -> int:
        """Number of slots that it holds: granted, queued or in flight."""
        return len(self.granted) + len(self.queue) + self.in_flight


@dataclass(slots=True)
class Acquisition:
    """One open acquisition.  Only its own methods and those of `Acquisitions` change its counts and state."""

    open: Open
    #: Identity of its source (b"" if an earlier daemon left it unfinished).
    source: bytes
    live: Lane
    catch_up: Lane | None = None
    #: The calibration profiles that apply.
    applied: Applied = field(default_factory=Applied)
    #: Id of its run, once an engine is ready.
    run: str = ""
    #: Where its frames are written, once the writer has opened it.
    output: str = ""
    #: Whether the daemon can read its raw dataset.
    reads_raw: bool = False
    #: Canonical axes of the frames that the daemon holds, and whether they came live: so that no frame
    #: is processed twice at the same time.
    active: dict[str, bool] = field(default_factory=dict)
    #: For each job without pixels that the writer has not answered yet, oldest first, the characters of its
    #: axes.  These jobs need no slot, so the ring does not bound them.
    records: deque[int] = field(default_factory=deque)
    recorded_chars: int = 0
    #: Number of frames in raw that were left to the catch-up since its last start, and of live frames in all.
    behind: int = 0
    deferred: int = 0
    #: When its last catch-up was started (`time.monotonic`).
    catch_up_at: float = 0.0
    #: Whether it has been compared with the raw dataset after its last frame.
    caught_up: bool = False
    #: Whether its disk is full: none of its frames is processed until there is room.
    stalled: bool = False
    #: Why it is not known to be complete; empty if it is.
    incomplete: str = ""
    submitted: int = 0
    missed: int = 0
    #: Least number of acquired frames, according to the source or the raw dataset.
    acquired: int = 0
    #: Whether that number is final: its source closed it, or raw was read to its end after the last frame.
    end_known: bool = False
    #: Planes of its z-stacks; only the first few are noted.
    planes: set[int] = field(default_factory=set)
    states: dict[FinalState, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    #: The newest advice, for any of its fields.
    focus: FocusAdvice | None = None
    state: State = State.WAITING

    @classmethod
    def announced(cls, message: Open, source: bytes) -> Acquisition:
        """An acquisition that a source has just announced."""
        return cls(message, source, Lane(source, live=True))

    @classmethod
    def left_unfinished(cls, message: Open) -> Acquisition:
        """An acquisition that an earlier daemon left: it has no source, only raw data."""
        return cls(message, b"", Lane(b"", live=True, closed=True), state=State.ORPHANED)

    def note_plane(self, axes: str) -> None:
        """Note a frame's plane, until there are enough planes to recognise a stack."""
        if len(self.planes) < FEWEST_PLANES and '"z"' in axes:
            plane = json.loads(axes).get("z")
            self.planes |= {plane} if isinstance(plane, int) else set()

    @property
    def id(self) -> str:
        """The acquisition's UUID."""
        return self.open.acquisition

    @property
    def announced_chars(self) -> int:
        """Number of characters of its announcement."""
        return len(self.open.summary) + len(self.open.first) + len(self.open.recording)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of a frame, px."""
        return self.open.height, self.open.width

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
        """Whether none of its frames is queued, at a worker or being written."""
        return not self.records and all(lane.idle for lane in self.lanes)

    @property
    def needs_catch_up(self) -> bool:
        """Whether raw may hold frames that have no final state."""
        return bool(self.open.raw) and (self.behind > 0 or not self.caught_up)

    def lane_of(self, peer: bytes) -> Lane | None:
        """The open lane of this peer."""
        return next((lane for lane in self.lanes if lane.peer == peer and not lane.closed), None)

    def counts(self) -> Counts:
        """Frames by final state."""
        final = sum(self.states.values())
        acquired = max(self.acquired, self.submitted + self.missed, final)
        return Counts(acquired=acquired, pending=acquired - final, **self.states)

    @property
    def unfinished(self) -> int:
        """Number of frames that failed or have no final state; at least one if it is not complete."""
        counts = self.counts()
        return max(counts.failed + counts.pending, 1 if self.incomplete else 0)

    # -- what happens to it ---------------------------------------------------------------

    def change(self, change: Change) -> None:
        """Move to the next state.

        Raises
        ------
        ValueError
            If this change cannot happen now.
        """
        self.state = next_state(self.state, change)

    def output_opened(self, output: str, before: dict[FinalState, int]) -> None:
        """Note that the writer has opened its output, which already holds the frames of `before`."""
        self.change(Change.OUTPUT_OPENED)
        self.output = output
        self.states = before
        self.submitted = sum(before.values())

    def source_returned(self, identity: bytes) -> None:
        """Let its source continue over a new connection."""
        self.change(Change.SOURCE_RETURNED)
        self.live.peer = self.source = identity
        self.live.closed = False
        self.caught_up = self.end_known = False
        self.incomplete = ""

    def lane_closed(self, lane: Lane) -> None:
        """Note that no more frames come through this lane."""
        lane.closed = True
        if lane.live:
            self.change(Change.SOURCE_CLOSED)

    def catch_up_started(self) -> None:
        """Note that a thread starts to read pending frames from raw."""
        self.change(Change.CATCH_UP_STARTED)
        self.catch_up_at = time.monotonic()
        # If its source has closed it, this comparison with raw is the last one.
        self.caught_up |= self.live.closed
        self.behind = 0

    def catch_up_ended(self) -> None:
        """Note that this thread has ended, and that none of its frames is in flight."""
        self.change(Change.CATCH_UP_ENDED)
        self.catch_up = None

    def closed_by(self, lane: Lane, acquired: int) -> None:
        """Note the number of acquired frames that the peer of a lane has reported."""
        self.acquired = max(self.acquired, acquired)
        # A catch-up that started before the last frame does not know the final number.
        self.end_known |= lane.live or self.caught_up
        if self.live.closed and self.caught_up and not lane.live:
            # The count of raw replaces the live counts, which include frames that were sent twice.
            self.acquired = acquired
            self.submitted = self.missed = 0

    def recording(self, axes: tuple[str, ...]) -> None:
        """Note that the writer was asked to record frames without pixels."""
        self.records.append(sum(map(len, axes)))
        self.recorded_chars += self.records[-1]

    def written(self, event: FramesWritten, task: Task | None) -> None:
        """Count frames that have reached a final state."""
        if task is None:
            self.recorded_chars -= self.records.popleft()
            known = event.known + (event.replaced if event.replaces is not None else 0)
            self.missed = max(0, self.missed - known)
        elif event.state is None or event.replaces is not None:
            # A second attempt at a frame is not a second frame.
            self.submitted -= task.submit.live
        if event.replaces is not None:
            self._count(event.replaces, -event.replaced)
        if event.state is not None:
            self._count(event.state, len(event.axes))

    def _count(self, state: FinalState, frames: int) -> None:
        self.states[state] = self.states.get(state, 0) + frames
