"""Ends this process when its parent has ended, for whatever reason.

The parent holds the other end of our standard input and never writes to it
again, so that an end of file means that it has ended, on every system.  On Linux,
the kernel sends a signal as well, in case this process is stopped or stuck in native code.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Exit at once when standard input ends, i.e. when the parent has ended."""
    if sys.platform == "linux":
        # Without libc (musl builds use another name), the pipe alone must suffice.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    watch_stdin(lambda: os._exit(1))


def watch_stdin(ended: Callable[[], object]) -> threading.Thread:
    """Call `ended` from a thread of its own when standard input reaches its end.

    The rest of the process then finds its standard input empty.  On Windows, a call that asks for the type of
    a pipe waits until a pending read of it returns, and some libraries make this call when they are loaded.
    """
    own = -1
    # A closed or broken pipe counts as an end, too.
    with contextlib.suppress(OSError):
        own = os.dup(0)
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)

    def wait() -> None:
        # The descriptor, because the interpreter cannot end while a thread waits in `sys.stdin`.
        with contextlib.suppress(OSError):
            while os.read(own, 1024):
                pass
        ended()

    thread = threading.Thread(target=wait, name="lifeline", daemon=True)
    thread.start()
    return thread
