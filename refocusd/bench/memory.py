"""The most memory that this process ever held."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

__all__ = ["peak_mib"]

MIB = 1 << 20


def peak_mib() -> float | None:
    """Peak of the resident memory, MiB; None where the system does not tell."""
    if sys.platform == "win32":
        return _windows_peak()
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB  # bytes there
    # Not `getrusage`: its peak starts with that of the process that started this one.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else None


class _Counters(ctypes.Structure):
    # PROCESS_MEMORY_COUNTERS of psapi.h
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("working_set", ctypes.c_size_t),
        ("pools", ctypes.c_size_t * 4),
        ("pagefile", ctypes.c_size_t),
        ("peak_pagefile", ctypes.c_size_t),
    )


def _windows_peak() -> float | None:
    if sys.platform == "win32":
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.K32GetProcessMemoryInfo.argtypes = (
            ctypes.c_void_p,
            ctypes.POINTER(_Counters),
            ctypes.c_uint32,
        )
        counters = _Counters(size=ctypes.sizeof(_Counters))
        if kernel.K32GetProcessMemoryInfo(
            kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size
        ):
            return float(counters.peak_working_set) / MIB
    return None
