"""What the link learned last.  Requests read it, and wait here for news."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from refocusd.frame import Axes, Pixels
from refocusd.transport.messages import Shown, Status
from refocusd.view.state.figures import Figures, StatusHistory

__all__ = ["Board", "Event", "FocusPoint", "LinkState", "News", "Preview"]

#: Newest frames kept: one for each channel, slice and position, the latest seen.
MAX_PREVIEWS = 24
MAX_PREVIEW_BYTES = 96 << 20
MAX_EVENTS = 40
MAX_FOCUS_POINTS = 600
#: A page that asked for pixels so long ago is not looking any more.
LOOKING_S = 5.0
#: Longest side of the previews, in pixels, as long as nobody asks for another.
DEFAULT_SIDE = 640

#: Frames waiting for each worker beyond which the pipeline is behind.
QUEUED_A_WORKER = 4

LinkState = Literal["searching", "connected", "lost"]


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """The newest frame of its kind, reduced.

    Parameters
    ----------
    number : int
        Counts up from 1 in this process.
    shown : Shown
        What the daemon says of it.
    raw, refocused : ndarray, shape (ceil(height / step), ceil(width / step))
        Every `step`-th pixel, in counts.
    axes, metadata : mapping
    """

    number: int
    shown: Shown
    raw: Pixels
    refocused: Pixels
    axes: Axes
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a person should see; `at` is in seconds since 1970."""

    at: float
    level: Literal["info", "good", "bad"]
    text: str


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
    """What has changed: numbers that count up."""

    status: int
    preview: int


