"""Uploads an acquisition to a daemon: a state machine that every source drives.

::

    idle ─▶ connecting ─▶ ready ─▶ opening ─▶ open ─▶ closing ─▶ closed
                │ ▲         │         │         │         │
                │ └─ lost ◀─┴─────────┴─────────┴─────────┘
                └─▶ refused ◀── (from any state with a connection)

`TRANSITIONS` is the whole machine; `after` looks a transition up.  A `Session` runs it over a
`Connection`: it says Hello, counts credit, notices if the daemon is silent, stops or says "try
again" (``lost``), and reconnects after a back-off.  The source decides what is announced, and
which frames are submitted.

A session starts no thread and belongs to the thread that uses it.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal, Self

import numpy as np

from refocusd.backoff import BackOff
from refocusd.errors import InputError, TransportError
from refocusd.frame import Pixels, checksum
from refocusd.transport.client import MAX_METADATA_CHARS, SILENCE_S, Connection
from refocusd.transport.messages import (
    Advice,
    Behind,
    Close,
    Closed,
    Credit,
    GiveBack,
    Message,
    Miss,
    Open,
    Opened,
    Outcome,
    Recall,
    Refused,
    SavedFrame,
    Submit,
    Welcome,
)
from refocusd.transport.ring import Slot

#: Largest number of axes in one message.
MAX_MISSED = 1000
#: Interval of the messages about frames that are left to the raw dataset.
TELL_BEHIND_S = 1.0
#: Shortest and longest wait before reconnecting to a lost daemon.
RETRY_S, LONGEST_RETRY_S = 0.25, 2.0
#: Time for queued messages to be sent to a daemon that is still there.
LINGER_S = 1.0
#: How often `Session.until` checks whether it was asked to stop.
LOOK_S = 0.1


class State(Enum):
    """State of a session."""

    #: Not connected yet.
    IDLE = "idle"
    #: Hello is sent, no daemon has answered.
    CONNECTING = "connecting"
    #: A daemon has answered; nothing is announced.
    READY = "ready"
    #: The acquisition is announced.
    OPENING = "opening"
    #: The acquisition is accepted; frames can be submitted while there is credit.
    OPEN = "open"
    #: No more frames follow; the daemon finishes those that it has.
    CLOSING = "closing"
    #: Every frame has a final state.
    CLOSED = "closed"
    #: The daemon does not accept this source or its acquisition.
    REFUSED = "refused"
    #: The daemon is gone, or asks to try again.
    LOST = "lost"


#: Our own steps, followed by those of the daemon.
Event = Literal["connect", "announce", "close", "welcome", "opened", "closed", "refused", "lost"]

_FAILS: Mapping[Event, State] = {"refused": State.REFUSED, "lost": State.LOST}
#: An event that is not listed for a state changes nothing: the message was late, or a repetition.
TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.IDLE: {"connect": State.CONNECTING},
    State.CONNECTING: {"welcome": State.READY, **_FAILS},
    State.READY: {"announce": State.OPENING, **_FAILS},
    # Only a daemon that stops closes an acquisition without being asked.
    State.OPENING: {"opened": State.OPEN, "closed": State.LOST, **_FAILS},
    State.OPEN: {"close": State.CLOSING, "closed": State.LOST, **_FAILS},
    # A dataset may grow again during or after closing; it is then announced again.
    State.CLOSING: {"closed": State.CLOSED, "announce": State.OPENING, **_FAILS},
    State.CLOSED: {"announce": State.OPENING},
    State.REFUSED: {},
    State.LOST: {"connect": State.CONNECTING},
}


def after(state: State, event: Event) -> State:
    """The state that follows.

    >>> after(State.OPEN, "close")
    <State.CLOSING: 'closing'>
    """
    return TRANSITIONS[state].get(event, state)


class Session:
    """Uploads one acquisition, frame by frame; a context manager that closes the connection at its end.

    Parameters
    ----------
    endpoint : str
        The daemon's address.
    token : str
        Proof that the daemon started this source.
    version : str
        Version of this side; the daemon names it if it must refuse this source.
    on_state : callable, optional
        Called with each state that is entered; `unanswered` still counts the frames of a lost daemon.
    on_outcome : callable, optional
        Called with the final state of each frame, if the announcement asks for reports.
    on_advice : callable, optional
        Called with the stage's distance from focus, if the announcement asks for it.
    connect : callable, optional
        Makes the connection; by default one to `endpoint`.

    Attributes
    ----------
    state : State
    reason : str
        Why the session is not open: no daemon has answered yet, or the daemon's message.
    welcome : Welcome or None
        The daemon's answer to Hello.
    opened : Opened or None
        Set while the acquisition is open at the daemon.
    closed : Closed or None
        Set once every frame has a final state.
    in_flight : dict of str to float
        Axes of the frames without an outcome, and when they were submitted; empty if no
        reports were requested.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        token: str = "",
        version: str = "",
        on_state: Callable[[State], None] | None = None,
        on_outcome: Callable[[Outcome], None] | None = None,
        on_advice: Callable[[Advice], None] | None = None,
        connect: Callable[[], Connection] | None = None,
    ) -> None:
        self.state = State.IDLE
        self.reason = ""
        self.welcome: Welcome | None = None
        self.opened: Opened | None = None
        self.closed: Closed | None = None
        self.in_flight: dict[str, float] = {}
        self._endpoint = endpoint
        self._on_state = on_state
        self._on_outcome = on_outcome
        self._on_advice = on_advice
        self._connect = connect or (
            lambda: Connection(endpoint, "source", token=token, version=version)
        )
        self._connection: Connection | None = None
        self._back_off = BackOff(RETRY_S, LONGEST_RETRY_S)
        self._connect_at = 0.0
        self._open: Open | None = None
        self._slots: deque[Slot] = deque()
        self._behind = 0
        self._told_behind_at = 0.0

    # -- its state ----------------------------------------------------------------------

    @property
    def acquisition(self) -> str:
        """Id of the acquisition that was announced last; empty if there is none."""
        return self._open.acquisition if self._open else ""

    @property
    def credit(self) -> int:
        """Number of frames that can be submitted now."""
        return len(self._slots)

    @property
    def reads_raw(self) -> bool:
        """Whether the daemon itself reads frames that are on disk, so that `submit_saved` can be used."""
        near = self._connection is not None and self._connection.ring is not None
        return near and self.opened is not None and self.opened.reads_raw

    @property
    def over(self) -> bool:
        """Whether the session has ended: it is closed or refused."""
        return self.state in (State.CLOSED, State.REFUSED)

    @property
    def refused(self) -> str:
        """Why the daemon does not accept the acquisition; empty if it does."""
        return self.reason if self.state is State.REFUSED else ""

    def has_room(self, most: int) -> bool:
        """Whether a frame can be submitted now, with at most `most` frames without an outcome."""
        return self.state is State.OPEN and bool(self._slots) and len(self.in_flight) < most

    def unanswered(self, within_s: float = math.inf) -> int:
        """Number of frames without a final state, submitted within this time; older ones are forgotten."""
        if within_s < math.inf:
            since = time.monotonic() - within_s
            self.in_flight = {axes: at for axes, at in self.in_flight.items() if at > since}
        return len(self.in_flight)

    # -- the conversation ---------------------------------------------------------------

    def pump(self, timeout_s: float = 0.0) -> bool:
        """Process the daemon's messages, and wait up to `timeout_s` for them; False if none arrived.

        It connects if there is no connection and the back-off is over.

        Raises
        ------
        TransportError
            If the endpoint is not an address, or the keys cannot be used.
        """
        connection = self._connection or self._connect_again(timeout_s)
        if connection is None:
            return False
        heard = False
        try:
            while message := connection.receive(0.0 if heard else timeout_s):
                heard = True
                self._take(connection, message)
                if self._connection is None:
                    return True
        except TransportError as error:
            self._lose(str(error))
            return heard
        if connection.silent_s > SILENCE_S and not self.over:
            connecting = self.state is State.CONNECTING
            away = f"the daemon at {self._endpoint} went away"
            self._lose(connection.nobody if connecting else away)
        return heard

    def until(self, done: Callable[[], object], stopped: Callable[[], bool] | None = None) -> None:
        """Call `pump` until `done` returns true; for sources that cannot continue without the daemon.

        Raises
        ------
        InputError
            If the daemon refuses the acquisition.
        TransportError
            If there is no daemon, it disappears, or `stopped` returns true.
        """
        timeout_s = 0.0
        while True:
            self.pump(timeout_s)
            timeout_s = LOOK_S
            if self.state is State.REFUSED:
                raise InputError(self.reason)
            if self.state is State.LOST:
                raise TransportError(self.reason)
            if stopped is not None and stopped():
                raise TransportError("stopped before the daemon was done")
            if done():
                return

    def announce(self, open_: Open) -> None:
        """Announce the acquisition, in the states ``ready``, ``closing`` and ``closed``."""
        self._open = open_
        self.opened = self.closed = None
        self._slots.clear()
        self._insist(open_)
        self._move("announce")

    def submit(
        self,
        pixels: Pixels,
        axes: str,
        metadata: Mapping[str, Any] | str,
        taken_ns: int,
        *,
        live: bool = True,
    ) -> bool:
        """Copy one frame into a slot and submit it; False without credit.

        Parameters
        ----------
        pixels : ndarray
            The frame, of the shape and type that were announced.
        axes : str
            Canonical axes.
        metadata : mapping or str
            Metadata of the frame; a string must be JSON.
        taken_ns : int
            `time.perf_counter_ns` when the frame was handed over.
        live : bool
            Whether it comes from the microscope now.

        Raises
        ------
        InputError
            If the frame is of another shape or type than was announced, or its metadata are too large.
        """
        open_ = self._open
        if open_ is None or self._connection is None:
            return False
        text = metadata if isinstance(metadata, str) else json.dumps(dict(metadata), default=_plain)
        _check(open_, pixels, axes, text)
        if not self._slots:
            return False
        slot = self._slots[0]
        ring = self._connection.ring
        inline: Pixels | None = pixels
        if ring is not None:
            np.copyto(ring.view(slot.offset, pixels.shape, open_.dtype), pixels)
            inline = None
        message = Submit(
            acquisition=open_.acquisition,
            axes=axes,
            slot=slot,
            checksum=checksum(pixels),
            metadata=text,
            taken_ns=taken_ns,
            live=live,
        )
        return self._send_frame(message, inline)

    def submit_saved(self, saved: SavedFrame, axes: str, taken_ns: int) -> bool:
        """Submit a frame by its place in the raw dataset, if `reads_raw`; False without credit.

        Parameters
        ----------
        saved : SavedFrame
            Its place; it must have the shape and type that were announced.
        axes, taken_ns
            As in `submit`.
        """
        if not self._slots:
            return False
        message = Submit(self.acquisition, axes, self._slots[0], 0, "", taken_ns, saved=saved)
        return self._send_frame(message, None)

    def _send_frame(self, message: Submit, inline: Pixels | None) -> bool:
        # The slot is used up only if the frame could be sent.
        if self._connection is None or not self._connection.send(message, inline):
            return False
        self._slots.popleft()
        if self._open is not None and self._open.report:
            self.in_flight[message.axes] = time.monotonic()
        return True

    def miss(self, axes: list[str], state: Literal["skipped", "failed"], reason: str) -> None:
        """Report frames that will not be submitted, with the reason."""
        for first in range(0, len(axes), MAX_MISSED):
            some = axes[first : first + MAX_MISSED]
            self._insist(Miss(self.acquisition, some, state, reason))

    def leave(self, frames: int, acquired: int) -> None:
        """Leave `frames` more frames to the raw dataset; this is reported at most once a second.

        Idle workers may catch them up during the acquisition.
        """
        self._behind += frames
        now = time.monotonic()
        if self._behind and self._connection and now - self._told_behind_at > TELL_BEHIND_S:
            self._told_behind_at = now
            if self._connection.send(Behind(self.acquisition, self._behind, max(1, acquired))):
                self._behind = 0

    def close(self, acquired: int) -> None:
        """Report that no more frames follow; at least `acquired` frames were taken."""
        self._insist(Close(self.acquisition, acquired))
        self._move("close")

    def hang_up(self) -> None:
        """Close the connection, after queued messages were sent if the daemon is still there."""
        if self._connection is not None:
            there = self.state not in (State.CONNECTING, State.LOST)
            self._connection.close(LINGER_S if there else 0.0)
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    # -- the machine --------------------------------------------------------------------

    def _connect_again(self, timeout_s: float) -> Connection | None:
        wait_s = self._connect_at - time.monotonic()
        if self.over or wait_s > 0:
            time.sleep(max(0.0, min(wait_s, timeout_s)))
            return None
        self._connection = connection = self._connect()
        self.reason = connection.nobody
        self._move("connect")
        if connection.greeting is not None:
            self._greet(connection.greeting)
        return connection

    def _greet(self, welcome: Welcome) -> None:
        self.welcome = welcome
        self._move("welcome")

    def _take(self, connection: Connection, message: Message) -> None:
        """Process one message."""
        if isinstance(message, Credit):
            self._slots.extend(message.slots)
        elif isinstance(message, Recall):
            self._give_back(message)
        elif isinstance(message, Outcome):
            self.in_flight.pop(message.axes, None)
            if self._on_outcome is not None:
                self._on_outcome(message)
        elif isinstance(message, Advice):
            if self._on_advice is not None:
                self._on_advice(message)
        elif isinstance(message, Welcome):
            self._greet(connection.accept(message))
        elif isinstance(message, Opened):
            self.opened = message
            self._back_off.reset()
            self._move("opened")
        elif isinstance(message, Closed):
            if after(self.state, "closed") is State.LOST:
                self._lose(f"the daemon at {self._endpoint} was stopped")
            else:
                self.closed = message
                self._move("closed")
        elif isinstance(message, Refused) and message.acquisition in ("", self.acquisition):
            if message.again:
                self._lose(message.reason)
            else:
                self.reason = message.reason
                self._move("refused")

    def _give_back(self, recall: Recall) -> None:
        """Return those of the recalled slots that are not filled."""
        wanted = set(recall.slots)
        unused = [slot for slot in self._slots if slot in wanted]
        if recall.acquisition != self.acquisition or not unused or self._connection is None:
            return
        # If this cannot be sent, they are kept; the daemon withdraws them, and refuses frames in them.
        if self._connection.send(GiveBack(recall.acquisition, unused)):
            self._slots = deque(slot for slot in self._slots if slot not in wanted)

    def _lose(self, reason: str) -> None:
        if after(self.state, "lost") is not State.LOST:
            return
        self.reason = reason
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._slots.clear()
        self._connect_at = time.monotonic() + self._back_off.take_s()
        self._move("lost")
        self.opened = None
        self.in_flight.clear()

    def _move(self, event: Event) -> None:
        state = after(self.state, event)
        if state is not self.state:
            self.state = state
            if self._on_state is not None:
                self._on_state(state)

    def _insist(self, message: Message) -> None:
        """Send a message that needs no credit; if the queue is full, wait for the daemon."""
        while self._connection is not None and not self._connection.send(message):
            self.pump(0.05)


def _check(open_: Open, pixels: Pixels, axes: str, metadata: str) -> None:
    """Refuse a frame whose shape or type differs from the acquisition's, or that has too much metadata."""
    if pixels.shape != (open_.height, open_.width) or pixels.dtype.name != open_.dtype:
        raise InputError(
            f"frame {axes} is {pixels.shape[1]}×{pixels.shape[0]} {pixels.dtype}, but its "
            f"acquisition began with {open_.width}×{open_.height} {open_.dtype}: keep the "
            "camera's ROI, binning and bit depth within one acquisition"
        )
    if len(metadata) > MAX_METADATA_CHARS:
        raise InputError(f"the metadata of frame {axes} are larger than 1 MiB")


def _plain(value: Any) -> Any:
    """A value that JSON does not support: numpy's numbers as plain ones, anything else as text."""
    return value.item() if isinstance(value, np.generic) else str(value)
