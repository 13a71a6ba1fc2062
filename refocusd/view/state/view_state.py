"""The latest state that the link received: written by one thread, read by all requests."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from refocusd.frame import Axes, Pixels
from refocusd.transport.messages import Outcomes, Shown, Status, WorkerStatus
from refocusd.transport.outcome_log import OutcomeLog
from refocusd.view.state.figures import Figures, StatusHistory
from refocusd.view.state.previews import Preview, Previews

__all__ = ["DEFAULT_SIDE", "FocusPoint", "Link", "News", "Preview", "ViewState"]

MAX_EVENTS = 40
MAX_FOCUS_POINTS = 600
#: A page that has not asked for pixels for this long no longer wants any.
LOOKING_S = 5.0
#: Longest side of the previews, in pixels, unless somebody asks for another.
DEFAULT_SIDE = 640
#: The pipeline is behind if more frames than this wait for each worker.
QUEUED_A_WORKER = 4

Level = Literal["info", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Link:
    """State of the connection to the daemon, and the reason for it."""

    state: Literal["searching", "connected", "lost"]
    reason: str


@dataclass(frozen=True, slots=True)
class FocusPoint:
    """Focus score of one shown frame; `at` is in seconds since 1970."""

    at: float
    before: float
    after: float
    state: str
    latency_ms: float


@dataclass(frozen=True, slots=True)
class News:
    """Version numbers, which count up: a part whose number differs has changed."""

    status: int
    preview: int
    jobs: int


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the page's log; `at` is in seconds since 1970."""

    at: float
    level: Level
    text: str


class EventLog:
    """The last events; the owner holds a lock around each call."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._workers: dict[str, WorkerStatus] = {}
        self._started_at: dict[str, float] = {}
        self._unseen = 0

    def add(self, level: Level, text: str) -> None:
        """Add a line."""
        self.events.append(Event(time.time(), level, text))

    def forget(self) -> None:
        """Forget the daemon: all that the next one reports is new."""
        self._workers.clear()
        self._started_at.clear()
        self._unseen = 0

    def note(self, status: Status) -> None:
        """Log what has changed since the last status."""
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


class ViewState:
    """Shared by the link (writes) and the requests (read); every method is safe in any thread.

    Parameters
    ----------
    endpoint : str
        Address of the daemon.

    Attributes
    ----------
    boot : str
        Id of this process, because each process numbers its frames from 1.
    closed : bool
        Whether the view is ending.
    link : Link
        The connection to the daemon.
    last_status : Status or None
        The newest status, even if its daemon is gone: its datasets can still be read.
    outcomes : OutcomeLog
        The last outcomes of frames; a new log for each daemon.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.boot = secrets.token_hex(6)
        self.closed = False
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []
        #: Pages that are open.
        self.pages = 0
        self.link = Link("searching", f"looking for a daemon at {endpoint}")
        self.last_status: Status | None = None
        self.outcomes = OutcomeLog()
        self._status_number = 0
        self._jobs_number = 0
        self._history = StatusHistory()
        self._previews = Previews()
        self._log = EventLog()
        self._focus: deque[FocusPoint] = deque(maxlen=MAX_FOCUS_POINTS)
        self._looked: dict[int, float] = {}

    # -- written by the link ------------------------------------------------------------

    def set_link(self, link: Link) -> None:
        """Note that the daemon was found, or is gone."""
        with self._changing():
            if link == self.link:
                return
            if link.state == "lost" and self.link.state == "connected":
                self._log.add("bad", link.reason)
            elif link.state == "connected":
                self._log.add("good", f"connected to the daemon at {self.endpoint}")
            self.link = link
            self._status_number += 1

    def put_status(self, status: Status) -> None:
        """Take in the daemon's newest status."""
        with self._changing():
            before = self.last_status
            if before and (before.pid != status.pid or before.uptime_s > status.uptime_s):
                self._log.forget()
                self.outcomes = OutcomeLog()
            self._log.note(status)
            self.last_status = status
            self._history.add(time.monotonic(), status)
            self._status_number += 1

    def put_preview(self, shown: Shown, raw: Pixels, refocused: Pixels) -> None:
        """Take in the newest frame."""
        scores = shown.facts.focus_before, shown.facts.focus_after
        with self._changing():
            self._previews.add(shown, raw, refocused)
            self._focus.append(FocusPoint(time.time(), *scores, shown.state, shown.latency_ms))

    def put_outcomes(self, answer: Outcomes) -> None:
        """Take in outcomes of frames."""
        with self._changing():
            self.outcomes.take_in(answer)

    def note_jobs(self) -> None:
        """Note that a job has changed."""
        with self._changing():
            self._jobs_number += 1

    def note(self, level: Level, text: str) -> None:
        """Add an event to the log."""
        with self._changing():
            self._log.add(level, text)
            self._status_number += 1

    def close(self) -> None:
        """End the view: wake every page."""
        with self._changing():
            self.closed = True

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock, then wake the pages."""
        with self._lock:
            yield
            wakers = list(self._wakers)
        for wake in wakers:
            wake()

    # -- read by requests ---------------------------------------------------------------

    @property
    def status(self) -> Status | None:
        """The newest status; None while no daemon answers."""
        with self._lock:
            return self.last_status if self.link.state == "connected" else None

    @property
    def is_behind(self) -> bool:
        """Whether many frames wait for workers: then previews are asked for less often."""
        status = self.last_status
        if status is None or status.paused:
            return False
        queued = sum(detail.queued for detail in status.details)
        return queued > QUEUED_A_WORKER * max(1, status.workers)

    @property
    def figures(self) -> Figures:
        """Rates and percentiles of the last seconds."""
        with self._lock:
            return self._history.figures()

    @property
    def events(self) -> list[Event]:
        """Events for the user, oldest first."""
        with self._lock:
            return list(self._log.events)

    @property
    def focus(self) -> list[FocusPoint]:
        """Focus scores of the frames shown, oldest first."""
        with self._lock:
            return list(self._focus)

    def newest(self, match: Axes | None = None, acquisition: str = "") -> Preview | None:
        """The newest frame with these axes, of this acquisition; by default, of all."""
        with self._lock:
            return self._previews.newest(match or {}, acquisition)

    def id_of(self, preview: Preview) -> str:
        """An id for a preview that no other process gives to one of its own."""
        return f"{self.boot}-{preview.number}"

    @property
    def news(self) -> News:
        """The version numbers now."""
        with self._lock:
            return News(self._status_number, self._previews.count, self._jobs_number)

    # -- who watches --------------------------------------------------------------------

    @contextmanager
    def page(self, wake: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Count one more open page until the `with` statement ends; see `listening`."""
        with self.listening(wake):
            with self._lock:
                self.pages += 1
            try:
                yield
            finally:
                with self._lock:
                    self.pages -= 1

    @contextmanager
    def listening(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` on each change until the `with` statement ends.

        Parameters
        ----------
        wake : callable
            Called after each change, in the thread that made it; must return at once.
        """
        with self._lock:
            self._wakers.append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.remove(wake)

    def looks(self, side: int) -> None:
        """Note that somebody asked for a preview of at most `side` pixels."""
        with self._lock:
            self._looked[side] = time.monotonic()

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants pixels."""
        return bool(self.pages or self._sides())

    @property
    def wanted_side(self) -> int:
        """Longest side of the previews, in pixels: the largest that was recently asked for."""
        return max(self._sides(), default=DEFAULT_SIDE)

    def _sides(self) -> list[int]:
        now = time.monotonic()
        with self._lock:
            self._looked = {side: at for side, at in self._looked.items() if now - at < LOOKING_S}
            return list(self._looked)
