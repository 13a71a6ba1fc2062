"""Events for the user: a daemon found or gone, workers that end and start, acquisitions not seen."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from refocusd.transport.messages import Status, WorkerStatus

MAX_EVENTS = 40

Level = Literal["info", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Event:
    """One line; `at` is in seconds since 1970."""

    at: float
    level: Level
    text: str


class EventLog:
    """The last events; its owner has the lock."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._workers: dict[str, WorkerStatus] = {}
        self._started_at: dict[str, float] = {}
        self._unseen = 0

    def add(self, level: Level, text: str) -> None:
        """Add a line."""
        self.events.append(Event(time.time(), level, text))

    def forget(self) -> None:
        """Treat what the next daemon tells as new."""
        self._workers.clear()
        self._started_at.clear()
        self._unseen = 0

    def note(self, status: Status) -> None:
        """Say what has changed since the last status."""
        self._note_workers(status)
        new, self._unseen = status.unseen - self._unseen, status.unseen
        for text in status.unseen_last[-new:] if new > 0 else ():
            self.add("bad", text)

    def _note_workers(self, status: Status) -> None:
        before, self._workers = self._workers, {worker.identity: worker for worker in status.crew}
        for identity in before.keys() - self._workers.keys():
            self._started_at.pop(identity, None)
            if not status.stopping:
                pid = before[identity].pid
                self.add(
                    "bad", f"{identity} (pid {pid}) ended; its frames are sent to another worker"
                )
        for identity, worker in self._workers.items():
            old = before.get(identity)
            is_ready = worker.state != "starting"
            if old is None and not is_ready:
                self._started_at[identity] = time.monotonic()
                self.add("info", f"{identity} (pid {worker.pid}) starts")
            elif is_ready and (old is None or old.state == "starting"):
                started_at = self._started_at.pop(identity, None)
                took = "" if started_at is None else f" after {time.monotonic() - started_at:.1f} s"
                self.add("good", f"{identity} (pid {worker.pid}) is ready{took}")
