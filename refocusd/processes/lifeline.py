"""Ends this process when its parent is gone, however the parent ended.

The parent holds the other end of our standard input and never writes to it
again: end of file means that it is gone, on every system.  On Linux the kernel
is asked as well, for a process that is stopped or stuck in native code.
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
    """Exit at once when standard input ends, i.e. when the parent is gone."""
    if sys.platform == "linux":
        # Without libc (musl builds name it otherwise) the pipe alone has to do.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    watch_stdin(lambda: os._exit(1))


def watch_stdin(ended: Callable[[], object]) -> threading.Thread:
    """Call `ended` from a thread of its own when standard input reaches its end.

    From then on the rest of the process finds nothing in its standard input.  On Windows whoever asks for
    the type of a pipe waits for a read of it that has begun, and libraries ask when they are loaded.
    """
    own = -1
    # A closed or broken pipe is an end as well.
    with contextlib.suppress(OSError):
        own = os.dup(0)
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)

    def wait() -> None:
        # The descriptor, not `sys.stdin`: the interpreter cannot end while a thread waits in
        # the latter.
        with contextlib.suppress(OSError):
            while os.read(own, 1024):
                pass
        ended()

    thread = threading.Thread(target=wait, name="lifeline", daemon=True)
    thread.start()
    return thread
