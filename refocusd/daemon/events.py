"""What other threads report to the broker, and the queue that wakes it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque

import msgspec
import zmq

from refocusd.frame import FinalState
from refocusd.transport.messages import FrameFacts, Open, Submit


class Event(msgspec.Struct, frozen=True):
    """Base of all events."""


class AcquisitionEvent(Event, frozen=True):
    """Base of the events of one acquisition."""

    acquisition: str


class OutputOpened(AcquisitionEvent, frozen=True):
    """The writer has opened an acquisition's output, or `error` says why not."""

    output: str
    error: str = ""
    #: Its raw dataset is there, for us as well.
    reads_raw: bool = False
    #: Frames of this run that the ledger has already, by final state.
    before: dict[FinalState, int] = {}


class SavedFrameRead(AcquisitionEvent, frozen=True):
    """A frame that its source has on disk lies in its slot now; or `error` says why not."""

    frame: Submit
    error: str = ""
    #: Its disk does not answer.
    hangs: bool = False


class FramesWritten(AcquisitionEvent, frozen=True):
    """Frames of an acquisition have a final state on disk.

    `task` is 0 for frames that were never submitted.  `state` is None for frames that
    had their final state before.  `replaces` is the state of the earlier attempts at
    `replaced` of these frames.  `known` more frames were named that had their final
    state before.
    """

    task: int
    axes: tuple[str, ...]
    state: FinalState | None
    reason: str = ""
    replaces: FinalState | None = None
    latency_ms: float = 0.0
    facts: FrameFacts | None = None
    replaced: int = 1
    known: int = 0


class FrameNotWritten(AcquisitionEvent, frozen=True):
    """A frame that raw holds was not written: the disk is full, or `error` says why."""

    task: int
    error: str = ""


class DiskFull(AcquisitionEvent, frozen=True):
    """The disk of an acquisition is full, or (`full` is False) has room again."""

    full: bool


class PreviewTaken(Event, frozen=True):
    """The newest frame can be shown."""


class OutputClosed(AcquisitionEvent, frozen=True):
    """The writer has closed an acquisition's output; `error` says why it is not complete."""

    error: str = ""


class CatchUpFailed(AcquisitionEvent, frozen=True):
    """A catch-up ended before it was done, and why."""

    error: str


class LeftUnfinished(Event, frozen=True):
    """An earlier daemon left this acquisition, in this run, and its raw data are there."""

    message: Open
    run: str


class WorkerGone(Event, frozen=True):
    """A worker process has ended."""

    identity: str


class WorkersGaveUp(Event, frozen=True):
    """No worker can be started; the daemon ends for this reason."""

    reason: str


class StopRequested(Event, frozen=True):
    """The daemon shall end."""


class EventQueue:
    """Events for the broker.  Frames need slots, so the ring bounds how many there are.

    `put` may be called from any thread; `socket` and `take` belong to the broker.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self.socket: zmq.Socket[bytes] = context.socket(zmq.PULL)
        address = f"inproc://events-{id(self)}"
        self.socket.bind(address)
        self._waker: zmq.Socket[bytes] = context.socket(zmq.PUSH)
        self._waker.connect(address)
        #: Set once no more events are taken.
        self.closed = threading.Event()

    def put(self, event: Event) -> None:
        """Hand over an event and wake the broker."""
        with self._lock:
            if self.closed.is_set():
                return
            self._events.append(event)
            # Where this queue is full, many wake-ups are on their way already.
            with contextlib.suppress(zmq.Again):
                self._waker.send(b"", zmq.NOBLOCK)

    def take(self) -> list[Event]:
        """All events so far."""
        with self._lock:
            while self.socket.poll(0):
                self.socket.recv()
            events = list(self._events)
            self._events.clear()
        return events

    def close(self) -> None:
        """Take no more events."""
        with self._lock:
            self.closed.set()
            self._waker.close(linger=0)
            self.socket.close(linger=0)
