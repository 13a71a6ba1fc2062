"""All open acquisitions and the frames in the daemon: the one owner of their state."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Literal

from refocusd.daemon.acquisitions.state import Acquisition, Change, Lane, State, Task
from refocusd.errors import TransportError
from refocusd.transport.messages import AcquisitionStatus, Counts, Submit

#: Ended acquisitions that `Status` still reports.
REMEMBERED = 32
#: The states of the wire protocol, which are fewer.
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
    """Open acquisitions, their tasks, and the last ones that ended.

    Iterates over the open ones, oldest first.  Belongs to the broker's thread.
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
        """The open acquisition of this id."""
        return self._open.get(key)

    def of_peer(self, identity: bytes, key: str) -> tuple[Acquisition, Lane]:
        """An open acquisition, and the lane of a peer into it.

        Raises
        ------
        TransportError
            If it is not open for this peer.
        """
        acquisition = self._open.get(key)
        lane = acquisition.lane_of(identity) if acquisition else None
        if acquisition is None or lane is None:
            raise TransportError(f"acquisition {key} is not open for this peer (any more)")
        return acquisition, lane

    def add(self, acquisition: Acquisition) -> None:
        """An acquisition was announced."""
        self._open[acquisition.id] = acquisition

    def end(self, acquisition: Acquisition) -> None:
        """An acquisition is over; `Status` reports it for a while."""
        self._unfinished += acquisition.unfinished
        self.remove(acquisition)
        self._ended.append(describe_acquisition(acquisition))

    def drop(self, acquisition: Acquisition) -> None:
        """The daemon stops before an acquisition is complete."""
        self._unfinished += max(acquisition.unfinished, 1)
        self.remove(acquisition)

    def remove(self, acquisition: Acquisition) -> None:
        """Forget an acquisition as if it had not been announced: its output cannot be opened."""
        acquisition.change(Change.ENDED)
        del self._open[acquisition.id]

    # -- frames ---------------------------------------------------------------------------

    def task(self, number: int) -> Task | None:
        """The task of this number, if its frame has no final state yet."""
        return self._tasks.get(number)

    def begin_task(
        self, acquisition: Acquisition, lane: Lane, message: Submit, channel: str
    ) -> Task:
        """A frame was submitted."""
        task = Task(next(self._numbers), acquisition.id, message, lane, channel)
        self._tasks[task.number] = task
        acquisition.active[message.axes] = message.live
        return task

    def end_task(self, acquisition: Acquisition, task: Task) -> None:
        """A frame has a final state, or is left to the catch-up."""
        self._tasks.pop(task.number, None)
        acquisition.active.pop(task.submit.axes, None)

    def give_up(self, acquisition: Acquisition, task: Task) -> None:
        """Leave a frame to the catch-up: it stays pending."""
        self.end_task(acquisition, task)
        acquisition.behind += 1
        acquisition.deferred += task.submit.live

    @property
    def missed_chars(self) -> int:
        """Characters of the axes of missed frames that wait for the writer."""
        return sum(acquisition.recorded_chars for acquisition in self._open.values())

    @property
    def announced_chars(self) -> int:
        """Characters of the announcements of the open acquisitions."""
        return sum(acquisition.announced_chars for acquisition in self._open.values())

    # -- reports --------------------------------------------------------------------------

    @property
    def picked_up(self) -> int:
        """Open acquisitions that an earlier daemon left, without a source."""
        return sum(not acquisition.source for acquisition in self)

    @property
    def unfinished(self) -> int:
        """Frames of all acquisitions so far that failed or have no final state."""
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
