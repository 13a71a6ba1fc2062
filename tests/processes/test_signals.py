"""A process obeys requests to stop, except those that its parent receives and passes on."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from waiting import PATIENCE_S

from refocusd.processes import signals

pytestmark = pytest.mark.fast

CTRL_C, CTRL_BREAK = 0, 1
ENDS = {"the window is closed": 2, "logging off": 5, "shutting down": 6}

#: Windows calls a process's handlers through this function, in a separate thread.
SEND = """
import ctypes, threading
def send(event):
    threading.Thread(target=ctypes.WinDLL("kernelbase").CtrlRoutine, args=(event,), daemon=True).start()
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize("event", ENDS.values(), ids=ENDS)
def test_the_end_of_the_console_asks_to_stop_and_leaves_time_for_it(event: int) -> None:
    asked = threading.Event()
    handle = signals._handler(asked.set)
    thread = threading.Thread(target=handle, args=(event,), daemon=True)
    thread.start()
    assert asked.wait(PATIENCE_S)
    thread.join(0.1)
    assert thread.is_alive(), "Windows ends the process when its handler returns"


@pytest.mark.parametrize("event", [CTRL_C, CTRL_BREAK])
def test_what_is_a_signal_is_not_mistaken_for_the_end(event: int) -> None:
    asked = threading.Event()
    assert not signals._handler(asked.set)(event)
    assert not asked.is_set()


@pytest.mark.parametrize("name", ["SIGINT", "SIGBREAK" if sys.platform == "win32" else "SIGTERM"])
def test_a_signal_asks_to_stop(name: str) -> None:
    done = run(
        "import signal\nfrom refocusd.processes.signals import stop_asked\nasked = stop_asked()\n"
        f"signal.raise_signal(signal.{name})\nprint(asked.wait({PATIENCE_S}))"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


@pytest.mark.parametrize("name", ["SIGINT", *(["SIGBREAK"] if sys.platform == "win32" else [])])
def test_a_child_leaves_the_signals_of_the_terminal_to_its_parent(name: str) -> None:
    done = run(
        "import signal\nfrom refocusd.processes.signals import leave_signals_to_parent\n"
        f"leave_signals_to_parent()\nsignal.raise_signal(signal.{name})\nprint('alive')"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


@pytest.mark.skipif(sys.platform != "win32", reason="events of a console")
@pytest.mark.parametrize("event", ENDS.values(), ids=ENDS)
def test_windows_waits_for_a_clean_stop(event: int) -> None:
    done = run(
        f"{SEND}\nfrom refocusd.processes.signals import stop_asked\nasked = stop_asked()\n"
        f"send({event})\nprint(asked.wait({PATIENCE_S}))"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


@pytest.mark.skipif(sys.platform != "win32", reason="events of a console")
@pytest.mark.parametrize("event", [CTRL_C, CTRL_BREAK, *ENDS.values()])
def test_a_child_outlives_the_events_of_the_console(event: int) -> None:
    done = run(
        f"{SEND}\nfrom refocusd.processes.signals import leave_signals_to_parent\n"
        f"import sys, time\nleave_signals_to_parent()\nsend({event})\ntime.sleep(1)\nprint('alive')"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr
