"""Children of the daemon that are no workers: started, kept alive, never waited for."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Sequence

__all__ = ["Keeper"]

log = logging.getLogger(__name__)

FIRST_BACK_OFF_S, MAX_BACK_OFF_S = 0.5, 30.0
#: A process that lived this long was well: the next one is started soon again.
HEALTHY_S = 30.0


class Keeper:
    """Keeps one process alive from `start` to `stop`; whatever becomes of it, we go on.

    The process ends when its standard input does (`refocusd.processes.lifeline`).

    Parameters
    ----------
    name : str
        For the log, e.g. ``the live view``.
    command : sequence of str
    order : bytes
        What the process is told first, on its standard input.
    on_line : callable, optional
        Takes the first line of its standard output; without it that is left as it is.
    hopeless : collection of int
        Exit statuses after which it is given up: its own words say why.
    fresh : collection of int
        Exit statuses that ask for a successor at once.
    stop_s : float
        It has so long to end when it is asked to.
    on_end : callable, optional
        Called when there will be no further process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        order: bytes = b"",
        *,
        on_line: Callable[[bytes], None] | None = None,
        hopeless: Collection[int] = (),
        fresh: Collection[int] = (),
        stop_s: float = 5.0,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self._command = command
        self._order = order
        self._on_line = on_line
        self._hopeless = hopeless
        self._fresh = fresh
        self._stop_s = stop_s
        self._on_end = on_end
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        # This thread lives as long as the daemon: on Linux a child that is told to end with its
        # parent ends with the thread that started it.
        self._thread = threading.Thread(target=self._keep, name=f"keeper of {name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        with self._lock:
            return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process, and its successors."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Let the process end; `stop` waits for it."""
        self._stopping.set()
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()

    def stop(self) -> None:
        """Wait for the process, which was asked to; end it if it takes too long."""
        self.ask_to_stop()
        self._thread.join(self._stop_s)
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join(self._stop_s)

    def _keep(self) -> None:
        back_off = FIRST_BACK_OFF_S
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                status = self._run_one()
                ended = f"ended (status {status})"
            except OSError as error:
                status, ended = 1, f"cannot be started ({error})"
            if self._stopping.is_set():
                break
            if status in self._hopeless:
                log.warning("%s is given up (the reason stands above); all else goes on", self.name)
                break
            if status in self._fresh or time.monotonic() - begun > HEALTHY_S:
                back_off = FIRST_BACK_OFF_S
            if status not in self._fresh:
                log.warning("%s %s; next in %.1f s", self.name, ended, back_off)
            self._stopping.wait(back_off)
            back_off = min(2 * back_off, MAX_BACK_OFF_S)
        if self._on_end is not None:
            self._on_end()

    def _run_one(self) -> int:
        with self._lock:
            if self._stopping.is_set():
                return 0
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self._on_line is not None else None,
            )
            self._process = process
        assert process.stdin is not None
        if self._order:
            # Where it is gone already, its status says so; closed, we were asked to stop meanwhile.
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write(self._order)
                process.stdin.flush()
        if self._on_line is not None:
            assert process.stdout is not None
            with process.stdout as output:
                self._on_line(output.readline())
                status = process.wait()
        else:
            status = process.wait()
        with self._lock:
            self._process = None
            with contextlib.suppress(OSError):
                process.stdin.close()
        return status
