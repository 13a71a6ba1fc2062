"""Memory and load of this host's NVIDIA GPUs, from the driver (NVML)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

#: A reading is used again for this long.
FRESH_S = 1.0
MAX_GPUS = 16


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; None stands for what the driver does not report.

    Parameters
    ----------
    index : int
    name : str
    used_nbytes, total_nbytes : int
        Its memory: in use by all programs, and in total.
    busy_percent, temperature_c : int or None
        Share of time in which a kernel ran, and temperature in °C.
    """

    index: int
    name: str
    used_nbytes: int
    total_nbytes: int
    busy_percent: int | None
    temperature_c: int | None


class GpuMonitor:
    """Reads the GPUs at most once per second, however many requests there are.

    A host without a GPU or its driver has none.
    """

    def __init__(self) -> None:
        import pynvml  # loads the driver's library only at the first call

        self._nvml: Any = pynvml
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._gpus: tuple[Gpu, ...] = ()
        self._has_driver = False
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._has_driver = True

    def read(self) -> tuple[Gpu, ...]:
        """The GPUs now; empty if there are none or the driver does not answer."""
        if not self._has_driver:
            return ()
        with self._lock:
            now = time.monotonic()
            if now - self._read_at > FRESH_S:
                self._read_at = now
                count = self._known(self._nvml.nvmlDeviceGetCount) or 0
                read = (self._known(self._device, index) for index in range(min(count, MAX_GPUS)))
                self._gpus = tuple(gpu for gpu in read if gpu is not None)
            return self._gpus

    def _device(self, index: int) -> Gpu:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        load = self._known(nvml.nvmlDeviceGetUtilizationRates, handle)
        celsius = self._known(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        name = nvml.nvmlDeviceGetName(handle)
        busy = load.gpu if load is not None else None
        return Gpu(index, name, memory.used, memory.total, busy, celsius)

    def _known(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """NVML's answer; None if it has none."""
        try:
            return ask(*arguments)
        except self._nvml.NVMLError:
            return None
