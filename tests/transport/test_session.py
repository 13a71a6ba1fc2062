"""The state machine of an upload: alone, and driven by a simulated daemon."""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise
from typing import Any, cast, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE_S

from refocusd.errors import InputError, TransportError
from refocusd.transport import messages as wire
from refocusd.transport.client import MAX_METADATA_CHARS, SILENCE_S, Connection
from refocusd.transport.ring import PAGE, RingAddress, Slot
from refocusd.transport.session import TRANSITIONS, Event, Session, State, after

pytestmark = pytest.mark.fast

EVENTS: tuple[Event, ...] = get_args(Event)
SIDE = 16
FRAME = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
OPEN = wire.Open(
    "00000000-0000-4000-8000-000000000000",
    "name",
    SIDE,
    SIDE,
    "uint16",
    "/raw",
    "",
    "{}",
    report=True,
)
WELCOME = wire.Welcome(wire.PROTOCOL, "1.0", RingAddress(0, 0, "", 0))
OPENED = wire.Opened(OPEN.acquisition, "run", "/raw_refocused")
CLOSED = wire.Closed(OPEN.acquisition, wire.Counts(acquired=2, refocused=2))
TRY_AGAIN = wire.Refused("being closed; try again", OPEN.acquisition, again=True)
REFUSED = wire.Refused("there is no room", OPEN.acquisition)


def credit(frames: int) -> wire.Credit:
    return wire.Credit(OPEN.acquisition, [Slot(PAGE * n, FRAME.nbytes) for n in range(frames)])


class PlayedDaemon:
    """A simulated daemon: each connection of a session gets the next script of messages."""

    def __init__(self, *scripts: list[wire.Message | TransportError]) -> None:
        self.scripts = deque(scripts)
        self.connections: list[PlayedConnection] = []

    def connect(self) -> Connection:
        script = self.scripts.popleft() if self.scripts else []
        self.connections.append(PlayedConnection(script))
        return cast(Connection, self.connections[-1])

    def session(self, **more: Any) -> Session:
        return Session("tcp://played:1", connect=self.connect, **more)

    def says(self, *messages: wire.Message | TransportError) -> None:
        self.connections[-1].script.extend(messages)

    def heard(self, kind: type[Any]) -> list[Any]:
        """Messages of one kind that the newest connection has sent."""
        return [message for message in self.connections[-1].sent if isinstance(message, kind)]


class PlayedConnection:
    greeting = None
    ring = None
    nobody = "nobody answers"

    def __init__(self, script: list[wire.Message | TransportError]) -> None:
        self.script = deque(script)
        self.sent: list[wire.Message] = []
        self.silent_s = 0.0
        self.closed = False
        self.queue_is_full = False

    def receive(self, timeout_s: float) -> wire.Message | None:
        assert not self.closed
        message = self.script.popleft() if self.script else None
        if isinstance(message, TransportError):
            raise message
        return message

    def send(self, message: wire.Message, pixels: Any = None) -> bool:
        assert not self.closed
        if self.queue_is_full:
            return False
        self.sent.append(message)
        return True

    def accept(self, message: wire.Welcome) -> wire.Welcome:
        return message

    def close(self, linger_s: float = 0.0) -> None:
        self.closed = True


def open_session(daemon: PlayedDaemon, frames: int = 4, **more: Any) -> Session:
    """A session in state ``open``, with credit."""
    daemon.scripts.append([WELCOME])
    session = daemon.session(**more)
    session.pump()
    session.announce(OPEN)
    daemon.says(OPENED, credit(frames))
    session.pump()
    assert session.state is State.OPEN
    return session


def pump_to(session: Session, state: State) -> None:
    """Pump through the back-off until the session has reached a state."""
    deadline = time.monotonic() + PATIENCE_S
    while session.state is not state:
        assert time.monotonic() < deadline
        session.pump(0.05)


