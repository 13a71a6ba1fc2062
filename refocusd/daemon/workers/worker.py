"""The broker's record of one worker."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from refocusd.daemon.acquisitions.state import Task
from refocusd.transport.messages import MAX_CALIBRATIONS, Engines

#: A worker is presumed hung if a frame takes this many times longer than its slowest recent time
#: per byte suggests, and at least this long.
HUNG_FACTOR = 10.0
HUNG_AT_LEAST_S = 5.0
#: A worker that needs less than this for a frame gets the next one in advance; otherwise it would spend a
#: tenth of its time waiting for the broker.
QUICK_S = 0.01


@dataclass(slots=True)
class WorkerPeer:
    """A worker's identity, the frames that it holds, and its speed."""

    identity: bytes
    pid: int
    inline: bool
    #: Name of its key if it is on another host; "" for the daemon's own.
    remote: str = ""
    ready: bool = False
    engine: Engines | None = None
    tasks: deque[Task] = field(default_factory=deque)
    #: When its last message arrived (`time.monotonic`).
    heard_at: float = field(default_factory=time.monotonic)
    #: Number of frames that it has answered.
    answered: int = 0
    #: When it answered the last of them (`time.monotonic`).
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=256))
    #: Keys of the calibrations that it knows, the oldest first.
    calibrations: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_CALIBRATIONS))
    #: Slowest recent time per byte of a frame; 0 before its first answer.
    s_per_byte: float = 0.0
    #: Mean time of the last few frames; 0 before its first answer.
    mean_s: float = 0.0

    @property
    def needs_ahead(self) -> bool:
        """Whether it would be idle for long between two frames if it held only one at a time."""
        return bool(self.remote) or 0.0 < self.mean_s < QUICK_S

    def finish(self, number: int) -> Task | None:
        """Remove and return the task that it answers; None if it does not hold it (any more)."""
        task = next((task for task in self.tasks if task.number == number), None)
        if task is None:
            return None
        self.tasks.remove(task)
        now = time.monotonic()
        nbytes = max(1, task.submit.slot.nbytes)
        spent_s = now - task.sent_at
        self.s_per_byte = max(0.99 * self.s_per_byte, spent_s / nbytes)
        self.mean_s += (spent_s - self.mean_s) / min(8, self.answered + 1)
        self.answered += 1
        self.recent.append(now)
        if self.tasks:  # it starts on the next one only now
            self.tasks[0].sent_at = now
        return task

    def is_hung(self, timeout_s: float) -> bool:
        """Whether its current frame takes much longer than recent ones, or longer than `timeout_s`."""
        if not self.tasks:
            return False
        if self.s_per_byte:
            usual_s = self.s_per_byte * self.tasks[0].submit.slot.nbytes
            timeout_s = min(timeout_s, max(HUNG_AT_LEAST_S, HUNG_FACTOR * usual_s))
        return time.monotonic() - self.tasks[0].sent_at > timeout_s

    def is_silent(self, timeout_s: float) -> bool:
        """Whether it is idle, and has sent no heartbeat for `timeout_s`."""
        expected = (self.ready or bool(self.remote)) and not self.tasks
        return expected and time.monotonic() - self.heard_at > timeout_s
