"""Keeps one child process alive: starts it, watches it, and restarts it after a back-off."""

from __future__ import annotations

import enum
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from refocusd.backoff import BackOff
from refocusd.processes.child import Child

log = logging.getLogger(__name__)


class Action(enum.Enum):
    """How a supervisor reacts to the end of its child."""

    RESTART = enum.auto()
    #: Like RESTART, but the end is not a failure: there is no warning, and the back-off starts over.
    REPLACE = enum.auto()
    GIVE_UP = enum.auto()


@dataclass(frozen=True, slots=True)
class End:
    """How a child ended.

    Parameters
    ----------
    identity : str
        The supervisor's name and the number of the start, e.g. ``worker-0.3``.
    status : int
        Its exit status.
    """

    identity: str
    status: int


class Supervisor:
    """Keeps one process alive from `start` to `stop`, without blocking its caller.

    Parameters
    ----------
    name : str
        For the log, e.g. ``the live view``.
    arguments : sequence of str
        As for `Child`.
    order : callable, optional
        Makes the order of the process with the given identity.
    on_line : callable, optional
        Receives each line of the standard output, which is discarded otherwise.
    on_end : callable, optional
        Called after each unrequested end; decides how to continue.
    on_over : callable, optional
        Called when no further process will be started.
    back_off : BackOff, optional
    stop_s : float
        How long the process may take to end when it is asked to, in seconds.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        order: Callable[[str], msgspec.Struct] | None = None,
        on_line: Callable[[bytes], None] | None = None,
        on_end: Callable[[End], Action] = lambda _: Action.RESTART,
        on_over: Callable[[], None] | None = None,
        back_off: BackOff | None = None,
        stop_s: float = 5.0,
    ) -> None:
        self.name = name
        self._arguments = arguments
        self._order = order
        self._on_line = on_line
        self._on_end = on_end
        self._on_over = on_over
        self._back_off = back_off or BackOff()
        self._stop_s = stop_s
        self._stopping = threading.Event()
        self._child: Child | None = None
        self._identity = ""
        self._lock = threading.Lock()
        # This thread lives as long as the daemon: on Linux, a child that ends with its parent
        # (`lifeline`) ends with the thread that started it.
        self._thread = threading.Thread(
            target=self._keep, name=f"supervisor of {name}", daemon=True
        )

    @property
    def pid(self) -> int | None:
        """Process id, while there is a process."""
        with self._lock:
            return self._child.process.pid if self._child is not None else None

    @property
    def identity(self) -> str:
        """Identity of the process; empty while there is none."""
        with self._lock:
            return self._identity if self._child is not None else ""

    def start(self) -> None:
        """Start the process, and a successor whenever it ends."""
        self._thread.start()

    def no_more(self) -> None:
        """Start no successor."""
        self._stopping.set()

    def ask_to_stop(self) -> None:
        """Close the process's standard input, and start no successor."""
        self.no_more()
        with self._lock:
            if self._child is not None:
                self._child.ask_to_stop()

    def kill(self) -> None:
        """End the process at once."""
        with self._lock:
            if self._child is not None:
                self._child.process.kill()

    def join(self, timeout_s: float) -> bool:
        """Wait for the last process, after `no_more` or `ask_to_stop`; False on time-out."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Ask the process to stop, and kill it if it takes longer than `stop_s`."""
        self.ask_to_stop()
        if not self.join(self._stop_s):
            self.kill()
            self.join(self._stop_s)

    def _keep(self) -> None:
        starts = 0
        while not self._stopping.is_set():
            starts += 1
            identity = f"{self.name}.{starts}"
            begun = time.monotonic()
            try:
                end = End(identity, self._run(identity))
            except OSError as error:
                # The system has no memory or process ids left.  The previous process may have ended for
                # that reason, and the shortage may pass.
                wait_s = self._back_off.take_s()
                log.error("%s cannot be started (%s); next in %.1f s", identity, error, wait_s)
                self._stopping.wait(wait_s)
                continue
            if self._stopping.is_set():
                break
            action = self._on_end(end)
            if action is Action.GIVE_UP:
                log.warning("%s is not restarted (see above); everything else continues", self.name)
                break
            if action is Action.REPLACE:
                self._back_off.reset()
            wait_s = self._back_off.take_s(time.monotonic() - begun)
            if action is Action.RESTART:
                log.warning("%s ended (status %d); next in %.1f s", identity, end.status, wait_s)
            self._stopping.wait(wait_s)
        if self._on_over is not None:
            self._on_over()

    def _run(self, identity: str) -> int:
        order = self._order(identity) if self._order is not None else None
        output = subprocess.DEVNULL if self._on_line is None else subprocess.PIPE
        with self._lock:
            if self._stopping.is_set():
                return 0
            child = self._child = Child(self._arguments, order, output=output)
            self._identity = identity
        if self._on_line is not None:
            for line in iter(child.read_line, b""):
                self._on_line(line)
        status = child.wait()
        with self._lock:
            self._child = None
        return status
