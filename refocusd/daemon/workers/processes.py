"""The worker processes of a daemon: one supervisor each."""

from __future__ import annotations

import logging
import secrets
import threading
import time

import msgspec

from refocusd.backoff import BackOff
from refocusd.config import Settings
from refocusd.daemon.events import EventQueue, WorkerGone, WorkersGaveUp
from refocusd.processes.supervisor import Action, End, Supervisor
from refocusd.worker.order import WorkerOrder

log = logging.getLogger(__name__)

FIRST_BACK_OFF_S = 0.1
#: After a worker that could start: the next frame is promised within five seconds of its end,
#: which includes the start.
MAX_BACK_OFF_READY_S = 2.0
#: A worker that lived this long was healthy.
HEALTHY_S = 10.0
#: A worker that ends this many times in a row before it can take a frame is broken.
MAX_FAILED_STARTS = 3
#: How long a worker that was told to stop may take.
STOP_S = 5.0


class WorkerProcesses:
    """Keeps `settings.workers` worker processes running until `stop`.

    Parameters
    ----------
    settings : Settings
    endpoint, token : str
        Where the workers find the daemon, and what they prove themselves with.
    event_queue : EventQueue
        Told when a worker has ended, or none can be started.
    """

    def __init__(
        self, settings: Settings, endpoint: str, token: str, event_queue: EventQueue
    ) -> None:
        self._events = event_queue
        self._order = WorkerOrder(
            endpoint=endpoint,
            identity="",
            token=token,
            models=settings.models,
            options=settings.engine_options,
            inline=settings.inline,
        )
        self._ready: set[str] = set()
        self._killed: set[str] = set()
        #: A worker could start once: later failures are the machine's, and may pass.
        self._proved = False
        self._lock = threading.Lock()
        self._supervisors = [self._supervisor(number) for number in range(settings.workers)]

    def start(self) -> None:
        """Start the workers."""
        for supervisor in self._supervisors:
            supervisor.start()

    def kill(self, identity: str) -> None:
        """End a worker process that does not answer; it is replaced."""
        for supervisor in self._supervisors:
            if supervisor.identity == identity:
                with self._lock:
                    self._killed.add(identity)
                supervisor.kill()

    def was_ready(self, identity: str) -> None:
        """Note that a worker could start: its end is then no failed start."""
        if identity in self.pids():
            with self._lock:
                self._ready.add(identity)
                self._proved = True

    def no_more(self) -> None:
        """Start no worker again."""
        for supervisor in self._supervisors:
            supervisor.no_more()

    def pids(self) -> dict[str, int]:
        """Process ids of the running workers, by identity."""
        return {
            supervisor.identity: pid
            for supervisor in self._supervisors
            if (pid := supervisor.pid) is not None
        }

    def stop(self) -> None:
        """Wait for workers that were told to stop, and kill those that do not."""
        self.no_more()
        for identity in set(self.pids()) - self._ready:
            # Nobody is left to tell it to stop, and it holds no frame.
            self.kill(identity)
        deadline = time.monotonic() + STOP_S
        for supervisor in self._supervisors:
            if not supervisor.join(max(0.0, deadline - time.monotonic())):
                log.warning("%s did not stop: killed", supervisor.identity)
                supervisor.stop()

    def _supervisor(self, number: int) -> Supervisor:
        back_off = BackOff(FIRST_BACK_OFF_S, healthy_s=HEALTHY_S)
        failed_starts = 0

        def decide(end: End) -> Action:
            nonlocal failed_starts
            self._events.put(WorkerGone(end.identity))
            with self._lock:
                was_ready, was_killed = end.identity in self._ready, end.identity in self._killed
                self._ready.discard(end.identity)
                self._killed.discard(end.identity)
            if was_ready:
                failed_starts = 0
                back_off.limit(MAX_BACK_OFF_READY_S)
            elif not was_killed:
                failed_starts += 1
            if failed_starts < MAX_FAILED_STARTS or self._proved:
                return Action.RESTART
            self._events.put(
                WorkersGaveUp(
                    f"a worker ended {failed_starts} times with status {end.status} before it could "
                    "work; its last message is in the log above"
                )
            )
            return Action.GIVE_UP

        return Supervisor(
            # Nobody can have taken the name of a worker before that connects: ZeroMQ would not hear it.
            f"worker-{number}-{secrets.token_hex(4)}",
            ["-m", "refocusd.worker"],
            order=lambda identity: msgspec.structs.replace(self._order, identity=identity),
            on_end=decide,
            back_off=back_off,
            stop_s=STOP_S,
        )
