"""Signals that ask a process to stop."""

from __future__ import annotations

import signal
import threading

__all__ = ["stop_asked"]


def stop_asked() -> threading.Event:
    """An event that Ctrl-C, SIGTERM or (on Windows) Ctrl-Break sets from now on."""
    asked = threading.Event()
    # Handlers only set a flag: a lock taken in one could be held by the thread it interrupts.
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: asked.set())
    return asked
