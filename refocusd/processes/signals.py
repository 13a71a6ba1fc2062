"""Requests to stop a process: signals, and on Windows the end of its console or session."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable

#: CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT.
_ENDS = frozenset({2, 5, 6})


def stop_asked() -> threading.Event:
    """An event that is set when this process is asked to stop.

    That is Ctrl-C or SIGTERM, and on Windows Ctrl-Break, a closed console window, logging off or
    shutting down.
    """
    asked = threading.Event()
    # Handlers only set a flag: the interrupted thread could hold a lock that a handler needs.
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: asked.set())
    _on_end(asked.set)
    return asked


def leave_signals_to_parent() -> None:
    """Ignore signals from a terminal: the parent receives them too, and tells this process when to stop."""
    for name in ("SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _on_end(lambda: None)


def _handler(ask: Callable[[], object]) -> Callable[[int], bool]:
    """The function that Windows calls, in a separate thread, for each event of the console."""

    def handle(event: int) -> bool:
        if event not in _ENDS:
            return False  # Ctrl-C and Ctrl-Break are signals
        ask()
        # Windows ends the process when this returns, or after some seconds (5 if a window
        # was closed).  Until then the process has time to end by itself.
        threading.Event().wait()
        return True

    return handle


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _Handler = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)
    #: Windows keeps only their addresses.
    _kept: list[object] = []

    def _on_end(ask: Callable[[], object]) -> None:
        # Python's own handler treats each of these events as Ctrl-Break, and returns at once.
        # The handler that was added last is called first.
        handler = _Handler(_handler(ask))
        _kept.append(handler)
        ctypes.WinDLL("kernel32").SetConsoleCtrlHandler(handler, True)

else:

    def _on_end(ask: Callable[[], object]) -> None:
        """Do nothing: on other systems, these events are signals."""
