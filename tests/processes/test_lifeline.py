"""Processes that end with their parent."""

from __future__ import annotations

import subprocess
import sys

CHILD = """
import os, sys, threading
from refocusd.processes.lifeline import watch_stdin
print(sys.stdin.buffer.readline().decode().strip(), flush=True)
ended = threading.Event()
watch_stdin(ended.set)
print(os.read(0, 1), flush=True)
import scipy.special
print("loaded", flush=True)
ended.wait(60)
print("ended", flush=True)
"""


def test_who_looks_at_standard_input_does_not_wait_for_the_parent() -> None:
    """On Windows, loading a library does this; it used to wait until the parent was gone."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("an order\n")
        child.stdin.flush()
        said = [child.stdout.readline().strip() for _ in range(3)]
        assert said == ["an order", "b''", "loaded"]
        child.stdin.close()
        assert child.stdout.readline().strip() == "ended"
