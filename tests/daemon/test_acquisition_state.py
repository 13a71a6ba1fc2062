"""The states of an acquisition, their transitions, and the counts of its frames."""

from __future__ import annotations

import itertools

import pytest

from refocusd.daemon.acquisitions.registry import Acquisitions, describe_acquisition
from refocusd.daemon.acquisitions.state import (
    TRANSITIONS,
    Acquisition,
    Change,
    State,
    next_state,
)
from refocusd.daemon.events import FramesWritten
from refocusd.errors import TransportError
from refocusd.transport import messages as wire
from refocusd.transport.ring import Slot

pytestmark = pytest.mark.fast

ID = "00000000-0000-4000-8000-000000000001"


def announced(raw: str = "/raw") -> Acquisition:
    return Acquisition.announced(wire.Open(ID, "cells", 64, 64, "uint16", raw, "/out", "{}"), b"s")


def submit(number: int, *, live: bool = True) -> wire.Submit:
    return wire.Submit(ID, f'{{"time":{number}}}', Slot(0, 8192), 0, "{}", 0, live=live)


# -- the table -----------------------------------------------------------------------------


def test_every_state_can_be_reached_and_every_way_leads_to_the_end() -> None:
    ways = [(start, end) for table in TRANSITIONS.values() for start, end in table.items()]

    def reached(start: State) -> set[State]:
        found = {start}
        while more := {end for begin, end in ways if begin in found} - found:
            found |= more
        return found

    assert reached(State.WAITING) | reached(State.ORPHANED) == set(State)
    assert all(State.ENDED in reached(state) for state in State)


@pytest.mark.parametrize(
    ("state", "change"), list(itertools.product(State, Change)), ids=lambda value: value.name
)
def test_each_change_of_each_state_is_allowed_repeated_or_refused(
    state: State, change: Change
) -> None:
    if state in TRANSITIONS[change]:
        assert next_state(state, change) is TRANSITIONS[change][state]
        return
    repeatable = {
        Change.SOURCE_CLOSED: state not in (State.WAITING, State.LIVE, State.LIVE_CATCHING_UP),
        Change.SOURCE_RETURNED: state in (State.WAITING, State.LIVE, State.LIVE_CATCHING_UP),
        Change.CATCH_UP_ENDED: not state.catching_up,
    }
    if repeatable.get(change) and state is not State.ENDED:
        assert next_state(state, change) is state
    else:
        with pytest.raises(ValueError, match=f"{change.name} cannot happen"):
            next_state(state, change)


def test_a_source_can_leave_and_return_until_the_output_is_being_closed() -> None:
    for state in State:
        if state in (State.CLOSING, State.ENDED):
            with pytest.raises(ValueError, match="SOURCE_RETURNED"):
                next_state(state, Change.SOURCE_RETURNED)
        else:
            left = next_state(state, Change.SOURCE_CLOSED)
            assert (
                next_state(next_state(left, Change.SOURCE_RETURNED), Change.SOURCE_CLOSED) is left
            )


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ([], "waiting"),
        ([Change.SOURCE_CLOSED], "waiting"),
        ([Change.OUTPUT_OPENED], "live"),
        ([Change.OUTPUT_OPENED, Change.CATCH_UP_STARTED], "live"),
        ([Change.OUTPUT_OPENED, Change.SOURCE_CLOSED], "closing"),
        ([Change.OUTPUT_OPENED, Change.SOURCE_CLOSED, Change.CATCH_UP_STARTED], "catching up"),
        ([Change.OUTPUT_OPENED, Change.SOURCE_CLOSED, Change.ALL_WRITTEN], "closing"),
        ([Change.ENDED], "ended"),
    ],
    ids=str,
)
def test_the_status_reports_the_states_of_the_wire_protocol(
    changes: list[Change], reported: str
) -> None:
    acquisition = announced()
    for change in changes:
        acquisition.change(change)
    assert describe_acquisition(acquisition).state == reported


# -- counts --------------------------------------------------------------------------------


def opened() -> tuple[Acquisitions, Acquisition]:
    acquisitions, acquisition = Acquisitions(), announced()
    acquisitions.add(acquisition)
    acquisition.output_opened("/out", {})
    return acquisitions, acquisition


def test_a_frame_that_is_given_up_is_pending_and_left_to_the_catch_up() -> None:
    acquisitions, acquisition = opened()
    acquisition.submitted = 1
    task = acquisitions.begin_task(acquisition, acquisition.live, submit(0), "")
    acquisitions.give_up(acquisition, task)
    assert acquisitions.task(task.number) is None
    assert not acquisition.active
    assert (acquisition.behind, acquisition.deferred) == (1, 1)
    assert acquisition.counts() == wire.Counts(acquired=1, pending=1)
    assert acquisition.needs_catch_up


def test_a_second_attempt_replaces_the_first_in_the_counts() -> None:
    acquisitions, acquisition = opened()
    for replaces, state in ((None, "failed"), ("failed", "refocused")):
        acquisition.submitted += 1
        task = acquisitions.begin_task(acquisition, acquisition.live, submit(0), "")
        event = FramesWritten(ID, task.number, (task.submit.axes,), state, "", replaces)  # type: ignore[arg-type]
        acquisition.written(event, task)
        acquisitions.end_task(acquisition, task)
    assert acquisition.counts() == wire.Counts(acquired=1, refocused=1)


def test_what_raw_holds_replaces_what_live_counted() -> None:
    _, acquisition = opened()
    acquisition.submitted = 12  # two of them were sent twice
    acquisition.closed_by(acquisition.live, 10)
    acquisition.lane_closed(acquisition.live)
    acquisition.catch_up_started()
    catch_up = acquisition.catch_up = type(acquisition.live)(b"c", live=False)
    acquisition.closed_by(catch_up, 10)
    acquisition.lane_closed(catch_up)
    assert acquisition.counts().acquired == 10
    assert acquisition.end_known
    assert acquisition.state is State.CATCHING_UP


def test_an_incomplete_acquisition_is_never_reported_as_finished() -> None:
    acquisitions, acquisition = opened()
    acquisition.incomplete = "why"
    acquisitions.end(acquisition)
    assert acquisitions.unfinished == 1
    (about,) = acquisitions.details()
    assert about.warnings == ["why"]
    assert not acquisitions


def test_a_lane_is_closed_to_all_but_its_peer() -> None:
    acquisitions, acquisition = opened()
    assert acquisitions.of_peer(b"s", ID) == (acquisition, acquisition.live)
    with pytest.raises(TransportError, match="not open for this peer"):
        acquisitions.of_peer(b"another", ID)
    acquisition.lane_closed(acquisition.live)
    with pytest.raises(TransportError, match="not open for this peer"):
        acquisitions.of_peer(b"s", ID)
