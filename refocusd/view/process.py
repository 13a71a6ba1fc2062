"""The view as a child of the daemon: started, kept alive, and never waited for."""

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

from refocusd.view.serve import Announcement

__all__ = ["ViewProcess"]

log = logging.getLogger(__name__)

FIRST_BACK_OFF_S, MAX_BACK_OFF_S = 0.5, 30.0
#: A view that lived this long was well: the next one is started soon again.
HEALTHY_S = 30.0
STOP_S = 5.0
#: Exit status of a view that cannot work: a taken port, unusable TLS files.
_CANNOT = 2


class ViewProcess:
    """``python -m refocusd.view`` for as long as the `with` statement lasts.

    Whatever happens to it, the daemon goes on: a view that ends is started
    again, one that cannot work is given up with a line in the log.

    Parameters
    ----------
    endpoint : str
        Of the daemon.
    flags : list of str
        Further flags, e.g. ``["--port", "8750"]``.

    Attributes
    ----------
    url : str
        Of the page, once it listens; empty before, and when it was given up.
    """

    def __init__(self, endpoint: str, flags: list[str] | None = None) -> None:
        self._command = [sys.executable, "-m", "refocusd.view", "--announce", "--with-parent"]
        self._command += ["--endpoint", endpoint, *(flags or [])]
        self.url = ""
        #: Set once the page can be asked for, or never will.
        self.settled = threading.Event()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        # This thread lives as long as the daemon: on Linux a child that is told to end with its
        # parent ends with the thread that started it.
        self._thread = threading.Thread(target=self._keep, name="view-keeper", daemon=True)

    @property
    def pid(self) -> int | None:
        """Of the running process, if there is one."""
        with self._lock:
            return self._process.pid if self._process is not None else None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                # The end of its standard input is the end of the view.
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
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
                log.warning("the live view cannot be started: %s", error)
                status = _CANNOT
            if self._stopping.is_set():
                break
            if status == _CANNOT:
                log.warning("there is no live view (the reason stands above); all else goes on")
                break
            if time.monotonic() - begun > HEALTHY_S:
                back_off = FIRST_BACK_OFF_S
            log.warning("the live view ended (status %d); next in %.1f s", status, back_off)
            self._stopping.wait(back_off)
            back_off = min(2 * back_off, MAX_BACK_OFF_S)
        self.url = ""
        self.settled.set()

    def _run_one(self) -> int:
        with self._lock:
            if self._stopping.is_set():
                return 0
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._process = process
        assert process.stdout is not None
        assert process.stdin is not None
        with process.stdout as output:
            line = output.readline()
            with contextlib.suppress(msgspec.MsgspecError):
                self.url = msgspec.json.decode(line, type=Announcement).url
                self.settled.set()
            status = process.wait()
        with self._lock:
            self._process = None
            with contextlib.suppress(OSError):
                process.stdin.close()
        return status
