"""How other threads tell the broker something: a list and a socket that wakes it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import zmq

from refocusd.frame import FinalState
from refocusd.transport.messages import EngineInfo, FrameFacts

__all__ = [
    "CatchUpFailed",
    "DiskFull",
    "Event",
    "Finished",
    "GivenUp",
    "Mailbox",
    "PreviewTaken",
    "SinkOpened",
    "StopRequested",
    "WorkerGone",
    "WorkersGaveUp",
    "Written",
]


@dataclass(frozen=True, slots=True)
class SinkOpened:
    """The writer has made room for an acquisition, or `error` says why not."""

    acquisition: str
    output: str
    error: str = ""
    #: Frames of this run that the ledger has already, by final state.
    before: Mapping[FinalState, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """Frames of an acquisition have a final state on disk.

    `task` is 0 for frames that were never submitted; `state` is None for one
    that had its final state before; `replaces` is the state of earlier
    attempts at `replaced` of the frames that these end.  `known` more frames were
    named, and had their final state before.
    """

    task: int
    acquisition: str
    axes: tuple[str, ...]
    state: FinalState | None
    reason: str = ""
    replaces: FinalState | None = None
    latency_ms: float = 0.0
    facts: FrameFacts | None = None
    replaced: int = 1
    known: int = 0


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A frame was not written, for the want of disk space (or by an `error` of ours); raw has it."""

    task: int
    acquisition: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class DiskFull:
    """The disk of an acquisition is full, or (`full` is False) has room again."""

    acquisition: str
    full: bool


@dataclass(frozen=True, slots=True)
class PreviewTaken:
    """The newest frame can be shown."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The writer has closed an acquisition's sink and ledger."""

    acquisition: str


@dataclass(frozen=True, slots=True)
class CatchUpFailed:
    """A catch-up ended before it was done, and why."""

    acquisition: str
    error: str


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A worker process has ended."""

    identity: str


@dataclass(frozen=True, slots=True)
class WorkersGaveUp:
    """A worker cannot be started at all; the daemon ends with this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The daemon shall end."""


Event = (
    SinkOpened
    | Written
    | GivenUp
    | DiskFull
    | PreviewTaken
    | Finished
    | CatchUpFailed
    | WorkerGone
    | WorkersGaveUp
    | StopRequested
)


class Mailbox:
    """Events for the broker.  As long as the ring has slots: nobody sends without one.

    `put` may be called from any thread; `socket` and `take` belong to the broker.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self.socket: zmq.Socket[bytes] = context.socket(zmq.PULL)
        address = f"inproc://mailbox-{id(self)}"
        self.socket.bind(address)
        self._waker: zmq.Socket[bytes] = context.socket(zmq.PUSH)
        self._waker.connect(address)
        self._closed = False

    def put(self, event: Event) -> None:
        """Hand over an event and wake the broker."""
        with self._lock:
            if self._closed:
                return
            self._events.append(event)
            # Where its queue is full, many wake-ups are on their way already.
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
        """No more events are taken."""
        with self._lock:
            self._closed = True
            self._waker.close(linger=0)
            self.socket.close(linger=0)


def describe(engine: EngineInfo) -> str:
    """One line for logs: model, backend, device, precision."""
    model = engine.model_id or "no model"
    return f"{model} on {engine.backend} ({engine.device}, {engine.precision})"
