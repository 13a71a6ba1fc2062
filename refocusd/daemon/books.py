"""What the broker knows: acquisitions, workers, tasks.  Data with a little arithmetic."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from refocusd.transport.messages import Counts, FinalState, Open, Submit
from refocusd.transport.ring import Slot

__all__ = ["Acquisition", "Task", "WorkerPeer"]


@dataclass(slots=True)
class Task:
    """One frame between its submission and its final state."""

    number: int
    acquisition: str
    submit: Submit
    deaths: int = 0
    sent_at: float = 0.0


@dataclass(slots=True)
class Acquisition:
    """One acquisition while it is open.

    `peer` is whoever may submit frames now: the source, later the catch-up.
    """

    open: Open
    peer: bytes
    source: bytes
    opened: bool = False
    granted: set[Slot] = field(default_factory=set)
    queue: deque[Task] = field(default_factory=deque)
    in_flight: int = 0
    closing: bool = False
    #: Whether what it had has been compared with the raw dataset.
    caught_up: bool = False
    finishing: bool = False
    #: Why it is not known to be complete; empty if it is.
    incomplete: str = ""
    submitted: int = 0
    missed: int = 0
    #: Frames that went by at least, once the source or the raw dataset has said so.
    acquired: int = 0
    states: dict[FinalState, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The acquisition's UUID."""
        return self.open.acquisition

    @property
    def frame_nbytes(self) -> int:
        """Bytes of one frame."""
        return self.open.height * self.open.width * (2 if self.open.dtype == "uint16" else 1)

    @property
    def idle(self) -> bool:
        """Whether nothing of it is queued, at a worker or being written."""
        return not self.queue and self.in_flight == 0

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

    @property
    def slots(self) -> int:
        """Slots of the ring that it holds, wherever they are."""
        return len(self.granted) + len(self.queue) + self.in_flight

    def note(self, state: FinalState, frames: int = 1) -> None:
        """Count frames that reached a final state."""
        self.states[state] = self.states.get(state, 0) + frames


@dataclass(slots=True)
class WorkerPeer:
    """One worker: what it holds, and when it was last heard."""

    identity: bytes
    inline: bool
    ready: bool = False
    tasks: deque[Task] = field(default_factory=deque)
    heard: float = field(default_factory=time.monotonic)
