"""A daemon as a child process, which `demo` and `replay` start as a user would."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

import msgspec

from refocusd.errors import OutputError, WorkerError
from refocusd.files import for_its_user
from refocusd.processes.child import Child

#: The daemon is killed if it takes longer than this to stop; it has a shorter time limit of its own.
STOP_S = 120.0


class Announcement(msgspec.Struct, frozen=True):
    """The line that ``refocusd run --announce`` prints once it is ready."""

    endpoint: str
    pid: int


class DaemonProcess:
    """``refocusd run`` as a child, on a free port; a context manager that stops it cleanly.

    Parameters
    ----------
    flags : list of str
        Further flags of ``refocusd run``.
    log : path
        Where the daemon's messages go.

    Raises
    ------
    OutputError
        On entering, if the log cannot be written.
    WorkerError
        On entering, with the daemon's own error message, if it does not become ready.
    """

    def __init__(self, flags: list[str], log: Path) -> None:
        self._flags = flags
        self._log = log
        self.endpoint = ""

    def __enter__(self) -> Self:
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            log = open(self._log, "ab", opener=for_its_user)
        except OSError as error:
            raise OutputError(
                f"{self._log.parent} cannot be written to ({error.strerror}); choose another --output"
            ) from error
        command = ["-m", "refocusd", "run", "--announce", "--with-parent"]
        # A free port unless the caller names one.
        command += ["--endpoint", "tcp://127.0.0.1:0", "--no-view"]
        # A daemon for a single purpose neither resumes old acquisitions nor looks for new ones, and its
        # microscope, which may be simulated, is of no use to others.
        command += ["--no-pick-up", "--studio", "off", "--no-live", "--no-self-calibrate"]
        command += self._flags
        with log:
            self._child = Child(command, output=subprocess.PIPE, errors=log)
        line = self._child.read_line()
        if not line:
            raise WorkerError(self._last_words(self._child.wait()))
        self.endpoint = msgspec.json.decode(line, type=Announcement).endpoint
        return self

    def __exit__(self, *_error: object) -> None:
        self._child.stop(STOP_S)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The daemon's process."""
        return self._child.process

    def _last_words(self, status: int) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = next(
            (line for line in reversed(lines) if "error:" in line), lines[-1] if lines else ""
        )
        return said.partition("error: ")[2] or f"the daemon ended with status {status}: {said}"
