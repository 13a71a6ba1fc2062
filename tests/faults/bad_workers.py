"""Workers, clocks and disks that go wrong, in real processes that speak the real protocol.

A daemon with `environment(fault, ...)` starts workers whose interpreter loads
``bad_worker/sitecustomize.py`` first, which bends one function of them; so does that of the daemon's clock and disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

#: ``nan``: facts that are no numbers.  ``pixels``: others than the checksum says.  ``late``: after
#: the daemon has lost patience.  ``error``: an exception.  ``exit``: the process ends.  ``memory``:
#: it finds none.  ``shape``: half of the frame only (where it goes through the socket: ``--inline``).
#: ``twice``: each answer comes twice.  ``order``: two answers come the wrong way round.
Fault = Literal["nan", "pixels", "late", "error", "exit", "memory", "shape", "twice", "order"]


def environment(fault: Fault, *, every: int = 7, late_s: float = 3.0) -> dict[str, str]:
    """Variables for `FaultyDaemon`: each worker does it at every n-th frame that it gets.

    Parameters
    ----------
    fault : Fault
    every : int
    late_s : float
        How long a late answer takes.
    """
    # Not with the prefix of the settings: the daemon would refuse what it does not know.
    return {**_loaded(), "BAD_WORKER": f"{fault} {every} {late_s}"}


def jumping_clock(offset: Path) -> dict[str, str]:
    """Variables for `FaultyDaemon`: its wall clock, and its workers', is so many seconds off.

    Parameters
    ----------
    offset : Path
        A file that holds the seconds; when it changes, the clock jumps.  None: no jump yet.
    """
    return {**_loaded(), "BAD_CLOCK": str(offset)}


def slow_disk(write_s: float) -> dict[str, str]:
    """Variables for `FaultyDaemon`: each frame takes so much longer to be written."""
    return {**_loaded(), "SLOW_DISK": str(write_s)}


def held_disk(frames: int, gate: Path) -> dict[str, str]:
    """The same: after so many frames, nothing is written until there is a file `gate`."""
    return {**_loaded(), "SLOW_DISK": f"0 {frames} {gate}"}


def _loaded() -> dict[str, str]:
    folder = Path(__file__).with_name("bad_worker")
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path)}
