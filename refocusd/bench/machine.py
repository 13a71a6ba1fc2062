"""Hardware, versions, and how busy others keep the computer."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["BUSY", "busy_share", "machine"]

#: Share of the processor taken by others from which on times mean little.
BUSY = 0.15
_PACKAGES = ("refocusd", "numpy", "openvino", "torch", "tensorrt", "tensorrt-rtx")


def machine() -> dict[str, object]:
    """What a figure belongs to."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def busy_share(seconds: float = 0.5) -> float | None:
    """Share of all cores that is busy now, 0 to 1; None where the system does not tell.

    To be called while nothing of ours runs: what is not idle belongs to others.
    """
    before = _times()
    if before is None:
        return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)) if _has_load() else None
    time.sleep(seconds)
    after = _times()
    if after is None or after[1] <= before[1]:
        return None
    return 1 - (after[0] - before[0]) / (after[1] - before[1])


def _has_load() -> bool:
    return hasattr(os, "getloadavg")


def _times() -> tuple[int, int] | None:
    """Idle time and all time of all cores, in the system's units."""
    if sys.platform == "win32":
        idle, kernel, user = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
        found = ctypes.WinDLL("kernel32").GetSystemTimes(
            ctypes.byref(idle), ctypes.byref(kernel), ctypes.byref(user)
        )
        # The kernel's time contains the idle time.
        return (idle.value, kernel.value + user.value) if found else None
    try:
        with Path("/proc/stat").open(encoding="ascii") as lines:
            numbers = [int(word) for word in lines.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return numbers[3] + numbers[4], sum(numbers)


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
