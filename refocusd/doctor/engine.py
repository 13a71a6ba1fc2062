"""Checks of devices, backends, and the engine that would be used, with one frame through it."""

from __future__ import annotations

from collections.abc import Iterator

import pynvml

from refocusd.bench.combination import Combination, Order
from refocusd.bench.session import ask
from refocusd.config import WITHOUT_MODEL, Settings
from refocusd.doctor.case import Case, Finding, broken, doubtful, fine, not_applicable
from refocusd.engines.choose import available_backends, count_cards
from refocusd.engines.runtimes.openvino import openvino_devices

GIB = 1 << 30
#: Enough to load OpenVINO, compile the network and run two frames on a slow computer.
TRIAL_S = 90.0
#: Side of the frame without a plan, px.
SIDE = 512
#: Largest side of the frame, px: larger ones would give no further information.
MAX_SIDE = 4096


def devices(_case: Case) -> Iterator[Finding]:
    """Which NVIDIA devices there are, and whether their driver answers."""
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
                f"the NVIDIA driver {driver} is installed, but reports no device",
                "run nvidia-smi; restart the computer after a driver update",
            )
        for index in range(count):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            name, memory = pynvml.nvmlDeviceGetName(device), pynvml.nvmlDeviceGetMemoryInfo(device)
            yield fine(
                f"{name}, {memory.free / GIB:.1f} of {memory.total / GIB:.1f} GiB free, driver {driver}"
            )
    except pynvml.NVMLError as error:
        yield doubtful(f"the NVIDIA driver does not answer: {error}", "run nvidia-smi")
    finally:
        pynvml.nvmlShutdown()


def backends(_case: Case) -> Iterator[Finding]:
    """Which backends work here, and how to install those that do not."""
    has_card = count_cards() > 0
    for backend, why_not in available_backends().items():
        name = f"backend {backend}"
        if not why_not and backend == "openvino":
            found = (f"{device} ({full})" for device, full in openvino_devices().items())
            yield fine(f"works here; devices for --device: {', '.join(found)}, AUTO", name=name)
        elif not why_not:
            yield fine("works here", name=name)
        elif has_card:
            yield doubtful("not used", why_not, name=name)
        else:
            yield not_applicable(why_not, name=name)


def engine(case: Case) -> Iterator[Finding]:
    """Build each model's engine as a worker would, in another process, and time one frame."""
    shape = (SIDE, SIDE)
    if case.plan is not None:
        shape = (min(case.plan.height, MAX_SIDE), min(case.plan.width, MAX_SIDE))
    for model in dict.fromkeys(case.settings.models.values()):
        yield _tried(case.settings, model, shape)


def _tried(settings: Settings, model: str, shape: tuple[int, int]) -> Finding:
    order = Order(Combination(model, settings.engine_options, shape), frames=1, warm_frames=0)
    named = "no model" if settings.backend in WITHOUT_MODEL else f"model {model}"
    report = ask(order, TRIAL_S)
    if report.refused:
        return broken(
            f"{settings.backend}, {named}: {report.refused}",
            "refocusd models checks the models; --backend openvino --precision f32 runs on every "
            "CPU; reinstall openvino if it cannot be loaded",
        )
    frame_ms = max(report.worker_ms[0], 1e-3)
    return fine(
        f"{report.backend} {report.precision} on {report.device}, {named}: "
        f"{shape[1]}x{shape[0]} px in {frame_ms:.0f} ms (about {1e3 / frame_ms:.0f} frames/s), "
        f"ready after {report.built_s:.1f} s"
    )
