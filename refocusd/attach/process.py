"""The attached sources as children of the daemon: started, kept alive, never waited for."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Self

import msgspec

from refocusd.attach.order import AGAIN, AttachOrder, orders
from refocusd.config import Settings

__all__ = ["AttachProcess"]

log = logging.getLogger(__name__)

FIRST_BACK_OFF_S, MAX_BACK_OFF_S = 0.5, 30.0
#: A process that lived this long was well: the next one is started soon again.
HEALTHY_S = 30.0
#: To close its acquisitions at the daemon.
STOP_S = 8.0


class AttachProcess:
    """``python -m refocusd.attach`` for as long as the `with` statement lasts.

    One process for the folders that are followed and one for Micro-Manager's bridge, each only
    where it is wanted.  Whatever happens to them, the daemon goes on.

    Parameters
    ----------
    endpoint : str
        Of the daemon.
    settings : Settings
        ``follow``, ``studio``, ``live``, ``bridge_port`` and ``studio_output`` say what is wanted.
    """

    def __init__(self, endpoint: str, settings: Settings) -> None:
        self._keepers = [_Keeper(order) for order in orders(settings, endpoint)]

    @property
    def sources(self) -> list[str]:
        """Names of the sources that are wanted, for the log."""
        return [name for keeper in self._keepers for name in keeper.sources]

    @property
    def pids(self) -> list[int]:
        """Of the running processes."""
        return [keeper.pid for keeper in self._keepers if keeper.pid is not None]

    def __enter__(self) -> Self:
        for keeper in self._keepers:
            keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for keeper in self._keepers:
            keeper.ask_to_stop()
        for keeper in self._keepers:
            keeper.stop()


class _Keeper:
    """Keeps one process alive."""

    def __init__(self, order: AttachOrder) -> None:
        self._order = order
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=f"{order.name}-keeper", daemon=True)

    @property
    def sources(self) -> list[str]:
        """Names of its sources."""
        return self._order.sources

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
        """Wait for the process; end it if it takes too long."""
        self._thread.join(STOP_S)
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join(STOP_S)

    def _keep(self) -> None:
        back_off = FIRST_BACK_OFF_S
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                status = self._run_one()
            except OSError as error:
                log.warning("attached sources (%s) cannot be started: %s", self._order.name, error)
                status = 1
            if self._stopping.is_set():
                break
            if status == AGAIN or time.monotonic() - begun > HEALTHY_S:
                back_off = FIRST_BACK_OFF_S
            if status != AGAIN:
                log.warning(
                    "attached sources (%s) ended (status %d); next in %.1f s",
                    self._order.name,
                    status,
                    back_off,
                )
            self._stopping.wait(back_off)
            back_off = min(2 * back_off, MAX_BACK_OFF_S)

    def _run_one(self) -> int:
        with self._lock:
            if self._stopping.is_set():
                return 0
            process = subprocess.Popen(
                [sys.executable, "-m", "refocusd.attach"], stdin=subprocess.PIPE
            )
            self._process = process
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            # Gone already: its status says so.
            process.stdin.write(msgspec.json.encode(self._order) + b"\n")
            process.stdin.flush()
        status = process.wait()
        with self._lock:
            self._process = None
            with contextlib.suppress(OSError):
                process.stdin.close()
        return status
