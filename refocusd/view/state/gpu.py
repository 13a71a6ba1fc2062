"""Memory and load of this host's NVIDIA devices, from the driver's own library (NVML).

Called through `ctypes`: the driver brings the library, so nothing needs to be
installed, and a host without a GPU has no library and no devices.  Constants
and structures: NVIDIA Management Library, API reference (nvml.h).
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from dataclasses import dataclass

__all__ = ["Gpu", "GpuMonitor"]

#: How long a reading is good for, in seconds.
FRESH_S = 1.0
MAX_GPUS = 16
_TEMPERATURE_GPU = 0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device; what the driver does not tell is None.

    Parameters
    ----------
    index : int
    name : str
    used_nbytes, total_nbytes : int
        Of its memory, by all programs.
    busy_percent, temperature_c : int or None
    """

    index: int
    name: str
    used_nbytes: int
    total_nbytes: int
    busy_percent: int | None
    temperature_c: int | None


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class GpuMonitor:
    """Reads the devices at most once a second, however many ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._library = _load()
        self._read_at = 0.0
        self._gpus: tuple[Gpu, ...] = ()

    def read(self) -> tuple[Gpu, ...]:
        """The devices now; empty where there are none or the driver does not answer."""
        library = self._library
        if library is None:
            return ()
        with self._lock:
            now = time.monotonic()
            if now - self._read_at > FRESH_S:
                self._read_at = now
                self._gpus = _read(library)
            return self._gpus


def _load() -> ctypes.CDLL | None:
    name = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
    try:
        library = ctypes.CDLL(name)
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None


def _read(library: ctypes.CDLL) -> tuple[Gpu, ...]:
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return ()
    gpus = (_device(library, index) for index in range(min(count.value, MAX_GPUS)))
    return tuple(gpu for gpu in gpus if gpu is not None)


def _device(library: ctypes.CDLL, index: int) -> Gpu | None:
    handle = ctypes.c_void_p()
    memory = _Memory()
    if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
        return None
    if library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != 0:
        return None
    name = ctypes.create_string_buffer(96)
    library.nvmlDeviceGetName(handle, name, len(name))
    load = _Utilization()
    has_load = library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(load)) == 0
    degrees = ctypes.c_uint()
    has_degrees = (
        library.nvmlDeviceGetTemperature(handle, _TEMPERATURE_GPU, ctypes.byref(degrees)) == 0
    )
    return Gpu(
        index,
        name.value.decode("utf-8", "replace"),
        memory.used,
        memory.total,
        load.gpu if has_load else None,
        degrees.value if has_degrees else None,
    )
