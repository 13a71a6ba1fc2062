"""NVIDIA devices, their driver, and the backends that run networks on them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator

from refocusd.doctor.case import Case
from refocusd.doctor.finding import Finding, doubtful, fine, not_applicable
from refocusd.engines.choose import available_backends, count_cards
from refocusd.view.state.gpu import GpuMonitor

__all__ = ["backends", "devices", "driver_version"]

GIB = 1 << 30


def devices(_case: Case) -> Iterator[Finding]:
    """Which devices there are, and whether their driver answers."""
    driver = driver_version()
    if driver is None:
        yield not_applicable("GPU", "no NVIDIA GPU, or no driver for it: the CPU engine is used")
        return
    gpus = GpuMonitor().read()
    if not gpus:
        yield doubtful(
            "GPU",
            f"the NVIDIA driver {driver} is there, but shows no device",
            "look at nvidia-smi; restart the computer after a driver update",
        )
    for gpu in gpus:
        free = (gpu.total_nbytes - gpu.used_nbytes) / GIB
        yield fine(
            "GPU",
            f"{gpu.name}, {free:.1f} of {gpu.total_nbytes / GIB:.1f} GiB free, driver {driver}",
        )


def backends(_case: Case) -> Iterator[Finding]:
    """Which backends work on a card, and what installs those that do not."""
    has_card = count_cards() > 0
    for status in available_backends():
        name = f"backend {status.name}"
        if status.works:
            yield fine(name, "works here")
        elif has_card:
            yield doubtful(name, "not used", status.why_not)
        else:
            yield not_applicable(name, status.why_not)


def driver_version() -> str | None:
    """Version of NVIDIA's driver, from its own library; None where there is none."""
    name = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
    text = ctypes.create_string_buffer(96)
    try:
        library = ctypes.CDLL(name)
        if library.nvmlInit_v2() != 0:
            return None
        if library.nvmlSystemGetDriverVersion(text, len(text)) != 0:
            return "of unknown version"
    except (OSError, AttributeError):
        return None
    return text.value.decode("ascii", "replace")
