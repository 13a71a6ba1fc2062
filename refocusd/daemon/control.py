"""What control peers and views ask for: status, previews, a pause, catch-up."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field

from refocusd import __version__
from refocusd.daemon.acquisitions.lifecycle import Lifecycle
from refocusd.daemon.workers.pool import WorkerPool
from refocusd.errors import TransportError
from refocusd.transport import messages as wire

log = logging.getLogger(__name__)

#: Answers about the state that a peer may leave unread.
MAX_UNREAD = 2
#: Times that it may ask for more of them.
MAX_ASKED = 1000
#: Acquisitions that nobody saw and that are named.
MAX_UNSEEN = 10


@dataclass(slots=True)
class Control:
    """Answers control peers and views.

    Parameters
    ----------
    lifecycle, pool
        What is reported and controlled.
    """

    lifecycle: Lifecycle
    pool: WorkerPool
    #: Views that wait for a frame, and the serial that it must be later than.
    _waiting: dict[bytes, int] = field(default_factory=dict)
    #: Answers about the state that each peer was sent, and how often it asked since the last.
    _answers: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    #: Views that wait for outcomes, and the serial that they have.
    _following: dict[bytes, int] = field(default_factory=dict)

    def receive(self, identity: bytes, role: wire.Role, message: wire.Message) -> None:
        """Do what a control peer or a view asks for.

        Raises
        ------
        TransportError
            If a peer of this role may not ask for that.
        """
        match message:
            case wire.StatusRequest():
                self._answer(identity, message.answered)
            case wire.Look() if role == "view":
                self._waiting[identity] = message.after
                self.show()
                if identity in self._waiting:
                    self.lifecycle.writer.preview.ask(message.max_side)
            case wire.Follow() if role == "view":
                self._following[identity] = message.after
            case wire.Pause():
                paused = message.paused and not self.lifecycle.stopping
                if paused != self.lifecycle.scheduler.paused:
                    log.info("paused" if paused else "resumed")
                self.lifecycle.scheduler.paused = paused
            case wire.CatchUp():
                self.lifecycle.catch_up_when_idle = message.on
            case _:
                raise TransportError(f"a {role} peer does not send {type(message).__name__}")

    def _answer(self, identity: bytes, read: int) -> None:
        """Send the state, unless this peer has not read what it was sent: ZeroMQ would keep it.

        Raises
        ------
        TransportError
            If it goes on asking.
        """
        sent, asked = self._answers.get(identity, (0, 0))
        if sent - read < MAX_UNREAD:
            self._answers[identity] = sent + 1, 0
            self.lifecycle.send(identity, self.status(), None)
            return
        self._answers[identity] = sent, asked + 1
        if asked > MAX_ASKED:
            raise TransportError("it asks for the state and does not read the answers")

    def show(self) -> None:
        """Send the newest frame to the views that wait for it."""
        for identity, after in list(self._waiting.items()):
            if newest := self.lifecycle.writer.preview.newest(after):
                del self._waiting[identity]
                self.lifecycle.send(identity, newest[0], newest[1])  # type: ignore[arg-type]

    def tell_outcomes(self) -> None:
        """Send what became of frames to the views that wait for it."""
        log = self.lifecycle.outcomes
        for identity, after in list(self._following.items()):
            if log.serial > after:
                del self._following[identity]
                self.lifecycle.send(identity, log.after(after), None)

    def forget(self, identity: bytes) -> None:
        """A control peer or a view has gone."""
        self._following.pop(identity, None)
        self._waiting.pop(identity, None)
        self._answers.pop(identity, None)

    def status(self) -> wire.Status:
        """State of the daemon."""
        lifecycle, scheduler = self.lifecycle, self.lifecycle.scheduler
        details, statistics = lifecycle.acquisitions.details(), lifecycle.statistics
        return wire.Status(
            version=__version__,
            pid=os.getpid(),
            workers=self.pool.ready,
            engine=self.pool.engine,
            acquisitions={about.id: about.counts for about in details},
            stopping=lifecycle.stopping,
            details=details,
            crew=self.pool.describe(),
            ring_nbytes=scheduler.ring_nbytes,
            ring_free=scheduler.free_nbytes,
            paused=scheduler.paused,
            catch_up=lifecycle.catch_up_when_idle,
            frames=statistics.frames,
            verdicts=statistics.verdicts,
            doubted=list(statistics.doubted),
            unseen=len(statistics.unseen),
            unseen_last=list(statistics.unseen.values())[-MAX_UNSEEN:],
            stages=statistics.stages,
            raw_nbytes=statistics.raw_nbytes,
            serial=lifecycle.writer.preview.serial,
            uptime_s=statistics.uptime_s,
        )
