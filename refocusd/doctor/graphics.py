"""NVIDIA devices, their driver, and packages that run networks on them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from refocusd.doctor.case import Case
from refocusd.doctor.finding import Finding, doubtful, fine, not_applicable
from refocusd.view.gpu import GpuMonitor

__all__ = ["devices", "driver_version", "packages"]

GIB = 1 << 30
#: TensorRT for RTX cards on acquisition PCs, and what calls it from Python.
PACKAGES = ("tensorrt-rtx", "cuda-python")
NOT_YET = "this version refocuses on the CPU: GPU engines are not in it yet"


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
            f"{gpu.name}, {free:.1f} of {gpu.total_nbytes / GIB:.1f} GiB free, driver {driver}; "
            + NOT_YET,
        )


def packages(_case: Case) -> Iterator[Finding]:
    """Whether the packages are there that GPU engines will need."""
    there, missing = [], []
    for name in PACKAGES:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if not missing:
        yield not_applicable("GPU packages", f"{', '.join(there)}; {NOT_YET}")
        return
    python = "py" if sys.platform == "win32" else "python3"
    yield not_applicable(
        "GPU packages",
        f"{', '.join(missing)} not installed, nor needed: {NOT_YET}",
        f"for a version that has them: {python} -m pip install {' '.join(missing)}"
        if driver_version() is not None
        else "",
    )


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
