"""Decides who gets the ring's slots, and which of the waiting frames goes to a worker next.

A slot is credit.  A source cannot send a frame without one, so the number of waiting frames
is bounded by the ring, whatever the length of an acquisition.

Policy ``defer``: the newest live frame goes first.  A frame that goes to a worker after a newer one
is late, and the live image does not go back to it.  When a source has used up its slots, its oldest
waiting frame is left to the catch-up, and the slot goes back to the source at once, so that live frames
never wait for a slow engine.  Policy ``complete``: frames are refocused in order, and the source waits.
Without raw data there is nothing to catch up from, so such acquisitions are always served in order.

A source that is open but sends nothing (a slow time lapse, say) keeps its slots only as long as
nobody else needs them: then they are recalled, and withdrawn if the source does not return them.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator

from refocusd.config import Settings
from refocusd.daemon.acquisitions.registry import Acquisitions
from refocusd.daemon.acquisitions.state import Acquisition, Lane, Send, Task
from refocusd.transport import messages as wire
from refocusd.transport.ring import Slot, SlotAllocator

log = logging.getLogger(__name__)

#: Largest number of slots of a live lane: more would only add latency.
MAX_LIVE_SLOTS = 32
#: Largest number of slots of a catch-up: enough to keep the workers busy.
MAX_CATCH_UP_SLOTS = 8
#: Number of slots with which a lane reaches full speed.
ENOUGH_SLOTS = 4
#: A lane that has not used a slot for this long may lose it to others.
IDLE_S = 3.0
#: How long a source may take to give slots back.
RECALL_S = 3.0


class Scheduler:
    """Grants slots, takes them back, and chooses the next frame to refocus.

    Parameters
    ----------
    settings : Settings
    ring_nbytes : int
    acquisitions : Acquisitions
    send : callable
        Sends a message to a peer.
    """

    def __init__(
        self, settings: Settings, ring_nbytes: int, acquisitions: Acquisitions, send: Send
    ) -> None:
        self._settings = settings
        self._acquisitions = acquisitions
        self._send = send
        self.ring_nbytes = ring_nbytes
        self._slots = SlotAllocator(ring_nbytes)
        #: Ids of the open acquisitions; the first is the next to be served.
        self._turn: deque[str] = deque()
        #: While set, no frame goes to a worker.
        self.paused = False

    @property
    def free_nbytes(self) -> int:
        """Bytes of the ring that no slot holds."""
        return self._slots.free

    def add(self, acquisition: Acquisition) -> None:
        """Serve an acquisition in its turn."""
        self._turn.append(acquisition.id)

    def remove(self, acquisition: Acquisition) -> list[Task]:
        """Stop serving an acquisition, and return its frames that were still waiting."""
        waiting = [task for lane in acquisition.lanes for task in lane.queue]
        for task in waiting:
            self._slots.give(task.submit.slot)
        for lane in acquisition.lanes:
            self.reclaim(lane)
            lane.queue.clear()
        self._turn.remove(acquisition.id)
        return waiting

    # -- slots --------------------------------------------------------------------------

    def fits(self, acquisition: Acquisition) -> bool:
        """Whether a raw frame and its refocused frame fit into the part of the ring that a source may use."""
        return Slot(0, acquisition.frame_nbytes).span <= self._source_nbytes

    @property
    def _source_nbytes(self) -> int:
        ring_mib = self._settings.ring_mib
        return min(self._settings.source_mib or ring_mib, ring_mib) << 20

    def grant(self, acquisition: Acquisition, lane: Lane, least: int = 1) -> None:
        """Give a lane its fair share of the free ring; at least `least` slots in all, if there are enough."""
        span = Slot(0, acquisition.frame_nbytes).span
        most = min(MAX_LIVE_SLOTS if lane.live else MAX_CATCH_UP_SLOTS, self._source_nbytes // span)
        if lane.lost_at > lane.used_at:
            most = 1  # it has used none since it lost some
        wanted = min(most - lane.slots, self._slots.free // 2 // span)
        wanted = max(wanted, min(least, most) - lane.slots)
        slots: list[Slot] = []
        while len(slots) < wanted and (slot := self._slots.take(acquisition.frame_nbytes)):
            slots.append(slot)
        if slots:
            if not lane.slots:
                lane.got_at = time.monotonic()
            lane.granted.update(slots)
            lane.taken.difference_update(slots)
            self._send(lane.peer, wire.Credit(acquisition.id, slots), None)

    def reclaim(self, lane: Lane) -> None:
        """Free the slots that a lane's peer has not used, because it is gone or has finished."""
        for slot in lane.granted:
            self._slots.give(slot)
        lane.granted.clear()
        lane.recalled.clear()
        lane.taken.clear()

    def top_up(self) -> None:
        """Share free memory among the lanes that use their slots.

        Lanes without a slot come first, and among these, those that lost one longest ago.
        """
        for acquisition, lane in sorted(
            self._open_lanes(), key=lambda pair: (pair[1].slots > 0, pair[1].lost_at)
        ):
            if not lane.unused_for(IDLE_S):
                self.grant(acquisition, lane)

    def tick(self) -> None:
        """Recall unused slots if other lanes have too few; withdraw those that were not returned in time."""
        now = time.monotonic()
        lanes = list(self._open_lanes())
        for acquisition, lane in lanes:
            if late := [slot for slot, due in lane.recalled.items() if now > due]:
                log.warning(
                    "%s does not give its slots back: they are reclaimed", acquisition.open.name
                )
                lane.taken.update(late)
                self._free(lane, late)
        self.top_up()
        for acquisition, lane in lanes:
            if not lane.granted:
                self.grant(acquisition, lane, ENOUGH_SLOTS)
        short = [
            (acquisition, lane)
            for acquisition, lane in lanes
            if not lane.granted and lane.slots < ENOUGH_SLOTS
        ]
        if short:
            self._recall(short, sorted(lanes, key=lambda pair: pair[1].used_at))

    def _recall(
        self, short: list[tuple[Acquisition, Lane]], lanes: list[tuple[Acquisition, Lane]]
    ) -> None:
        """Recall what the short lanes need from the lanes that were idle for longest."""
        now = time.monotonic()
        spans = [Slot(0, acquisition.frame_nbytes).span for acquisition, _ in short]
        missing = [ENOUGH_SLOTS - lane.slots for _, lane in short]
        needed = sum(span * slots for span, slots in zip(spans, missing, strict=True))
        needed -= sum(slot.span for _, lane in lanes for slot in lane.recalled)
        # Free memory helps only if frames fit into one of its gaps.
        needed -= self._slots.free if self._slots.largest >= max(spans) else 0
        keep = 0 if any(not lane.slots for _, lane in short) else 1
        for acquisition, lane in lanes:
            # Neighbours first, because together they make a larger gap.
            unused = sorted(lane.granted - lane.recalled.keys(), key=lambda slot: slot.offset)
            if needed <= 0:
                return
            if not lane.unused_for(IDLE_S) or len(unused) <= keep:
                continue
            some: list[Slot] = []
            while needed > 0 and len(unused) > keep:
                some.append(unused.pop())
                needed -= some[-1].span
            lane.recalled.update(dict.fromkeys(some, now + RECALL_S))
            self._send(lane.peer, wire.Recall(acquisition.id, some), None)

    def given_back(self, lane: Lane, slots: list[Slot]) -> None:
        """Free recalled slots that a source has returned."""
        self._free(lane, [slot for slot in slots if slot in lane.recalled])

    def _free(self, lane: Lane, slots: list[Slot]) -> None:
        for slot in slots:
            lane.lose(slot)
            self._slots.give(slot)
        self.top_up()

    def recycle(self, acquisition: Acquisition, lane: Lane, slot: Slot) -> None:
        """Give a slot back to its peer, unless the peer has finished or another lane has no slot."""
        starving = [
            pair for pair in self._open_lanes() if pair[1] is not lane and not pair[1].slots
        ]
        if lane.closed or starving:
            self._slots.give(slot)
            # Before this lane, which may have no other slot either: lanes take turns with the last slot.
            for other, its_lane in starving:
                self.grant(other, its_lane)
            self.top_up()
        else:
            lane.granted.add(slot)
            self._send(lane.peer, wire.Credit(acquisition.id, [slot]), None)

    def _open_lanes(self) -> Iterator[tuple[Acquisition, Lane]]:
        for acquisition in self._acquisitions:
            for lane in acquisition.lanes if acquisition.state.opened else ():
                if lane.peer and not lane.closed:
                    yield acquisition, lane

    # -- frames -------------------------------------------------------------------------

    def _freshest_first(self, acquisition: Acquisition, lane: Lane) -> bool:
        """Whether old frames of this lane may be left to the catch-up."""
        return lane.live and self._settings.policy == "defer" and bool(acquisition.open.raw)

    @property
    def stays_fresh(self) -> bool:
        """Whether a live frame may arrive that has to go before all others."""
        return any(
            self._freshest_first(acquisition, acquisition.live)
            and not (acquisition.live.closed and acquisition.live.idle)
            for acquisition in self._acquisitions
        )

    def put(self, acquisition: Acquisition, task: Task) -> Task | None:
        """Queue a frame, and return the frame that must be left to the catch-up in its place, if any."""
        lane = task.lane
        lane.queue.append(task)
        out_of_slots = not (lane.granted or lane.closed) and len(lane.queue) > 1
        if out_of_slots and self._freshest_first(acquisition, lane):
            oldest = min(lane.queue, key=_taken_ns)
            lane.queue.remove(oldest)
            return oldest
        return None

    def requeue(self, task: Task) -> None:
        """Queue a frame whose worker is gone, before those that came after it."""
        lane = task.lane
        lane.in_flight -= 1
        lane.queue.appendleft(task)

    def next_task(self) -> tuple[Task, Acquisition] | None:
        """The next frame to refocus: acquisitions in turn, live frames before caught-up ones."""
        if self.paused:
            return None
        in_order = self._settings.policy == "complete"
        for lanes in (slice(None),) if in_order else (slice(1), slice(1, None)):
            for _ in range(len(self._turn)):
                acquisition = self._acquisitions.get(self._turn[0])
                self._turn.rotate(-1)
                if acquisition is None or acquisition.stalled or not acquisition.state.opened:
                    continue
                for lane in acquisition.lanes[lanes]:
                    if lane.queue:
                        lane.in_flight += 1
                        if self._freshest_first(acquisition, lane):
                            return _take_newest(lane), acquisition
                        return lane.queue.popleft(), acquisition
        return None


def _taken_ns(task: Task) -> int:
    return task.submit.taken_ns


def _take_newest(lane: Lane) -> Task:
    """Take the newest frame, wherever it is in the queue: a source without a slot may send frames out of order."""
    task = max(reversed(lane.queue), key=_taken_ns)
    lane.queue.remove(task)
    task.late = task.submit.taken_ns < lane.newest_ns
    lane.newest_ns = max(lane.newest_ns, task.submit.taken_ns)
    return task