# -- the state machine alone -------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        "connect welcome announce opened close closed",
        # A daemon that has not started yet, or asks to try again.
        "connect lost connect welcome announce lost connect welcome announce opened",
        # A dataset that grows again while it is being closed, and afterwards.
        "connect welcome announce opened close announce opened close closed announce opened",
        "connect refused",
        "connect welcome announce refused",
        "connect welcome announce opened refused",
    ],
)
def test_each_step_of_an_ordinary_life_leads_to_another_state(events: str) -> None:
    states = [State.IDLE]
    for event in cast(list[Event], events.split()):
        states.append(after(states[-1], event))
    assert all(before is not then for before, then in pairwise(states))


@pytest.mark.parametrize(
    ("state", "event", "then"),
    [
        ("opening", "closed", "lost"),  # the daemon stops
        ("open", "closed", "lost"),
        ("closing", "closed", "closed"),
        ("ready", "opened", "ready"),  # late messages
        ("ready", "closed", "ready"),
        ("open", "welcome", "open"),
        ("open", "opened", "open"),
        ("closing", "opened", "closing"),
        ("closed", "lost", "closed"),
        ("lost", "opened", "lost"),
        ("idle", "lost", "idle"),
        ("opening", "close", "opening"),  # nothing to close yet
    ],
)
def test_what_follows_what(state: str, event: Event, then: str) -> None:
    assert after(State(state), event) is State(then)


def test_a_refusal_is_final() -> None:
    assert all(after(State.REFUSED, event) is State.REFUSED for event in EVENTS)


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    reached = {then for moves in TRANSITIONS.values() for then in moves.values()}
    assert reached == set(State) - {State.IDLE}


@given(st.lists(st.sampled_from(EVENTS)))
def test_whatever_happens_frames_are_taken_only_after_the_daemon_made_room(
    events: list[Event],
) -> None:
    state = State.IDLE
    announced = False
    for event in events:
        before, state = state, after(state, event)
        if event == "announce" and state is not before:
            announced = True
        if state is State.LOST:
            announced = False  # and must be announced again
        if state in (State.OPENING, State.OPEN, State.CLOSING):
            assert announced
        if state is State.OPEN and before is not State.OPEN:
            assert (before, event) == (State.OPENING, "opened")
        if state is State.CLOSED and before is not State.CLOSED:
            assert (before, event) == (State.CLOSING, "closed")


# -- with a daemon -----------------------------------------------------------------------


def test_an_acquisition_from_hello_to_its_counts() -> None:
    daemon = PlayedDaemon()
    states: list[State] = []
    outcomes: list[wire.Outcome] = []
    with open_session(daemon, on_state=states.append, on_outcome=outcomes.append) as session:
        assert session.submit(FRAME, '{"z":0}', {"Exposure": np.float32(0.5)}, 7)
        assert session.submit(FRAME, '{"z":1}', "{}", 8, live=False)
        assert session.credit == 2
        assert list(session.in_flight) == ['{"z":0}', '{"z":1}']
        daemon.says(wire.Outcome(OPEN.acquisition, '{"z":0}', "refocused"))
        session.pump()
        assert session.unanswered() == 1
        session.close(2)
        daemon.says(CLOSED)
        session.until(lambda: session.closed)
    assert session.closed == CLOSED
    assert [state.value for state in states] == [
        "connecting",
        "ready",
        "opening",
        "open",
        "closing",
        "closed",
    ]
    assert [outcome.axes for outcome in outcomes] == ['{"z":0}']
    first, second = daemon.heard(wire.Submit)
    assert (first.axes, first.metadata, first.taken_ns, first.live) == (
        '{"z":0}',
        '{"Exposure": 0.5}',
        7,
        True,
    )
    assert not second.live
    assert daemon.heard(wire.Close) == [wire.Close(OPEN.acquisition, 2)]
    assert daemon.connections[0].closed


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (TRY_AGAIN, "try again"),
        (CLOSED, "was stopped"),
        (TransportError("not a message of protocol"), "not a message"),
    ],
    ids=["try-again", "closed-unasked", "nonsense"],
)
def test_a_daemon_that_is_lost_is_found_again_and_told_the_same(
    says: wire.Message | TransportError, reason: str
) -> None:
    daemon = PlayedDaemon()
    lost: list[tuple[str, int]] = []

    def entered(state: State) -> None:
        if state is State.LOST:
            lost.append((session.reason, len(session.in_flight)))

    session = open_session(daemon, on_state=entered)
    with session:
        session.submit(FRAME, '{"z":0}', "{}", 0)
        daemon.says(says)
        session.pump()
        assert session.state is State.LOST
        ((why, had),) = lost
        assert reason in why
        assert had == 1, "what the lost daemon had can still be asked for"
        assert not session.in_flight
        assert session.opened is None
        assert not session.submit(FRAME, '{"z":1}', "{}", 0)
        assert daemon.connections[0].closed
        daemon.scripts.append([WELCOME])
        pump_to(session, State.READY)
        session.announce(OPEN)
        daemon.says(OPENED, credit(1))
        session.pump()
        assert session.submit(FRAME, '{"z":1}', "{}", 0)
    assert daemon.heard(wire.Open) == [OPEN]


