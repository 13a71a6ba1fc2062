"""Whose turn it is: the ring's slots, and the frames that wait for a worker.

A slot is credit.  A source cannot send a frame without one, so what waits here
is bounded by the ring, whatever the length of an acquisition.

Policy ``defer``: the newest live frame goes first.  When a source has used up
its slots, its oldest waiting frame is given up to the catch-up and the slot goes
back to the source at once, so that live never waits for a slow engine.  Policy
``complete``: in order, and the source waits.  Without raw data there is nothing
to catch up from, so such acquisitions are always served in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping

from refocusd.config import Settings
from refocusd.daemon.acquisitions.state import Acquisition, Lane, Task
from refocusd.daemon.workers.pool import Send
from refocusd.transport import messages as wire
from refocusd.transport.ring import Slot, SlotAllocator

__all__ = ["Queues"]

#: Slots of a live lane at most: more only adds latency.
MAX_LIVE_SLOTS = 32
#: Slots of a catch-up: enough to keep the workers busy.
MAX_CATCH_UP_SLOTS = 8


class Queues:
    """Grants slots, takes them back, and names the next frame to refocus.

    Parameters
    ----------
    settings : Settings
    ring_nbytes : int
    acquisitions : mapping
        Those that are open, by id; the desk's own, read here.
    send : callable
        Sends a message to a peer.
    """

    def __init__(
        self,
        settings: Settings,
        ring_nbytes: int,
        acquisitions: Mapping[str, Acquisition],
        send: Send,
    ) -> None:
        self._settings = settings
        self._acquisitions = acquisitions
        self._send = send
        self._slots = SlotAllocator(ring_nbytes)
        self._turn: deque[str] = deque()
        #: No frame goes to a worker.
        self.paused = False

    @property
    def free_nbytes(self) -> int:
        """Bytes of the ring that no slot holds."""
        return self._slots.free

    @property
    def live_waiting(self) -> bool:
        """Whether a live frame waits for a worker."""
        return any(a.live.queue for a in self._acquisitions.values())

    def enter(self, acquisition: Acquisition) -> None:
        """An acquisition joins the round."""
        self._turn.append(acquisition.id)

    def leave(self, acquisition: Acquisition) -> list[Task]:
        """An acquisition is over; the frames of it that still waited are returned."""
        waiting: list[Task] = []
        for lane in acquisition.lanes:
            self.take_back_granted(lane)
            for task in lane.queue:
                self._slots.give(task.submit.slot)
                waiting.append(task)
            lane.queue.clear()
        self._turn.remove(acquisition.id)
        return waiting

    # -- slots --------------------------------------------------------------------------

    def fits(self, acquisition: Acquisition) -> bool:
        """Whether one frame, before and after, fits what a source may take of the ring."""
        return Slot(0, acquisition.frame_nbytes).span <= self._cap_nbytes

    @property
    def _cap_nbytes(self) -> int:
        return (
            min(self._settings.source_mib or self._settings.ring_mib, self._settings.ring_mib) << 20
        )

    def grant(self, acquisition: Acquisition, lane: Lane) -> None:
        """As many slots as a fair share of the free ring holds; at least one, if it has none."""
        span = Slot(0, acquisition.frame_nbytes).span
        most = min(MAX_LIVE_SLOTS if lane.live else MAX_CATCH_UP_SLOTS, self._cap_nbytes // span)
        wanted = min(most - lane.slots, self._slots.free // 2 // span)
        if lane.slots == 0:
            wanted = max(1, wanted)
        slots: list[Slot] = []
        while len(slots) < wanted and (slot := self._slots.take(acquisition.frame_nbytes)):
            slots.append(slot)
        if slots:
            lane.granted.update(slots)
            self._send(lane.peer, wire.Credit(acquisition.id, slots), None)

    def take_back_granted(self, lane: Lane) -> None:
        """The peer of a lane is gone, or done: the slots that it did not use are free."""
        for slot in lane.granted:
            self._slots.give(slot)
        lane.granted.clear()

    def top_up(self) -> None:
        """Memory came free: lanes that had to do with less get more, those with none first."""
        for acquisition, lane in sorted(self._open_lanes(), key=lambda pair: pair[1].slots > 0):
            self.grant(acquisition, lane)

    def recycle(self, acquisition: Acquisition, lane: Lane, slot: Slot) -> None:
        """Give a slot back to its peer, unless that is done or another has none."""
        starving = [
            pair for pair in self._open_lanes() if pair[1] is not lane and not pair[1].slots
        ]
        if lane.closed or starving:
            self._slots.give(slot)
            for other, its in starving:
                self.grant(other, its)
            self.top_up()
        else:
            lane.granted.add(slot)
            self._send(lane.peer, wire.Credit(acquisition.id, [slot]), None)

    def _open_lanes(self) -> Iterator[tuple[Acquisition, Lane]]:
        for acquisition in self._acquisitions.values():
            if acquisition.opened:
                for lane in acquisition.lanes:
                    if not lane.closed and lane.peer:
                        yield acquisition, lane

    # -- frames -------------------------------------------------------------------------

    def freshest_first(self, acquisition: Acquisition) -> bool:
        """Whether old live frames of this acquisition may be left to the catch-up."""
        return self._settings.policy == "defer" and bool(acquisition.open.raw)

    def put(self, acquisition: Acquisition, task: Task) -> Task | None:
        """Queue a frame; the frame that is given up for it, if one has to be."""
        lane = task.lane
        lane.queue.append(task)
        if (
            lane.live
            and not lane.granted
            and len(lane.queue) > 1
            and self.freshest_first(acquisition)
        ):
            return lane.queue.popleft()
        return None

    def put_back(self, acquisition: Acquisition, task: Task) -> None:
        """A frame whose worker is gone: it goes first."""
        lane = task.lane
        lane.in_flight -= 1
        if lane.live and self.freshest_first(acquisition):
            lane.queue.append(task)
        else:
            lane.queue.appendleft(task)

    def next_task(self) -> tuple[Task, Acquisition] | None:
        """The next frame to refocus: acquisitions in turn, live frames before caught-up ones."""
        if self.paused:
            return None
        if self._settings.policy == "complete":
            return self._next(lambda acquisition: acquisition.lanes)
        return self._next(lambda acquisition: acquisition.lanes[:1]) or self._next(
            lambda acquisition: acquisition.lanes[1:]
        )

    def _next(
        self, lanes_of: Callable[[Acquisition], list[Lane]]
    ) -> tuple[Task, Acquisition] | None:
        for _ in range(len(self._turn)):
            acquisition = self._acquisitions[self._turn[0]]
            self._turn.rotate(-1)
            if not acquisition.opened or acquisition.stalled:
                continue
            for lane in lanes_of(acquisition):
                if lane.queue:
                    lane.in_flight += 1
                    newest = lane.live and self.freshest_first(acquisition)
                    return (lane.queue.pop() if newest else lane.queue.popleft()), acquisition
        return None
