"""Faulty workers, clocks and disks, in real processes that speak the real protocol.

A daemon with `environment(fault, ...)` starts workers whose interpreter first loads
``bad_worker/sitecustomize.py``, which replaces one function of theirs.  Faults of the daemon's
clock and disk work in the same way.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

#: ``nan``: facts that are NaN.  ``pixels``: pixels that contradict the checksum.  ``late``: an
#: #: answer after the daemon's time limit.  ``error``: an exception.  ``exit``: the process ends.
#: #: ``memory``: out of memory.  ``shape``: only half of the frame (if it goes through the socket,
#: #: ``--inline``).  ``twice``: each answer comes twice.  ``order``: two answers change places.
Fault = Literal["nan", "pixels", "late", "error", "exit", "memory", "shape", "twice", "order"]


def environment(fault: Fault, *, every: int = 7, late_s: float = 3.0) -> dict[str, str]:
    """Variables for `FaultyDaemon`: each worker commits the fault at every `every`-th frame.

    Parameters
    ----------
    fault : Fault
    every : int
    late_s : float
        Duration of a late answer.
    """
    # Without the prefix of the settings: the daemon refuses unknown settings.
    return {**_loaded(), "BAD_WORKER": f"{fault} {every} {late_s}"}


def jumping_clock(offset: Path) -> dict[str, str]:
    """Variables for `FaultyDaemon`: the wall clocks of daemon and workers are off by some seconds.

    Parameters
    ----------
    offset : Path
        A file with the number of seconds; when it changes, the clock jumps.  No file: no jump yet.
    """
    return {**_loaded(), "BAD_CLOCK": str(offset)}


def slow_disk(write_s: float) -> dict[str, str]:
    """Variables for `FaultyDaemon`: writing each frame takes `write_s` longer."""
    return {**_loaded(), "SLOW_DISK": str(write_s)}


def held_disk(frames: int, gate: Path) -> dict[str, str]:
    """Variables: after `frames` frames, nothing is written until the file `gate` exists."""
    return {**_loaded(), "SLOW_DISK": f"0 {frames} {gate}"}


def _loaded() -> dict[str, str]:
    folder = Path(__file__).with_name("bad_worker")
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path)}
