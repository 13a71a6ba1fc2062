"""A user's script in a separate process, and what it has reported of its acquisition."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from rig import until

_SCRIPT = Path(__file__).with_name("microscope_process.py")


class MicroscopeProcess:
    """A real MMCore with the demo specimen: starts in three seconds, then acquires repeatedly.

    Attributes
    ----------
    saved : dict of str to int
        Canonical axes → checksum of the pixels, for the frames of the current
        acquisition that pycromanager reported as saved.
    raw : Path
        Its dataset, available once a frame is saved.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="microscope")
        self._reader.start()
        self.saved: dict[str, int] = {}
        self.raw = Path()
        self.acquired = False
        self.done = False
        self.counts: dict[str, int] | None = None
        self._ready = False

    def __enter__(self) -> Self:
        until(lambda: self._look() or self._ready, "the microscope's start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10.0 if error is None else 1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def acquire(self, endpoint: str, directory: Path, name: str, **more: Any) -> None:
        """Begin an acquisition (`microscope_process.Order`) without waiting for anything."""
        self.saved, self.raw = {}, Path()
        self.acquired = self.done = False
        self.counts = None
        order = {"endpoint": endpoint, "directory": str(directory), "name": name, **more}
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End an acquisition of unlimited length (`frames=0`)."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def wait_saved(self, frames: int) -> None:
        """Wait until this many frames of the acquisition are saved."""
        until(lambda: self._look() or len(self.saved) >= frames, f"frame {frames}")

    def wait_acquired(self) -> None:
        """Wait for the end of the acquisition itself, whatever the daemon does."""
        until(lambda: self._look() or self.acquired, "the acquisition's end")

    def wait_done(self) -> None:
        """Wait until the source has finished waiting for the daemon."""
        until(lambda: self._look() or self.done, "the source's end")

    def kill(self) -> None:
        """SIGKILL the process; `saved` holds all that it had reported."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._look()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # A line that a kill cut short does not count.
            with contextlib.suppress(msgspec.DecodeError):
                self._said.put(msgspec.json.decode(line))

    def _look(self) -> Literal[False]:
        """Process new reports; returns False, so that it can precede a condition with `or`."""
        while not self._said.empty():
            said = self._said.get()
            match said["said"]:
                case "ready":
                    self._ready = True
                case "saved":
                    self.saved[said["axes"]] = said["checksum"]
                    self.raw = Path(said["raw"])
                case "acquired":
                    self.acquired = True
                case "done":
                    self.done = True
                    self.counts = said["counts"]
        return False
