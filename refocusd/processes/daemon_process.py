"""A daemon as a child process: what `demo` and `replay` start, as a user would."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from refocusd.errors import OutputError, WorkerError

__all__ = ["Announcement", "DaemonProcess"]

#: A daemon stops within its own time limit; this is for one that does not.
STOP_S = 120.0


class Announcement(msgspec.Struct, frozen=True):
    """The line that ``refocusd run --announce`` prints once it is ready."""

    endpoint: str
    pid: int


class DaemonProcess:
    """``refocusd run`` as a child, on a free port; stopped cleanly on leaving.

    Parameters
    ----------
    flags : list of str
        Further flags of ``refocusd run``.
    log : path
        Where the daemon's messages go.

    Raises
    ------
    WorkerError
        On entering, with the daemon's own words, if it does not become ready.
    """

    def __init__(self, flags: list[str], log: Path) -> None:
        self._flags = flags
        self._log = log
        self.endpoint = ""

    def __enter__(self) -> Self:
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            log = self._log.open("ab")
        except OSError as error:
            raise OutputError(
                f"{self._log.parent} cannot be written to ({error.strerror}); choose another --output"
            ) from error
        command = [sys.executable, "-m", "refocusd", "run", "--announce", "--with-parent"]
        # A free port unless the caller names one.
        # A daemon for one purpose does not take up what another left.
        command += ["--endpoint", "tcp://127.0.0.1:0", "--no-pick-up", "--no-view"]
        # ... and does not look for work.
        command += ["--studio", "off", "--no-live"]
        command += self._flags
        with log:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        output = self.process.stdout
        assert output is not None
        line = output.readline()
        if not line:
            status = self.process.wait()
            self._close_pipes()
            raise WorkerError(self._last_words(status))
        self.endpoint = msgspec.json.decode(line, type=Announcement).endpoint
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The end of its standard input asks the daemon to stop, on every system.
        self._close(self.process.stdin)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._close(self.process.stdin)
        self._close(self.process.stdout)

    @staticmethod
    def _close(pipe: IO[bytes] | None) -> None:
        if pipe is not None:
            # Where the other end is gone already, that is what was wanted.
            with contextlib.suppress(OSError):
                pipe.close()

    def _last_words(self, status: int) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = next(
            (line for line in reversed(lines) if "error:" in line), lines[-1] if lines else ""
        )
        return said.partition("error: ")[2] or f"the daemon ended with status {status}: {said}"