@pytest.mark.parametrize("state", [State.CONNECTING, State.READY, State.OPEN, State.CLOSING])
def test_silence_means_that_the_daemon_is_gone(state: State) -> None:
    daemon = PlayedDaemon()
    if state in (State.CONNECTING, State.READY):
        daemon.scripts.append([WELCOME] if state is State.READY else [])
        session = daemon.session()
        session.pump()
    else:
        session = open_session(daemon)
    if state is State.CLOSING:
        session.close(0)
    assert session.state is state
    daemon.connections[0].silent_s = SILENCE_S + 1
    session.pump()
    assert session.state is State.LOST
    expected = "nobody answers" if state is State.CONNECTING else "went away"
    assert expected in session.reason


def test_a_refused_acquisition_is_not_announced_again() -> None:
    daemon = PlayedDaemon([WELCOME])
    with daemon.session() as session:
        session.pump()
        session.announce(OPEN)
        daemon.says(wire.Refused("of another", "00000000-0000-4000-8000-000000000001"))
        session.pump()
        assert session.state is State.OPENING, "that was another acquisition's"
        daemon.says(REFUSED)
        with pytest.raises(InputError, match="no room"):
            session.until(lambda: session.opened)
        assert session.over
        assert session.refused == "there is no room"
    session.pump(0.1)
    assert len(daemon.connections) == 1


def test_who_cannot_go_on_without_a_daemon_gets_one_error() -> None:
    daemon = PlayedDaemon([WELCOME, wire.Refused("say Hello first", again=True)])
    with daemon.session() as session, pytest.raises(TransportError, match="Hello"):
        session.until(lambda: False)
    daemon = PlayedDaemon([WELCOME])
    with daemon.session() as session, pytest.raises(TransportError, match="stopped before"):
        session.until(lambda: False, lambda: session.state is State.READY)


def test_a_dataset_that_grows_again_is_announced_again_on_the_same_connection() -> None:
    daemon = PlayedDaemon()
    with open_session(daemon) as session:
        session.close(2)
        daemon.says(CLOSED)
        session.pump()
        session.announce(OPEN)
        assert session.closed is None
        assert session.credit == 0, "the slots of before are not ours any more"
        daemon.says(OPENED, credit(1))
        session.pump()
        assert session.submit(FRAME, '{"z":2}', "{}", 0)
    assert len(daemon.connections) == 1