class Board:
    """Shared by the link (writes) and the requests (read); every method is safe in any thread."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        #: Names this process: what it numbers starts anew with the next one.
        self.boot = secrets.token_hex(6)
        self._changed = threading.Condition()
        self._closed = False
        self._link: LinkState = "searching"
        self._reason = f"looking for a daemon at {endpoint}"
        self._status: Status | None = None
        self._status_number = 0
        self._history = StatusHistory()
        self._previews: OrderedDict[str, Preview] = OrderedDict()
        self._newest = 0
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._focus: deque[FocusPoint] = deque(maxlen=MAX_FOCUS_POINTS)
        self._pages = 0
        self._looked: dict[int, float] = {}
        self._worker_began: dict[str, float] = {}

    # -- written by the link ------------------------------------------------------------

    def set_link(self, state: LinkState, reason: str = "") -> None:
        """The daemon was found, or is gone."""
        with self._changed:
            if state == self._link and reason == self._reason:
                return
            if state == "lost" and self._link == "connected":
                self._note("bad", reason)
            elif state == "connected":
                self._note("good", f"connected to the daemon at {self.endpoint}")
            self._link, self._reason = state, reason
            if state != "connected":
                self._worker_began.clear()
            self._status_number += 1
            self._changed.notify_all()

    def put_status(self, status: Status) -> None:
        """The daemon said how it is."""
        with self._changed:
            previous = self._status
            if previous is not None and previous.pid != status.pid:
                previous = None
                self._worker_began.clear()
            self._note_workers(previous, status)
            self._status = status
            self._history.add(time.monotonic(), status)
            self._status_number += 1
            self._changed.notify_all()

    def put_preview(self, shown: Shown, raw: Pixels, refocused: Pixels) -> None:
        """The daemon showed its newest frame."""
        axes, metadata = _object(shown.axes), _object(shown.metadata)
        kind = json.dumps(
            [shown.acquisition, sorted((k, str(v)) for k, v in axes.items() if k != "time")]
        )
        with self._changed:
            self._newest += 1
            self._previews[kind] = Preview(self._newest, shown, raw, refocused, axes, metadata)
            self._previews.move_to_end(kind)
            while len(self._previews) > MAX_PREVIEWS or (
                len(self._previews) > 1
                and sum(2 * p.raw.nbytes for p in self._previews.values()) > MAX_PREVIEW_BYTES
            ):
                self._previews.popitem(last=False)
            facts = shown.facts
            self._focus.append(
                FocusPoint(
                    time.time(),
                    facts.focus_before,
                    facts.focus_after,
                    shown.state,
                    shown.latency_ms,
                )
            )
            self._changed.notify_all()

    def note(self, level: Literal["info", "good", "bad"], text: str) -> None:
        """Add a line to what a person should see."""
        with self._changed:
            self._note(level, text)
            self._status_number += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Wake everyone who waits: the view ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # -- read by requests ---------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the view ends."""
        return self._closed

    @property
    def link(self) -> tuple[LinkState, str]:
        """State of the connection to the daemon, and why."""
        with self._changed:
            return self._link, self._reason

    @property
    def status(self) -> Status | None:
        """The newest status; None while no daemon answers."""
        with self._changed:
            return self._status if self._link == "connected" else None

    @property
    def is_behind(self) -> bool:
        """Whether frames wait for workers: then previews are asked for seldom."""
        with self._changed:
            status = self._status
        if status is None or status.paused:
            return False
        queued = sum(detail.queued for detail in status.details)
        return queued > QUEUED_A_WORKER * max(1, status.workers)

    @property
    def last_status(self) -> Status | None:
        """The newest status, though its daemon may be gone: its datasets can still be read."""
        with self._changed:
            return self._status

    def figures(self) -> Figures:
        """Rates and percentiles of the last seconds."""
        with self._changed:
            return self._history.figures()

    def events(self) -> list[Event]:
        """What a person should see, oldest first."""
        with self._changed:
            return list(self._events)

    def focus(self) -> list[FocusPoint]:
        """Focus scores of the frames shown, oldest first."""
        with self._changed:
            return list(self._focus)

    def newest(self, match: Axes | None = None, acquisition: str = "") -> Preview | None:
        """The newest frame, of those with these axes if any are given."""
        wanted = (match or {}).items()
        with self._changed:
            return next(
                (
                    preview
                    for preview in reversed(self._previews.values())
                    if (not acquisition or preview.shown.acquisition == acquisition)
                    and all(preview.axes.get(name) == value for name, value in wanted)
                ),
                None,
            )

    def news(self) -> News:
        """What there is now."""
        with self._changed:
            return News(self._status_number, self._newest)

    def wait(self, known: News, timeout_s: float) -> News:
        """Wait until something is newer than `known`, at most `timeout_s` seconds."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or News(self._status_number, self._newest) != known, timeout_s
            )
            return News(self._status_number, self._newest)

    # -- who looks ----------------------------------------------------------------------

    @contextmanager
    def page(self) -> Iterator[None]:
        """Somebody looks, as long as this is open."""
        with self._changed:
            self._pages += 1
        try:
            yield
        finally:
            with self._changed:
                self._pages -= 1

    def looks(self, side: int) -> None:
        """Somebody asked for a preview of at most `side` pixels."""
        with self._changed:
            self._looked[side] = time.monotonic()

    @property
    def pages(self) -> int:
        """Pages that are open."""
        return self._pages

    @property
    def is_watched(self) -> bool:
        """Whether pixels are wanted at all."""
        with self._changed:
            return self._pages > 0 or bool(self._sides())

    @property
    def wanted_side(self) -> int:
        """Longest side of the previews, in pixels: the largest that was asked for lately."""
        with self._changed:
            return max(self._sides(), default=DEFAULT_SIDE)

    def _sides(self) -> list[int]:
        now = time.monotonic()
        self._looked = {side: at for side, at in self._looked.items() if now - at < LOOKING_S}
        return list(self._looked)

    # -- workers ------------------------------------------------------------------------

    def _note(self, level: Literal["info", "good", "bad"], text: str) -> None:
        self._events.append(Event(time.time(), level, text))

    def _note_workers(self, previous: Status | None, status: Status) -> None:
        """Say which workers ended, started and became ready since the last status."""
        before = {worker.identity: worker for worker in previous.crew} if previous else {}
        now = {worker.identity: worker for worker in status.crew}
        for identity in before.keys() - now.keys():
            self._worker_began.pop(identity, None)
            if not status.stopping:
                pid = before[identity].pid
                self._note(
                    "bad", f"{identity} (pid {pid}) ended; its frames are sent to another worker"
                )
        for identity, worker in now.items():
            old = before.get(identity)
            if old is None:
                self._worker_began[identity] = time.monotonic()
            was_ready = old is not None and old.state != "starting"
            if worker.state != "starting" and not was_ready:
                took = time.monotonic() - self._worker_began.get(identity, time.monotonic())
                after = f" after {took:.1f} s" if old is not None else ""
                self._note("good", f"{identity} (pid {worker.pid}) is ready{after}")
            elif old is None:
                self._note("info", f"{identity} (pid {worker.pid}) starts")
        for name in self._worker_began.keys() - now.keys():
            del self._worker_began[name]


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
