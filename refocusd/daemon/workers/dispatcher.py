"""Frames on their way to workers and back; workers that are lost or hang."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from refocusd.config import Settings
from refocusd.daemon.acquisitions.lifecycle import Lifecycle
from refocusd.daemon.acquisitions.results import Results
from refocusd.daemon.acquisitions.scheduler import Scheduler
from refocusd.daemon.workers.describe import describe_engine
from refocusd.daemon.workers.pool import WorkerPool
from refocusd.errors import TransportError
from refocusd.transport import messages as wire
from refocusd.transport.client import SILENCE_S
from refocusd.transport.secure.endpoints import Doors

__all__ = ["Dispatcher", "WorkerControl"]

log = logging.getLogger(__name__)


class WorkerControl(Protocol):
    """What is asked of the supervisor of the worker processes."""

    def kill(self, identity: str) -> None:
        """End a worker that does not answer; it is replaced."""

    def was_ready(self, identity: str) -> None:
        """Note that a worker could start."""

    def no_more(self) -> None:
        """Start no worker again."""


@dataclass(slots=True)
class Dispatcher:
    """Gives frames to free workers and takes their answers.

    Parameters
    ----------
    settings, endpoints, pool, scheduler, lifecycle, results
        See their classes.
    supervisor : WorkerControl
    on_ready : callable
        Called whenever a worker has become ready.
    """

    settings: Settings
    endpoints: Doors
    pool: WorkerPool
    scheduler: Scheduler
    lifecycle: Lifecycle
    results: Results
    supervisor: WorkerControl
    on_ready: Callable[[], None]

    def dispatch(self) -> None:
        """Send waiting frames to workers, as far as there are free ones."""
        while (worker := self.pool.free()) and (found := self.scheduler.next_task()):
            task, acquisition = found
            focus = self.lifecycle.focus.ask(acquisition, task.submit)
            self.pool.assign(worker, task, acquisition, focus)

    def join(self, identity: bytes, message: wire.Hello, remote: str | None) -> None:
        """A worker has connected; one that lost its link holds no frames any more."""
        self.results.requeue(self.pool.lose(identity))
        inline = message.inline or bool(remote)
        self.pool.join(identity, pid=message.pid, inline=inline, remote=remote or "")

    def lose(self, identity: bytes, *, cut: bool = False) -> None:
        """A worker is gone, or (`cut`) its link is: its frames go to others."""
        self.results.requeue(self.pool.lose(identity, cut=cut))

    def receive(self, identity: bytes, message: wire.Message, part: memoryview | None) -> None:
        """A message of a worker.

        Raises
        ------
        TransportError
            If a worker may not send that.
        """
        match message:
            case wire.Ready():
                self._ready(identity, message)
            case wire.Result():
                # Nobody waits for the answer of a worker that was presumed hung.
                if task := self.pool.take_back(identity, message.task):
                    try:
                        self.pool.fill(identity, task, part)
                    except TransportError as error:
                        self.results.fail(task, str(error))
                    else:
                        engine = self.pool.engine_of(identity, task.channel)
                        self.results.write(task, message, engine)
            case wire.Failure():
                if task := self.pool.take_back(identity, message.task):
                    self.results.fail(task, message.reason)
            case _:
                raise TransportError(f"a worker does not send {type(message).__name__}")

    def _ready(self, identity: bytes, message: wire.Ready) -> None:
        self.pool.set_ready(identity, message)
        name = identity.decode(errors="replace")
        self.supervisor.was_ready(name)
        engine = describe_engine(message.engine)
        log.info("%s: %s, ready in %.1f s", name, engine, message.seconds)
        self.lifecycle.engine_ready(message.engine)
        self.on_ready()

    def tick(self) -> list[bytes]:
        """Replace workers that hang or are silent; returns those whose link is lost."""
        for identity in self.pool.hung(self.settings.task_timeout_s):
            self._replace(identity, "holds one frame too long")
        for identity in self.pool.silent(SILENCE_S):
            self._replace(identity, "is silent")
        lost = self.endpoints.gone()
        for identity, why in lost:
            log.warning("%s: %s; its frames go to others", identity.decode(errors="replace"), why)
            self.lose(identity, cut=True)
        return [identity for identity, _ in lost]

    def _replace(self, identity: bytes, why: str) -> None:
        name = identity.decode(errors="replace")
        if self.pool.is_remote(identity):
            self.endpoints.cut(identity, why)  # `gone` names it at the next tick
        else:
            log.warning("%s %s: replaced", name, why)
            self.supervisor.kill(name)
