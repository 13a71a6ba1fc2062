"""Who gets the ring's slots, and which of the waiting frames goes to a worker next.

A slot is credit.  A source cannot send a frame without one, so what waits here
is bounded by the ring, whatever the length of an acquisition.

Policy ``defer``: the newest live frame goes first.  When a source has used up
its slots, its oldest waiting frame is left to the catch-up and the slot goes
back to the source at once, so that live never waits for a slow engine.  Policy
``complete``: in order, and the source waits.  Without raw data there is nothing
to catch up from, so such acquisitions are always served in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from refocusd.config import Settings
from refocusd.daemon.acquisitions.registry import Acquisitions
from refocusd.daemon.acquisitions.state import Acquisition, Lane, Send, Task
from refocusd.transport import messages as wire
from refocusd.transport.ring import Slot, SlotAllocator

__all__ = ["Scheduler"]

#: Slots of a live lane at most: more only adds latency.
MAX_LIVE_SLOTS = 32
#: Slots of a catch-up: enough to keep the workers busy.
MAX_CATCH_UP_SLOTS = 8


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
        """Serve an acquisition no more; its frames that were still waiting are returned."""
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
        """Whether one frame, before and after, fits what a source may take of the ring."""
        return Slot(0, acquisition.frame_nbytes).span <= self._source_nbytes

    @property
    def _source_nbytes(self) -> int:
        ring_mib = self._settings.ring_mib
        return min(self._settings.source_mib or ring_mib, ring_mib) << 20

    def grant(self, acquisition: Acquisition, lane: Lane) -> None:
        """Give a lane its fair share of the free ring: at least one slot, if it has none."""
        span = Slot(0, acquisition.frame_nbytes).span
        most = min(MAX_LIVE_SLOTS if lane.live else MAX_CATCH_UP_SLOTS, self._source_nbytes // span)
        wanted = min(most - lane.slots, self._slots.free // 2 // span)
        if lane.slots == 0:
            wanted = max(1, wanted)
        slots: list[Slot] = []
        while len(slots) < wanted and (slot := self._slots.take(acquisition.frame_nbytes)):
            slots.append(slot)
        if slots:
            lane.granted.update(slots)
            self._send(lane.peer, wire.Credit(acquisition.id, slots), None)

    def reclaim(self, lane: Lane) -> None:
        """Free the slots that a lane's peer has not used: it is gone, or done."""
        for slot in lane.granted:
            self._slots.give(slot)
        lane.granted.clear()

    def top_up(self) -> None:
        """Share freed memory among the lanes, those without a slot first."""
        for acquisition, lane in sorted(self._open_lanes(), key=lambda pair: pair[1].slots > 0):
            self.grant(acquisition, lane)

    def recycle(self, acquisition: Acquisition, lane: Lane, slot: Slot) -> None:
        """Give a slot back to its peer, unless that is done or another lane has none."""
        starving = [
            pair for pair in self._open_lanes() if pair[1] is not lane and not pair[1].slots
        ]
        if lane.closed or starving:
            self._slots.give(slot)
            # Before this lane, which may have no other slot either: the last one goes round.
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

    def put(self, acquisition: Acquisition, task: Task) -> Task | None:
        """Queue a frame; returns the frame that has to be left to the catch-up for it, if any."""
        lane = task.lane
        lane.queue.append(task)
        out_of_slots = not lane.granted and len(lane.queue) > 1
        if out_of_slots and self._freshest_first(acquisition, lane):
            return lane.queue.popleft()
        return None

    def requeue(self, acquisition: Acquisition, task: Task) -> None:
        """Queue a frame whose worker is gone, so that it goes first."""
        lane = task.lane
        lane.in_flight -= 1
        if self._freshest_first(acquisition, lane):
            lane.queue.append(task)
        else:
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
                        newest = self._freshest_first(acquisition, lane)
                        return (lane.queue.pop() if newest else lane.queue.popleft()), acquisition
        return None
