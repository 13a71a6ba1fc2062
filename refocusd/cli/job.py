"""``python -m refocusd.cli.job COMMAND ...``: a sub-command, for a program that shows its progress.

Standard output carries what a terminal would show.  Lines that begin with a record separator
(RFC 7464) are JSON for the program: ``progress``, several times, and at the end ``result``, which is
what the command's ``--json FILE`` writes.  No other line begins with one: control characters in
names and metadata are made visible before they are printed.

The command is interrupted when standard input ends, as by Ctrl-C in a terminal.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refocusd.cli.console import tell_progress
from refocusd.cli.main import main
from refocusd.processes.lifeline import watch_stdin

#: How long the command may take to end once it is interrupted.
GRACE_S = 15.0
#: A longer result, such as that of a dataset with problems in every frame, is left out.
MAX_RESULT_NBYTES = 1 << 18
INTERRUPTED = 130


def run_job(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # before the command has begun
        return INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    # A parent that ignores SIGINT passes that on to its children.
    signal.signal(signal.SIGINT, _interrupted)
    watch_stdin(_interrupt)
    tell_progress(
        lambda what, done, total: _tell("progress", {"what": what, "done": done, "total": total})
    )
    with tempfile.TemporaryDirectory(prefix="refocusd-job-", ignore_cleanup_errors=True) as folder:
        result = Path(folder) / "result.json"
        status = main([*arguments, "--json", str(result)])
        if result.exists() and result.stat().st_size <= MAX_RESULT_NBYTES:
            _tell("result", json.loads(result.read_bytes()))
    return status


def _tell(name: str, value: Any) -> None:
    sys.stdout.write(f"\x1e{json.dumps({name: value})}\n")


def _interrupted(_signal: int, _frame: object) -> None:
    # Only once: Ctrl-C reaches every process of a terminal, and then standard input ends as well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupt() -> None:
    """Interrupt the main thread as Ctrl-C does, and end the process if it does not react."""
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        # To the main thread: only a signal to that thread interrupts its wait for a lock.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(GRACE_S)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(run_job(sys.argv[1:]))