@pytest.mark.parametrize(
    ("pixels", "metadata", "says"),
    [
        (FRAME[:, : SIDE // 2], "{}", "8×16 uint16"),
        (FRAME.astype(np.uint8), "{}", "16×16 uint8"),
        (FRAME, "x" * (MAX_METADATA_CHARS + 1), "1 MiB"),
    ],
    ids=["shape", "depth", "metadata"],
)
def test_a_frame_that_does_not_fit_is_refused_and_costs_no_credit(
    pixels: Any, metadata: str, says: str
) -> None:
    with open_session(PlayedDaemon()) as session:
        with pytest.raises(InputError, match=says):
            session.submit(pixels, '{"z":0}', metadata, 0)
        assert session.credit == 4
        assert session.submit(FRAME, '{"z":1}', "{}", 0)


def test_a_full_queue_costs_no_credit_and_no_word() -> None:
    daemon = PlayedDaemon()
    with open_session(daemon) as session:
        connection = daemon.connections[0]
        connection.queue_is_full = True
        assert not session.submit(FRAME, '{"z":0}', "{}", 0)
        assert session.credit == 4
        # Frames that must not be lost wait, as long as there is a daemon.
        connection.silent_s = SILENCE_S + 1
        session.close(1)
        assert session.state is State.LOST


def test_frames_on_their_way_are_counted_and_forgotten_in_time() -> None:
    with open_session(PlayedDaemon(), frames=3) as session:
        assert session.has_room(2)
        session.submit(FRAME, '{"z":0}', "{}", 0)
        assert session.has_room(2)
        session.submit(FRAME, '{"z":1}', "{}", 0)
        assert not session.has_room(2)
        assert session.unanswered(60.0) == 2
        assert session.unanswered(0.0) == 0
        assert session.has_room(2)
        session.submit(FRAME, '{"z":2}', "{}", 0)
        assert not session.has_room(9), "without credit there is no room"


def test_thousands_of_missed_frames_are_named_in_messages_of_bounded_size() -> None:
    daemon = PlayedDaemon()
    axes = [f'{{"time":{n}}}' for n in range(2500)]
    with open_session(daemon) as session:
        session.miss(axes, "skipped", "no raw")
    told = daemon.heard(wire.Miss)
    assert [len(message.axes) for message in told] == [1000, 1000, 500]
    assert [key for message in told for key in message.axes] == axes


def test_frames_left_to_raw_are_told_now_and_then_and_all_of_them() -> None:
    daemon = PlayedDaemon()
    with open_session(daemon) as session:
        session.leave(0, 5)
        assert daemon.heard(wire.Behind) == []
        session.leave(2, 5)
        session.leave(3, 8)
        assert daemon.heard(wire.Behind) == [wire.Behind(OPEN.acquisition, 2, 5)]
        session._told_behind_at -= 10.0
        session.leave(0, 9)
    assert daemon.heard(wire.Behind)[1:] == [wire.Behind(OPEN.acquisition, 3, 9)]


MESSAGES: list[wire.Message | TransportError] = [
    WELCOME,
    OPENED,
    CLOSED,
    TRY_AGAIN,
    REFUSED,
    credit(1),
    credit(3),
    wire.Ping(),
    wire.Outcome(OPEN.acquisition, '{"z":0}', "refocused"),
    TransportError("nonsense"),
]


@given(st.lists(st.one_of(st.sampled_from(MESSAGES), st.sampled_from(["submit", "close"]))))
@settings(deadline=None)
def test_whatever_a_daemon_says_the_session_stays_in_order(steps: list[Any]) -> None:
    daemon = PlayedDaemon()
    with daemon.session() as session:
        for step in steps:
            session._connect_at = 0.0  # no back-off, so that a case is short
            if session.state is State.READY:
                session.announce(OPEN)
            if step == "submit":
                credit_before = session.credit
                sent = session.submit(FRAME, '{"z":0}', "{}", 0)
                assert session.credit == credit_before - sent
            elif step == "close":
                session.close(1)
            elif daemon.connections:
                daemon.says(step)
            session.pump()
            alive = [one for one in daemon.connections if not one.closed]
            assert len(alive) <= 1, "a lost connection is closed before the next is made"
            if session.state in (State.LOST, State.IDLE):
                assert not alive
                assert not session.credit
                assert not session.in_flight
    assert all(one.closed for one in daemon.connections)


def test_slots_that_are_recalled_are_given_back_unless_they_are_filled() -> None:
    daemon = PlayedDaemon()
    session = open_session(daemon, frames=3)
    used, *unused = list(session._slots)
    session.submit(np.zeros((SIDE, SIDE), np.uint16), '{"time":0}', "{}", 0)
    daemon.says(wire.Recall(OPEN.acquisition, [used, unused[0]]))
    session.pump()
    assert daemon.heard(wire.GiveBack) == [wire.GiveBack(OPEN.acquisition, [unused[0]])]
    assert list(session._slots) == [unused[1]]
    daemon.connections[-1].queue_is_full = True
    daemon.says(wire.Recall(OPEN.acquisition, [unused[1]]))
    session.pump()
    assert session.credit == 1, "what could not be said was not done"
