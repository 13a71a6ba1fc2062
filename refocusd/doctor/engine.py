"""Which engine would be taken, and one frame through it."""

from __future__ import annotations

from collections.abc import Iterator

from refocusd.bench.combination import Combination, Order
from refocusd.bench.session import ask
from refocusd.config import WITHOUT_MODEL, Settings
from refocusd.doctor.case import Case, Finding, broken, fine

#: To load OpenVINO, compile the network and run two frames, on a slow computer.
TRIAL_S = 90.0
SIDE = 512
#: A larger frame would tell no more.
MAX_SIDE = 4096


def engine(case: Case) -> Iterator[Finding]:
    """Build it as a worker would, in a process of its own, and time a frame."""
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
            "CPU; install openvino again where it cannot be loaded",
        )
    frame_ms = max(report.worker_ms[0], 1e-3)
    return fine(
        f"{report.backend} {report.precision} on {report.device}, {named}: "
        f"{shape[1]}x{shape[0]} px in {frame_ms:.0f} ms (about {1e3 / frame_ms:.0f} frames/s), "
        f"ready after {report.built_s:.1f} s"
    )
