"""Answers control peers and views: status, previews, outcomes, a pause, catch-up."""

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

#: Largest number of status answers that a peer may leave unread.
MAX_UNREAD = 2
#: Largest number of further requests that it may send meanwhile.
MAX_ASKED = 1000
#: Largest number of unseen acquisitions that the status names.
MAX_UNSEEN = 10


@dataclass(slots=True)
class Control:
    """Answers control peers and views.

    Parameters
    ----------
    lifecycle : Lifecycle
    pool : WorkerPool
    """

    lifecycle: Lifecycle
    pool: WorkerPool
    #: Views that wait for a frame, and the serial that it must be later than.
    _waiting: dict[bytes, int] = field(default_factory=dict)
    #: For each peer, the number of status answers that were sent, and of requests since the last of them.
    _answers: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    #: Views that wait for outcomes, and the last serial that they have.
    _following: dict[bytes, int] = field(default_factory=dict)

    def receive(self, identity: bytes, role: wire.Role, message: wire.Message) -> None:
        """Carry out a request of a control peer or a view.

        Raises
        ------
        TransportError
            If a peer of this role may not send this request, or sends too many.
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
        """Send the status, unless the peer has not read earlier answers, which ZeroMQ would keep in memory.

        Raises
        ------
        TransportError
            If the peer sends many more requests without reading the answers.
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
        """Send the outcomes of frames to the views that wait for them."""
        log = self.lifecycle.outcomes
        for identity, after in list(self._following.items()):
            if log.serial > after:
                del self._following[identity]
                self.lifecycle.send(identity, log.after(after), None)

    def forget(self, identity: bytes) -> None:
        """Forget a control peer or a view that has gone."""
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
