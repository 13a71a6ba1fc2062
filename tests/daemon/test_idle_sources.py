"""Idle open sources do not hold slots that others need."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from live import Upload, opened, pump_until, quick_settings, running, source
from waiting import PATIENCE_S

from refocusd.config import Settings
from refocusd.daemon.acquisitions import scheduler
from refocusd.daemon.acquisitions.registry import Acquisitions
from refocusd.daemon.acquisitions.scheduler import Scheduler
from refocusd.daemon.acquisitions.state import Acquisition, Lane
from refocusd.transport import messages as wire
from refocusd.transport.ring import Slot

RING_NBYTES = 64 << 20
#: Two slots for frames of this side, before and after refocusing, fill the ring.
LARGE = 2880


@dataclass
class Played:
    """A scheduler, and the messages that it sent to sources."""

    sent: list[tuple[bytes, wire.Message]] = field(default_factory=list)
    held: Acquisitions = field(default_factory=Acquisitions)
    scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(
            Settings(backend="identity", ring_mib=64),
            RING_NBYTES,
            self.held,
            lambda peer, message, _: self.sent.append((peer, message)),
        )

    def source(self, name: bytes, side: int = LARGE) -> Acquisition:
        """A source with an open acquisition and its granted slots."""
        message = wire.Open(str(uuid.uuid4()), "n", side, side, "uint16", "", "/o", "{}")
        acquisition = Acquisition.announced(message, name)
        self.held.add(acquisition)
        self.scheduler.add(acquisition)
        acquisition.output_opened("/o", {})
        self.scheduler.grant(acquisition, acquisition.live)
        return acquisition

    def recalled(self, name: bytes) -> list[Slot]:
        return [
            slot
            for peer, message in self.sent
            if peer == name and isinstance(message, wire.Recall)
            for slot in message.slots
        ]

    def idle(self, *lanes: Lane) -> None:
        """Let time pass in which these lanes are not used."""
        for lane in lanes:
            lane.used_at -= scheduler.IDLE_S + 1
            lane.got_at -= scheduler.IDLE_S + 1

    def late(self, lane: Lane) -> None:
        """Let time pass in which a lane's peer does not return recalled slots."""
        lane.recalled = {slot: due - scheduler.RECALL_S - 1 for slot, due in lane.recalled.items()}


@pytest.fixture
def played() -> Played:
    return Played()


def test_a_source_without_a_slot_gets_that_of_one_that_is_idle(played: Played) -> None:
    first, second, third = (played.source(name) for name in (b"1", b"2", b"3"))
    assert [len(a.live.granted) for a in (first, second, third)] == [1, 1, 0]
    played.scheduler.tick()
    assert not played.recalled(b"1") + played.recalled(b"2"), "they may be about to use them"
    played.idle(first.live)
    played.scheduler.tick()
    (slot,) = played.recalled(b"1")
    assert not third.live.granted, "its peer may be filling it just now"
    played.scheduler.given_back(first.live, [slot])
    assert third.live.granted == {slot}
    assert not first.live.granted


def test_a_slot_that_is_not_given_back_is_taken(played: Played) -> None:
    first, second, third = (played.source(name) for name in (b"1", b"2", b"3"))
    played.idle(first.live, second.live)
    played.scheduler.tick()
    (slot,) = played.recalled(b"1")
    played.scheduler.tick()
    assert played.recalled(b"1") == [slot], "it is asked for once"
    played.late(first.live)
    played.scheduler.tick()
    assert third.live.granted == {slot}
    assert first.live.taken == {slot}


def test_idle_sources_take_turns_where_there_are_fewer_slots_than_sources(played: Played) -> None:
    sources = {name: played.source(name) for name in (b"1", b"2", b"3", b"4")}
    had_one: set[bytes] = set()
    for _ in range(8):
        had_one |= {name for name, a in sources.items() if a.live.granted}
        played.idle(*(a.live for a in sources.values() if a.live.granted))
        played.scheduler.tick()
        for acquisition in sources.values():
            played.scheduler.given_back(acquisition.live, list(acquisition.live.recalled))
    assert had_one == set(sources)


def test_idle_sources_share_with_one_that_works_and_keep_one_each(played: Played) -> None:
    idle = [played.source(bytes([n]), side=512) for n in range(6)]
    busy = played.source(b"busy", side=1600)
    assert busy.live.slots < scheduler.ENOUGH_SLOTS
    played.idle(*(a.live for a in idle))
    for _ in range(20):
        while busy.live.granted:  # one frame each, which workers refocus slowly
            busy.live.spend(next(iter(busy.live.granted)))
            busy.live.in_flight += 1
        played.scheduler.tick()
        for acquisition in idle:
            played.scheduler.given_back(acquisition.live, list(acquisition.live.recalled))
    assert busy.live.slots >= scheduler.ENOUGH_SLOTS
    assert all(a.live.granted for a in idle)


def test_nothing_is_recalled_while_nobody_needs_it(played: Played) -> None:
    lane = played.source(b"only", side=512).live
    played.idle(lane)
    played.scheduler.tick()
    assert not played.sent[1:]
    assert lane.granted


def test_a_third_source_gets_a_slot_of_a_daemon_whose_two_slots_are_held(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, ExitStack() as stack:
        first, second = (
            opened(
                stack.enter_context(source(daemon, inline=True)), tmp_path / f"out-{n}", side=LARGE
            )
            for n in range(2)
        )
        third = Upload(
            stack.enter_context(source(daemon, inline=True)),
            wire.Open(
                *(str(uuid.uuid4()), "third", LARGE, LARGE, "uint16", "", str(tmp_path / "out-3")),
                "{}",
            ),
        )
        # The first is suspended: it does not answer, and later writes into another's slot.
        slot = next(iter(first._slots))
        deadline = time.monotonic() + PATIENCE_S
        while not third.credit:
            assert time.monotonic() < deadline, "nobody gave a slot back"
            second.pump(0.05)
            third.pump(0.05)
        if next(iter(third._slots)) == slot:  # unless the second was quicker
            first.submit(np.zeros((LARGE, LARGE), np.uint16), '{"time":0}', "{}", 0)
            pump_until(first, lambda: "it was reclaimed" in first.reason)
            assert not first.refused, "it begins again"
