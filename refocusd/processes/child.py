"""A child process: it is started with an order, watched, and ended within a bounded time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

import msgspec

from refocusd.processes.order import encode_order


class Child:
    """A Python process that ends when its standard input does (`refocusd.processes.lifeline`).

    Parameters
    ----------
    arguments : sequence of str
        Arguments of the interpreter, e.g. ``["-m", "refocusd.worker"]``.
    order : msgspec.Struct, optional
        Written to its standard input.
    output : int, optional
        Its standard output: `subprocess.PIPE`, `subprocess.DEVNULL`, or None for ours.
    errors : file or int, optional
        Its standard error; ours unless given.
    environment : mapping, optional
        Variables that are added to ours, or that replace them.

    Attributes
    ----------
    process : subprocess.Popen

    Raises
    ------
    OSError
        If it cannot be started.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        order: msgspec.Struct | None = None,
        *,
        output: int | None = None,
        errors: IO[bytes] | int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env={**os.environ, **(environment or {})},
        )
        if order is not None:
            assert self.process.stdin is not None
            # If the child has ended already, its exit status says so.
            with contextlib.suppress(OSError):
                self.process.stdin.write(encode_order(order))
                self.process.stdin.flush()

    def read_line(self) -> bytes:
        """The next line of its standard output, which is a pipe; empty if it ended without one."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask_to_stop(self) -> None:
        """Close its standard input, which asks it to stop on every operating system."""
        self._close(self.process.stdin)

    def wait(self) -> int:
        """Wait until it ends, and return its exit status."""
        status = self.process.wait()
        self._close(self.process.stdin)
        self._close(self.process.stdout)
        return status

    def stop(self, timeout_s: float) -> int:
        """Ask it to stop, kill it if that takes longer than `timeout_s`, and return its exit status."""
        self.ask_to_stop()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return self.wait()

    @staticmethod
    def _close(pipe: IO[bytes] | None) -> None:
        if pipe is not None:
            # A broken pipe means that the child has ended already.
            with contextlib.suppress(OSError):
                pipe.close()
