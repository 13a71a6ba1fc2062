"""Owns the state of all open acquisitions and of the frames in the daemon."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Literal

from refocusd.daemon.acquisitions.state import Acquisition, Change, Lane, State, Task
from refocusd.errors import TransportError
from refocusd.transport.messages import AcquisitionStatus, Counts, Submit

#: Largest number of ended acquisitions that `Status` still reports.
REMEMBERED = 32
#: The names of the states in messages, which distinguish fewer.
_REPORTED: dict[State, Literal["waiting", "live", "catching up", "closing", "ended"]] = {
    State.WAITING: "waiting",
    State.ORPHANED: "waiting",
    State.LIVE: "live",
    State.LIVE_CATCHING_UP: "live",
    State.DRAINING: "closing",
    State.CATCHING_UP: "catching up",
    State.CLOSING: "closing",
    State.ENDED: "ended",
}


class Acquisitions:
    """Open acquisitions, their tasks, and the last acquisitions that ended.

    Iterates over the open ones, oldest first.  Only the broker's thread uses it.
    """

    def __init__(self) -> None:
        self._open: dict[str, Acquisition] = {}
        self._tasks: dict[int, Task] = {}
        self._numbers = itertools.count(1)
        self._ended: deque[AcquisitionStatus] = deque(maxlen=REMEMBERED)
        self._unfinished = 0

    def __iter__(self) -> Iterator[Acquisition]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, key: str) -> bool:
        return key in self._open

    def get(self, key: str) -> Acquisition | None:
        """The open acquisition with this id, if there is one."""
        return self._open.get(key)

    def of_peer(self, identity: bytes, key: str) -> tuple[Acquisition, Lane]:
        """An open acquisition, and the lane of a peer into it.

        Raises
        ------
        TransportError
            If the acquisition is not open for this peer.
        """
        acquisition = self._open.get(key)
        lane = acquisition.lane_of(identity) if acquisition else None
        if acquisition is None or lane is None:
            raise TransportError(f"acquisition {key} is not open for this peer (any more)")
        return acquisition, lane

    def add(self, acquisition: Acquisition) -> None:
        """Add an acquisition that was announced."""
        self._open[acquisition.id] = acquisition

    def end(self, acquisition: Acquisition) -> None:
        """Remove an acquisition that has ended; `Status` still reports the last of these."""
        self._unfinished += acquisition.unfinished
        self.remove(acquisition)
        self._ended.append(describe_acquisition(acquisition))

    def drop(self, acquisition: Acquisition) -> None:
        """Remove an acquisition that is not complete when the daemon stops."""
        self._unfinished += max(acquisition.unfinished, 1)
        self.remove(acquisition)

    def remove(self, acquisition: Acquisition) -> None:
        """Remove an acquisition without a trace, as if it had not been announced."""
        acquisition.change(Change.ENDED)
        del self._open[acquisition.id]

    # -- frames ---------------------------------------------------------------------------

    def task(self, number: int) -> Task | None:
        """The task with this number, if its frame has no final state yet."""
        return self._tasks.get(number)

    def begin_task(
        self, acquisition: Acquisition, lane: Lane, message: Submit, channel: str
    ) -> Task:
        """Create the task of a frame that was submitted."""
        task = Task(next(self._numbers), acquisition.id, message, lane, channel)
        self._tasks[task.number] = task
        acquisition.active[message.axes] = message.live
        return task

    def end_task(self, acquisition: Acquisition, task: Task) -> None:
        """Remove the task of a frame that has a final state, or is left to the catch-up."""
        self._tasks.pop(task.number, None)
        acquisition.active.pop(task.submit.axes, None)

    def give_up(self, acquisition: Acquisition, task: Task) -> None:
        """Leave a frame to the catch-up, which means that it stays pending."""
        self.end_task(acquisition, task)
        acquisition.behind += 1
        acquisition.deferred += task.submit.live

    @property
    def missed_chars(self) -> int:
        """Number of characters of the axes of missed frames that wait for the writer."""
        return sum(acquisition.recorded_chars for acquisition in self._open.values())

    @property
    def announced_chars(self) -> int:
        """Number of characters of the open acquisitions' announcements."""
        return sum(acquisition.announced_chars for acquisition in self._open.values())

    # -- reports --------------------------------------------------------------------------

    @property
    def picked_up(self) -> int:
        """Number of open acquisitions that an earlier daemon left, which have no source."""
        return sum(not acquisition.source for acquisition in self)

    @property
    def unfinished(self) -> int:
        """Number of frames of all acquisitions so far that failed or have no final state."""
        return self._unfinished + sum(acquisition.unfinished for acquisition in self)

    def counts(self) -> dict[str, Counts]:
        """Counts of the last ended and the open acquisitions, by id."""
        return {about.id: about.counts for about in self.details()}

    def details(self) -> list[AcquisitionStatus]:
        """The last ended and the open acquisitions in full."""
        return [*self._ended, *(describe_acquisition(acquisition) for acquisition in self)]


def describe_acquisition(acquisition: Acquisition) -> AcquisitionStatus:
    """One acquisition in full."""
    message = acquisition.open
    incomplete = [acquisition.incomplete] if acquisition.incomplete else []
    return AcquisitionStatus(
        id=acquisition.id,
        name=message.name,
        raw=message.raw,
        output=acquisition.output,
        run=acquisition.run,
        state=_REPORTED[acquisition.state],
        height=message.height,
        width=message.width,
        dtype=message.dtype,
        counts=acquisition.counts(),
        queued=sum(len(lane.queue) for lane in acquisition.lanes),
        deferred=acquisition.deferred,
        warnings=acquisition.warnings + incomplete,
        focus=acquisition.focus,
    )
