"""Hardware, versions, and how busy other programs keep the computer."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

MIB = 1 << 20

#: If other programs use more than this share of the processor, measured times mean little.
BUSY = 0.15
_PACKAGES = (
    "refocusd",
    "numpy",
    "openvino",
    "onnxruntime",
    "onnxruntime-ep-nv-tensorrt-rtx",
    "torch",
)


def machine() -> dict[str, object]:
    """The machine and the versions that a figure was measured with."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def busy_share(seconds: float = 0.5) -> float:
    """Share of all cores that is busy now, 0 to 1, measured for `seconds`.

    Call it while nothing of refocusd runs, so that it measures other programs.
    """
    return float(psutil.cpu_percent(interval=seconds)) / 100


def peak_mib() -> float | None:
    """Peak memory of this process, MiB; None if the system does not report it."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MIB
    else:  # noqa: RET505 (mypy for Windows takes what follows a return for unreachable)
        # `getrusage` would include the peak of the parent process.
        found = _line_of(Path("/proc/self/status"), "VmHWM")
        return int(found.split()[0]) / 1024 if found else None


def _cpu() -> str:
    named = _line_of(Path("/proc/cpuinfo"), "model name")
    return named or platform.processor() or platform.machine()


def _line_of(file: Path, key: str) -> str:
    """The value of a key in a file of ``/proc``; empty if there is none."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
