"""The state for Prometheus: text exposition format 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from refocusd.transport.messages import FocusAdvice, Histogram, Status
from refocusd.view.state.board import Board
from refocusd.view.state.gpu import Gpu
from refocusd.view.state.report import health

__all__ = ["CONTENT_TYPE", "metrics_text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Reasons are texts; more than these are counted together, so that series stay few.
MAX_REASONS = 50

#: Labels and value of one sample.
Sample = tuple[Mapping[str, str], float]


class _Text:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def family(self, name: str, kind: str, what: str, samples: Iterable[Sample]) -> None:
        """One metric: `refocusd_<name>`."""
        self.lines.append(f"# HELP refocusd_{name} {what}")
        self.lines.append(f"# TYPE refocusd_{name} {kind}")
        for labels, value in samples:
            self.sample(name, labels, value)

    def sample(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """One line."""
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        self.lines.append(
            f"refocusd_{name}{{{inner}}} {value:.17g}" if inner else f"refocusd_{name} {value:.17g}"
        )


def metrics_text(board: Board, gpus: tuple[Gpu, ...]) -> str:
    """All metrics.  Without a daemon only that there is none, and the GPUs."""
    text = _Text()
    status = board.status
    text.family("up", "gauge", "Whether a daemon answers.", [({}, status is not None)])
    text.family(
        "ready", "gauge", "Whether a worker is ready for frames.", [({}, health(board).ready)]
    )
    text.family("view_pages", "gauge", "Pages of the live view that are open.", [({}, board.pages)])
    if status is not None:
        _daemon(text, status)
        _work(text, status)
        _stages(text, status.stages)
    _gpus(text, gpus)
    return "\n".join(text.lines) + "\n"


def _daemon(text: _Text, status: Status) -> None:
    engine = status.engine
    about = {"version": status.version}
    if engine is not None:
        about |= {
            "backend": engine.backend,
            "precision": engine.precision,
            "device": engine.device,
            "model": engine.model_id,
        }
    text.family("info", "gauge", "What the daemon runs.", [(about, 1)])
    text.family("uptime_seconds", "gauge", "Since the daemon's start.", [({}, status.uptime_s)])
    text.family("paused", "gauge", "Whether refocusing is paused.", [({}, status.paused)])
    text.family(
        "ring_bytes", "gauge", "Shared memory for frames in flight.", [({}, status.ring_nbytes)]
    )
    text.family("ring_free_bytes", "gauge", "Of it, unused.", [({}, status.ring_free)])
    text.family(
        "raw_bytes_total", "counter", "Raw pixels taken since the start.", [({}, status.raw_nbytes)]
    )


def _work(text: _Text, status: Status) -> None:
    text.family(
        "frames_total",
        "counter",
        "Frames since the start, by final state and reason.",
        _frames(status.frames),
    )
    open_ = [detail for detail in status.details if detail.state != "ended"]
    text.family("acquisitions", "gauge", "Acquisitions that are open.", [({}, len(open_))])
    text.family(
        "queue_frames",
        "gauge",
        "Frames in the daemon that no worker has yet.",
        [({}, sum(detail.queued for detail in status.details))],
    )
    text.family(
        "deferred_frames",
        "gauge",
        "Frames left to the catch-up.",
        [({}, sum(detail.deferred for detail in status.details))],
    )
    text.family(
        "pending_frames",
        "gauge",
        "Frames without a final state.",
        [({}, sum(counts.pending for counts in status.acquisitions.values()))],
    )
    advised = [
        ({"acquisition": detail.name, "direction": _direction(detail.focus)}, detail.focus)
        for detail in open_
        if detail.focus is not None
    ]
    text.family(
        "focus_offset_um",
        "gauge",
        "Distance of the stage from focus, to be added to z where the direction is known.",
        [(labels, focus.offset_um) for labels, focus in advised],
    )
    text.family(
        "focus_uncertainty_um",
        "gauge",
        "Its standard uncertainty.",
        [(labels, focus.uncertainty_um) for labels, focus in advised],
    )
    states = Counter(worker.state for worker in status.crew)
    text.family(
        "workers",
        "gauge",
        "Workers, by state.",
        [({"state": state}, states[state]) for state in ("starting", "ready", "busy")],
    )
    text.family(
        "worker_frames_total",
        "counter",
        "Frames that a worker has answered.",
        [({"worker": worker.identity}, worker.frames) for worker in status.crew],
    )


def _direction(focus: FocusAdvice) -> str:
    return "known" if focus.direction_known else "unknown"


def _frames(frames: Mapping[str, int]) -> list[Sample]:
    counted: Counter[tuple[str, str]] = Counter()
    for rank, (name, count) in enumerate(sorted(frames.items(), key=lambda item: -item[1])):
        state, _, reason = name.partition(": ")
        counted[state, reason if rank < MAX_REASONS else "other reasons"] += count
    return [({"state": state, "reason": why}, n) for (state, why), n in counted.items()]


def _stages(text: _Text, stages: Mapping[str, Histogram]) -> None:
    name = "stage_seconds"
    text.family(name, "histogram", "Time of live frames in each stage.", ())
    for stage, histogram in stages.items():
        passed = 0
        bounds = [f"{bound / 1000:g}" for bound in histogram.bounds_ms]
        for bound, count in zip([*bounds, "+Inf"], histogram.counts, strict=False):
            passed += count
            text.sample(f"{name}_bucket", {"stage": stage, "le": bound}, passed)
        text.sample(f"{name}_sum", {"stage": stage}, histogram.sum_ms / 1000)
        text.sample(f"{name}_count", {"stage": stage}, passed)


def _gpus(text: _Text, gpus: tuple[Gpu, ...]) -> None:
    if not gpus:
        return
    labels = [{"gpu": str(gpu.index), "name": gpu.name} for gpu in gpus]
    families: tuple[tuple[str, str, list[float | None]], ...] = (
        ("gpu_memory_used_bytes", "Memory in use by all programs.", [g.used_nbytes for g in gpus]),
        ("gpu_memory_bytes", "Memory of the device.", [g.total_nbytes for g in gpus]),
        (
            "gpu_busy_ratio",
            "Share of time in which a kernel ran.",
            [None if g.busy_percent is None else g.busy_percent / 100 for g in gpus],
        ),
        ("gpu_temperature_celsius", "Of the device.", [g.temperature_c for g in gpus]),
    )
    for name, what, values in families:
        known = [(label, v) for label, v in zip(labels, values, strict=True) if v is not None]
        if known:
            text.family(name, "gauge", f"GPU of this host: {what}", known)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
