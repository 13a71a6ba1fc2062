"""Devices that networks can run on, their drivers, and the backends that use them."""

from __future__ import annotations

from collections.abc import Iterator

import pynvml

from refocusd.doctor.case import Case, Finding, doubtful, fine, not_applicable
from refocusd.engines.choose import available_backends, count_cards
from refocusd.engines.openvino import openvino_devices

GIB = 1 << 30


def devices(_case: Case) -> Iterator[Finding]:
    """Which devices there are, and whether their driver answers."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield not_applicable("no NVIDIA GPU, or no driver for it: the CPU engine is used")
        return
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        count = pynvml.nvmlDeviceGetCount()
        if not count:
            yield doubtful(
                f"the NVIDIA driver {driver} is there, but shows no device",
                "look at nvidia-smi; restart the computer after a driver update",
            )
        for index in range(count):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            name, memory = pynvml.nvmlDeviceGetName(device), pynvml.nvmlDeviceGetMemoryInfo(device)
            yield fine(
                f"{name}, {memory.free / GIB:.1f} of {memory.total / GIB:.1f} GiB free, driver {driver}"
            )
    except pynvml.NVMLError as error:
        yield doubtful(f"the NVIDIA driver does not answer: {error}", "look at nvidia-smi")
    finally:
        pynvml.nvmlShutdown()


def backends(_case: Case) -> Iterator[Finding]:
    """Which backends work on a card, and what installs those that do not."""
    has_card = count_cards() > 0
    for status in available_backends():
        name = f"backend {status.name}"
        if status.works and status.name == "openvino":
            found = (f"{device} ({full})" for device, full in openvino_devices().items())
            yield fine(f"works here; devices for --device: {', '.join(found)}, AUTO", name=name)
        elif status.works:
            yield fine("works here", name=name)
        elif has_card:
            yield doubtful("not used", status.why_not, name=name)
        else:
            yield not_applicable(status.why_not, name=name)
