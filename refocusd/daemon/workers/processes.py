"""Runs the worker processes of a daemon, each with a supervisor."""

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
#: Longest back-off after a worker that had become ready: the next frame must be done within five seconds
#: of its end, including the start of the new worker.
MAX_BACK_OFF_READY_S = 2.0
#: A worker that ran for this long counts as healthy.
HEALTHY_S = 10.0
#: The daemon gives up if workers end this many times in a row before they can take a frame.
MAX_FAILED_STARTS = 3
#: Time limit for a worker that was told to stop.
STOP_S = 5.0


class WorkerProcesses:
    """Keeps `settings.workers` worker processes running until `stop`.

    Parameters
    ----------
    settings : Settings
    endpoint, token : str
        The daemon's address, and the proof that it started the workers.
    event_queue : EventQueue
        Receives `WorkerGone` and `WorkersGaveUp`.
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
        #: Whether a worker has become ready once: later failures are due to the machine, and may pass.
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
        """Note that a worker has become ready, so that its end is not a failed start."""
        if identity in self.pids():
            with self._lock:
                self._ready.add(identity)
                self._proved = True

    def no_more(self) -> None:
        """Start no more workers."""
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
            # A worker that is not ready may not have been told to stop, and holds no frame.
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
            # A random name, so that no other process can connect with it first: ZeroMQ would then ignore
            # the worker.
            f"worker-{number}-{secrets.token_hex(4)}",
            ["-m", "refocusd.worker"],
            order=lambda identity: msgspec.structs.replace(self._order, identity=identity),
            on_end=decide,
            back_off=back_off,
            stop_s=STOP_S,
        )
