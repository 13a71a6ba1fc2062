"""One acquisition on its way to a daemon, as a state machine that every source drives.

::

    idle ─▶ connecting ─▶ ready ─▶ opening ─▶ open ─▶ closing ─▶ closed
                │ ▲         │         │         │         │
                │ └─ lost ◀─┴─────────┴─────────┴─────────┘
                └─▶ refused ◀── (from any state with a connection)

`TRANSITIONS` is the whole machine; `after` reads it.  A `Session` performs it over a
`Connection`: it says Hello, counts credit, notices a daemon that is silent, stops or says "try
again" (``lost``), and connects again after a back-off.  What is announced, and which frames are
submitted, is up to the source.

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

#: Axes named in one message.
MAX_MISSED = 1000
#: How often the daemon is told of frames that are left to the raw dataset.
TELL_BEHIND_S = 1.0
#: Before a lost daemon is looked for again: the shortest and the longest wait.
RETRY_S, LONGEST_RETRY_S = 0.25, 2.0
#: How long what was queued for a daemon that is there may take to leave.
LINGER_S = 1.0
#: How often `Session.until` looks whether it was asked to stop.
LOOK_S = 0.1


class State(Enum):
    """Where a session stands."""

    #: Not connected yet.
    IDLE = "idle"
    #: Hello is sent, no daemon has answered.
    CONNECTING = "connecting"
    #: A daemon listens; nothing is announced.
    READY = "ready"
    #: The acquisition is announced.
    OPENING = "opening"
    #: It has a place; frames can be submitted as far as there is credit.
    OPEN = "open"
    #: No more frames will come; the daemon finishes what it has.
    CLOSING = "closing"
    #: Every frame has a final state.
    CLOSED = "closed"
    #: The daemon does not take this source, or its acquisition.
    REFUSED = "refused"
    #: The daemon went away, or asks to try again.
    LOST = "lost"


#: Our own steps, then what the daemon says or fails to say.
Event = Literal["connect", "announce", "close", "welcome", "opened", "closed", "refused", "lost"]

_FAILS: Mapping[Event, State] = {"refused": State.REFUSED, "lost": State.LOST}
#: An event that a state does not name changes nothing: a message that came late, or twice.
TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.IDLE: {"connect": State.CONNECTING},
    State.CONNECTING: {"welcome": State.READY, **_FAILS},
    State.READY: {"announce": State.OPENING, **_FAILS},
    # Only a daemon that stops closes an acquisition unasked.
    State.OPENING: {"opened": State.OPEN, "closed": State.LOST, **_FAILS},
    State.OPEN: {"close": State.CLOSING, "closed": State.LOST, **_FAILS},
    # A dataset may grow again while it is being closed, or after that: it is announced again.
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
    """Uploads one acquisition, frame by frame; a context manager that hangs up at its end.

    Parameters
    ----------
    endpoint : str
        The daemon's address.
    token : str
        Proof that the daemon started this source.
    version : str
        Of this side, named in the daemon's refusal if it cannot be served.
    on_state : callable, optional
        Told every state that is entered; `unanswered` still counts what a lost daemon had.
    on_outcome : callable, optional
        Told every frame's final state, if the announcement asks for reports.
    on_advice : callable, optional
        Told how far the stage is from focus, if the announcement asks for it.
    connect : callable, optional
        Makes the connection; by default one to `endpoint`.

    Attributes
    ----------
    state : State
    reason : str
        Why the session is not open: nobody has answered yet, or what the daemon said.
    welcome : Welcome or None
        What the daemon answered to Hello.
    opened : Opened or None
        Set while the daemon has a place for the acquisition.
    closed : Closed or None
        Set once every frame has a final state.
    in_flight : dict of str to float
        Axes of the frames without an outcome, and when they were submitted; empty where no
        reports were asked for.
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

    # -- where it stands ----------------------------------------------------------------

    @property
    def acquisition(self) -> str:
        """Id of the acquisition that was announced last; empty for none."""
        return self._open.acquisition if self._open else ""

    @property
    def credit(self) -> int:
        """Frames that can be submitted now."""
        return len(self._slots)

    @property
    def reads_raw(self) -> bool:
        """Whether the daemon reads frames that are on disk itself: `submit_saved`."""
        near = self._connection is not None and self._connection.ring is not None
        return near and self.opened is not None and self.opened.reads_raw

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself: closed, or refused."""
        return self.state in (State.CLOSED, State.REFUSED)

    @property
    def refused(self) -> str:
        """Why the daemon does not take the acquisition; empty if it does."""
        return self.reason if self.state is State.REFUSED else ""

    def has_room(self, most: int) -> bool:
        """Whether a frame can be submitted that makes `most` without an outcome at the most."""
        return self.state is State.OPEN and bool(self._slots) and len(self.in_flight) < most

    def unanswered(self, within_s: float = math.inf) -> int:
        """Frames submitted within the last seconds that have no final state; older ones are forgotten."""
        if within_s < math.inf:
            since = time.monotonic() - within_s
            self.in_flight = {axes: at for axes, at in self.in_flight.items() if at > since}
        return len(self.in_flight)

    # -- the conversation ---------------------------------------------------------------

    def pump(self, timeout_s: float = 0.0) -> bool:
        """Take in what the daemon says, waiting up to `timeout_s` for it; False if nothing came.

        Connects if there is no connection, once the back-off is over.

        Raises
        ------
        TransportError
            If the endpoint is no address.
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
        """Pump until `done`; for sources that cannot go on when the daemon goes away.

        Raises
        ------
        InputError
            If the daemon refuses the acquisition.
        TransportError
            If there is no daemon, it goes away, or `stopped` says so.
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
        """Copy one frame into a slot and say so; False without credit.

        Parameters
        ----------
        pixels : ndarray
            Of the shape and type that were announced.
        axes : str
            Canonical axes.
        metadata : mapping or str
            Of the frame; a text is JSON already.
        taken_ns : int
            `time.perf_counter_ns` when the frame was handed over.
        live : bool
            Whether it comes from the microscope now.

        Raises
        ------
        InputError
            If the frame is of another shape or type than was announced.
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
        """Name a frame of the raw dataset, where `reads_raw`; False without credit.

        Parameters
        ----------
        saved : SavedFrame
            Where it lies; of the shape and type that were announced.
        axes, taken_ns
            As in `submit`.
        """
        if not self._slots:
            return False
        message = Submit(self.acquisition, axes, self._slots[0], 0, "", taken_ns, saved=saved)
        return self._send_frame(message, None)

    def _send_frame(self, message: Submit, inline: Pixels | None) -> bool:
        # The slot is spent once the frame has left, and not by one that cannot be sent.
        if self._connection is None or not self._connection.send(message, inline):
            return False
        self._slots.popleft()
        if self._open is not None and self._open.report:
            self.in_flight[message.axes] = time.monotonic()
        return True

    def miss(self, axes: list[str], state: Literal["skipped", "failed"], reason: str) -> None:
        """Name frames that will not be submitted, and why."""
        for first in range(0, len(axes), MAX_MISSED):
            some = axes[first : first + MAX_MISSED]
            self._insist(Miss(self.acquisition, some, state, reason))

    def leave(self, frames: int, acquired: int) -> None:
        """So many more frames of `acquired` are left to the raw dataset; told once a second at most.

        Idle workers may catch them up while the acquisition goes on.
        """
        self._behind += frames
        now = time.monotonic()
        if self._behind and self._connection and now - self._told_behind_at > TELL_BEHIND_S:
            self._told_behind_at = now
            if self._connection.send(Behind(self.acquisition, self._behind, max(1, acquired))):
                self._behind = 0

    def close(self, acquired: int) -> None:
        """Say that no more frames will come; at least `acquired` went by."""
        self._insist(Close(self.acquisition, acquired))
        self._move("close")

    def hang_up(self) -> None:
        """Close the connection; a daemon that is there gets what was queued for it."""
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
        """Act upon one message."""
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
        """Return the slots that the daemon needs elsewhere, as far as they are not filled."""
        wanted = set(recall.slots)
        unused = [slot for slot in self._slots if slot in wanted]
        if recall.acquisition != self.acquisition or not unused or self._connection is None:
            return
        # Where it cannot be sent they stay: the daemon takes them, and says so if one is used.
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
        """Send what no credit bounds: where the queue is full, it waits for the daemon."""
        while self._connection is not None and not self._connection.send(message):
            self.pump(0.05)


def _check(open_: Open, pixels: Pixels, axes: str, metadata: str) -> None:
    """Refuse a frame of another shape or type than the acquisition's, or with too much metadata."""
    if pixels.shape != (open_.height, open_.width) or pixels.dtype.name != open_.dtype:
        raise InputError(
            f"frame {axes} is {pixels.shape[1]}×{pixels.shape[0]} {pixels.dtype}, but its "
            f"acquisition began with {open_.width}×{open_.height} {open_.dtype}: keep the "
            "camera's ROI, binning and bit depth within one acquisition"
        )
    if len(metadata) > MAX_METADATA_CHARS:
        raise InputError(f"the metadata of frame {axes} are larger than 1 MiB")


def _plain(value: Any) -> Any:
    """Metadata that JSON does not know: numpy's numbers, and anything as its text."""
    return value.item() if isinstance(value, np.generic) else str(value)
