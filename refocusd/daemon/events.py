"""Events that other threads report to the broker, and the queue that wakes it."""

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
    #: Whether the daemon can read its raw dataset.
    reads_raw: bool = False
    #: Frames of this run that the ledger has already, by final state.
    before: dict[FinalState, int] = {}


class SavedFrameRead(AcquisitionEvent, frozen=True):
    """A frame that its source has on disk was read into its slot; or `error` says why not."""

    frame: Submit
    error: str = ""
    #: Whether its disk does not answer.
    hangs: bool = False


class FramesWritten(AcquisitionEvent, frozen=True):
    """Frames of an acquisition have a final state on disk.

    `task` is 0 for frames that were never submitted.  `state` is None if the frames
    already had their final state.  `replaces` is the state of earlier attempts, which
    `replaced` of the frames had.  The job named `known` more frames that already had
    their final state.
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
    """A frame that raw holds was not written, because the disk is full or for the reason in `error`."""

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
    """A catch-up ended early; `error` says why."""

    error: str


class LeftUnfinished(Event, frozen=True):
    """An earlier daemon left this acquisition unfinished, in this run, and its raw data exist."""

    message: Open
    run: str


class WorkerGone(Event, frozen=True):
    """A worker process has ended."""

    identity: str


class WorkersGaveUp(Event, frozen=True):
    """No worker can be started, so the daemon ends; `reason` says why."""

    reason: str


class StopRequested(Event, frozen=True):
    """The daemon is asked to stop."""


class EventQueue:
    """Events for the broker.  Frames need slots, so the ring bounds the number of events.

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
        #: Set once no more events are accepted.
        self.closed = threading.Event()

    def put(self, event: Event) -> None:
        """Hand over an event and wake the broker."""
        with self._lock:
            if self.closed.is_set():
                return
            self._events.append(event)
            # If the socket's queue is full, many wake-ups are pending already.
            with contextlib.suppress(zmq.Again):
                self._waker.send(b"", zmq.NOBLOCK)

    def take(self) -> list[Event]:
        """Remove and return all events."""
        with self._lock:
            while self.socket.poll(0):
                self.socket.recv()
            events = list(self._events)
            self._events.clear()
        return events

    def close(self) -> None:
        """Accept no more events."""
        with self._lock:
            self.closed.set()
            self._waker.close(linger=0)
            self.socket.close(linger=0)
