"""Worker processes, kept alive: one thread each, which starts, waits and starts again."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time

import msgspec

from refocusd.config import Settings
from refocusd.daemon.events import EventQueue, WorkerGone, WorkersGaveUp
from refocusd.worker.order import WorkerOrder

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)

FIRST_BACK_OFF_S = 0.1
MAX_BACK_OFF_S = 30.0
#: After one that could start: with the start itself, five seconds to the next frame are promised.
MAX_BACK_OFF_READY_S = 2.0
#: A worker that lived this long was healthy: the next one is started at once again.
HEALTHY_S = 10.0
#: So many ends in a row before a worker took a frame are not chance.
MAX_FAILED_STARTS = 3
#: What a worker that was told to stop may still take.
STOP_S = 5.0


class Supervisor:
    """Keeps `settings.workers` worker processes running until `stop`.

    Parameters
    ----------
    settings : Settings
    endpoint, token : str
        Where the workers find the daemon, and their proof.
    mailbox : EventQueue
        Told when a worker has ended, or none can be started.
    """

    def __init__(self, settings: Settings, endpoint: str, token: str, mailbox: EventQueue) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._token = token
        self._mailbox = mailbox
        self._stopping = threading.Event()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._killed: set[str] = set()
        self._ready: set[str] = set()
        #: A worker could start once: later failures are the machine's, and may pass.
        self._proved = False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), name=f"supervisor-{number}")
            for number in range(settings.workers)
        ]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def kill(self, identity: str) -> None:
        """End a worker process that does not answer; it is replaced."""
        with self._lock:
            if process := self._running.get(identity):
                self._killed.add(identity)
                process.kill()

    def was_ready(self, identity: str) -> None:
        """Note that a worker could start: its end is then no failed start."""
        with self._lock:
            if identity in self._running:
                self._ready.add(identity)
                self._proved = True

    def no_more(self) -> None:
        """Start no worker again."""
        self._stopping.set()

    def pids(self) -> dict[str, int]:
        """Process ids of the running workers, by identity."""
        with self._lock:
            return {identity: process.pid for identity, process in self._running.items()}

    def stop(self) -> None:
        """Wait for workers that were told to stop, kill those that do not, join the threads."""
        self._stopping.set()
        with self._lock:
            starting = set(self._running) - self._ready
        for identity in starting:
            # Nobody is there any more to tell it to stop, and it holds no frame.
            self.kill(identity)
        deadline = time.monotonic() + STOP_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        for identity in list(self.pids()):
            log.warning("%s did not stop: killed", identity)
            self.kill(identity)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _keep(self, number: int) -> None:
        # The thread lives as long as the daemon: on Linux a worker is told to end with the
        # thread that started it.
        back_off = FIRST_BACK_OFF_S
        failed_starts = 0
        generation = 0
        while not self._stopping.is_set():
            generation += 1
            identity = f"worker-{number}.{generation}"
            begun = time.monotonic()
            try:
                status = self._run_one(identity)
            except OSError as error:
                # No memory, no more processes: what ended the worker before may well be that.
                log.error(
                    "%s cannot be started (%s); next try in %.1f s", identity, error, back_off
                )
                self._stopping.wait(back_off)
                back_off = min(back_off * 2, MAX_BACK_OFF_S)
                continue
            if self._stopping.is_set():
                return
            lived = time.monotonic() - begun
            self._mailbox.put(WorkerGone(identity))
            with self._lock:
                was_ready = identity in self._ready
                if was_ready:
                    failed_starts = 0
                elif identity not in self._killed:
                    failed_starts += 1
                self._killed.discard(identity)
                self._ready.discard(identity)
            if failed_starts >= MAX_FAILED_STARTS and not self._proved:
                self._mailbox.put(
                    WorkersGaveUp(
                        f"a worker ended {failed_starts} times with status {status} before it could "
                        "work; its last message is in the log above"
                    )
                )
                return
            if lived > HEALTHY_S:
                back_off = FIRST_BACK_OFF_S
            elif was_ready:
                back_off = min(back_off, MAX_BACK_OFF_READY_S)
            log.warning("%s ended (status %d); next in %.1f s", identity, status, back_off)
            self._stopping.wait(back_off)
            back_off = min(back_off * 2, MAX_BACK_OFF_S)

    def _run_one(self, identity: str) -> int:
        settings = self._settings
        order = WorkerOrder(
            endpoint=self._endpoint,
            identity=identity,
            token=self._token,
            models=settings.models,
            options=settings.engine_options,
            inline=settings.inline,
        )
        # Standard output is ours (the parent may read it): a worker has nothing to say there.
        process = subprocess.Popen(
            [sys.executable, "-m", "refocusd.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        with self._lock:
            self._running[identity] = process
        # Where it has ended already, its status says so.
        with contextlib.suppress(OSError):
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()
        # Standard input stays open: its end is how the worker learns that we are gone.
        status = process.wait()
        with self._lock:
            del self._running[identity]
        with contextlib.suppress(OSError):
            process.stdin.close()
        return status
