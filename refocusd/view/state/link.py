"""The connection to the daemon, in one thread: asks for its state, outcomes and newest frame."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from refocusd import __version__
from refocusd.errors import TransportError
from refocusd.frame import Pixels
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.view.state.view_state import Link, ViewState

log = logging.getLogger(__name__)

#: Previews per second: nobody sees more, and each costs the daemon a copy.
MAX_FPS = 30.0
#: Previews per second while frames wait for workers: frames come first.
BEHIND_FPS = 8.0
#: Pixels of previews, bytes per second: larger previews come less often.
MAX_BYTES_PER_S = 24e6
#: Time between two requests for the daemon's state, with and without pages.
STATUS_S, IDLE_STATUS_S = 0.25, 1.0
#: A daemon that does not answer for this long counts as gone.
ANSWER_S = 1.5
#: A `Look` without an answer is repeated after this time: it, or the frame, may have been lost.
REPEAT_LOOK_S = 5.0
#: Time from an answer about outcomes to the next request.
FOLLOW_S = 0.05
#: Time between two attempts to find a daemon.
RETRY_S = 0.5


class DaemonLink:
    """Keeps a `ViewState` up to date for as long as its `with` statement lasts.

    Parameters
    ----------
    state : ViewState
        Names the daemon's endpoint, and receives what it sends.
    on_status, on_outcomes : callable, optional
        Also called with every status, and with all outcomes; must not wait.
    """

    def __init__(
        self,
        state: ViewState,
        on_status: Callable[[wire.Status], None] = lambda _status: None,
        on_outcomes: Callable[[list[wire.FrameOutcome]], None] = lambda _outcomes: None,
    ) -> None:
        self._state = state
        self._on_status = on_status
        self._on_outcomes = on_outcomes
        self._actions: queue.Queue[wire.Pause | wire.CatchUp] = queue.Queue(maxsize=16)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="daemon-link", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def request(self, action: wire.Pause | wire.CatchUp) -> bool:
        """Send an action to the daemon; False if it cannot be reached now or too many wait."""
        if self._state.link.state != "connected":
            return False
        try:
            self._actions.put_nowait(action)
        except queue.Full:
            return False
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with Connection(
                    self._state.endpoint, "view", inline=True, version=__version__
                ) as connection:
                    connection.welcome(ANSWER_S)
                    self._state.set_link(Link("connected", ""))
                    tell = self._on_status, self._on_outcomes
                    _Conversation(connection, self._state, self._actions, self._stop, *tell).hold()
            except TransportError as error:
                searching = self._state.link.state == "searching"
                self._state.set_link(Link("searching" if searching else "lost", str(error)))
            except Exception:
                log.exception("the view's link failed; it reconnects")
                self._state.set_link(Link("lost", "internal error of the view, see its log"))
            self._stop.wait(RETRY_S)


@dataclass
class _Conversation:
    """Requests and answers over one connection."""

    _connection: Connection
    _state: ViewState
    _actions: queue.Queue[wire.Pause | wire.CatchUp]
    _stop: threading.Event
    _on_status: Callable[[wire.Status], None]
    _on_outcomes: Callable[[list[wire.FrameOutcome]], None]
    _status_asked: float = 0.0
    _status_due: float = 0.0
    _look_asked: float = 0.0
    _look_due: float = 0.0
    _serial: int = 0
    _answered: int = 0
    #: When outcomes are asked for again; infinite while an answer is awaited.
    _follow_due: float = 0.0

    def hold(self) -> None:
        """Send requests and receive answers until `stop` is set.

        Raises
        ------
        TransportError
            When the daemon no longer answers.
        """
        while not self._stop.is_set():
            now = time.monotonic()
            self._send_actions()
            if self._status_asked and now - self._status_asked > ANSWER_S:
                raise TransportError(
                    f"the daemon at {self._state.endpoint} does not answer; if it has ended, start "
                    "it with `refocusd run`"
                )
            if not self._status_asked and now >= self._status_due:
                self._connection.send(wire.StatusRequest(self._answered))
                self._status_asked = now
            if self._answered and now >= self._follow_due:
                # Only after the first status, which shows whether this is still the same daemon.
                self._connection.send(wire.Follow(self._state.outcomes.serial))
                self._follow_due = math.inf
            wants_look = not self._look_asked or now - self._look_asked > REPEAT_LOOK_S
            if wants_look and now >= self._look_due and self._state.is_watched:
                self._connection.send(wire.Look(self._serial, self._state.wanted_side))
                self._look_asked = now
            received = self._connection.receive_parts(self._patience(now))
            if received is not None:
                self._on_message(*received)

    def _patience(self, now: float) -> float:
        """Seconds to wait for a message until the next request is due."""
        due = [0.25, self._follow_due - now if self._answered else 0.25]
        if not self._status_asked:
            due.append(self._status_due - now)
        if not self._look_asked and self._state.is_watched:
            due.append(self._look_due - now)
        return max(0.001, min(due))

    def _send_actions(self) -> None:
        while True:
            try:
                self._connection.send(self._actions.get_nowait())
            except queue.Empty:
                return
            self._status_due = 0.0  # so that the page soon shows the effect

    def _on_message(self, message: wire.Message, part: memoryview | None) -> None:
        now = time.monotonic()
        if isinstance(message, wire.Status):
            self._status_asked = 0.0
            self._answered += 1
            self._status_due = now + (STATUS_S if self._state.is_watched else IDLE_STATUS_S)
            self._state.put_status(message)
            self._on_status(message)
        elif isinstance(message, wire.Outcomes):
            self._follow_due = now + FOLLOW_S
            self._state.put_outcomes(message)
            self._on_outcomes(message.outcomes)
        elif isinstance(message, wire.Shown):
            nbytes = part.nbytes if part is not None else 0
            asked = self._look_asked or now
            self._look_asked = 0.0
            fps = BEHIND_FPS if self._state.is_behind else MAX_FPS
            self._look_due = asked + max(1 / fps, nbytes / MAX_BYTES_PER_S)
            self._serial = message.serial
            halves = _halves(message, part)
            if halves is None:
                log.warning("a preview of %s came without its pixels", message.axes)
            else:
                self._state.put_preview(message, *halves)
        elif isinstance(message, wire.Refused):
            if "Hello" in message.reason:
                # A restarted daemon does not know this connection.
                raise TransportError(f"the daemon at {self._state.endpoint} was restarted")
            self._look_asked = self._status_asked = 0.0
            self._look_due = self._status_due = self._follow_due = now + 1.0
            self._state.note("bad", f"the daemon refused: {message.reason}")


def _halves(shown: wire.Shown, part: memoryview | None) -> tuple[Pixels, Pixels] | None:
    """Raw and refocused pixels; None if their size is not that of the header."""
    if part is None or shown.step < 1 or min(shown.height, shown.width) < 1:
        return None
    shape = (2, -(-shown.height // shown.step), -(-shown.width // shown.step))
    dtype = np.dtype(shown.dtype)
    if part.nbytes != shape[0] * shape[1] * shape[2] * dtype.itemsize:
        return None
    # A copy, because the message's buffer is not kept.
    both = np.frombuffer(part, dtype).reshape(shape).copy()
    return both[0], both[1]
