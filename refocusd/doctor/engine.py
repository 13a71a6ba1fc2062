"""Which engine would be taken, and one frame through it."""

from __future__ import annotations

from collections.abc import Iterator

from refocusd.config import WITHOUT_MODEL, Settings
from refocusd.doctor.case import Case
from refocusd.doctor.finding import Finding, broken, fine
from refocusd.doctor.trial import TRIAL, EngineOrder, EngineReport
from refocusd.errors import WorkerError
from refocusd.processes.trial import attempt

#: To load OpenVINO, compile the network and run two frames, on a slow computer.
TRIAL_S = 90.0
SIDE = 512
#: A trial of a larger frame says no more.
MAX_SIDE = 4096


def engine(case: Case) -> Iterator[Finding]:
    """Build it as a worker would, in a process of its own, and time a frame."""
    shape = (SIDE, SIDE)
    if case.plan is not None:
        shape = (min(case.plan.height, MAX_SIDE), min(case.plan.width, MAX_SIDE))
    for model in dict.fromkeys(case.settings.models.values()):
        yield _tried(case.settings, model, shape)


def _tried(settings: Settings, model: str, shape: tuple[int, int]) -> Finding:
    order = EngineOrder(model, settings.engine_options, shape)
    named = "no model" if settings.backend in WITHOUT_MODEL else f"model {model}"
    try:
        report = attempt(TRIAL, order, EngineReport, TRIAL_S)
    except WorkerError as error:
        return broken(
            f"{settings.backend}, {named}: {error}",
            "refocusd models checks the models; --backend openvino --precision f32 runs on every "
            "CPU; install openvino again where it cannot be loaded",
        )
    return fine(
        f"{report.backend} {report.precision} on {report.device}, {named}: "
        f"{shape[1]}x{shape[0]} px in {report.frame_ms:.0f} ms "
        f"(about {1e3 / max(report.frame_ms, 1e-3):.0f} frames/s), ready after "
        f"{report.ready_s:.1f} s; bf16 {'yes' if report.bf16 else 'no'}"
    )
