"""The state for Prometheus: text exposition format 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector

from refocusd.transport.messages import Histogram, Status
from refocusd.view.state.gpu import Gpu
from refocusd.view.state.report import health
from refocusd.view.state.view_state import ViewState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: At most this many reasons have a series of their own; the rarer ones are counted together.
MAX_REASONS = 50

#: Labels and value of one sample.
Sample = tuple[dict[str, str], float]


def metrics_text(state: ViewState, gpus: tuple[Gpu, ...]) -> bytes:
    """All metrics; without a daemon, only that there is none, the pages, and the GPUs."""
    return generate_latest(_ViewMetrics(state, gpus))


@dataclass(frozen=True)
class _ViewMetrics(Collector):
    state: ViewState
    gpus: tuple[Gpu, ...]

    def collect(self) -> Iterator[Metric]:
        status = self.state.status
        yield _metric("up", "Whether a daemon answers.", status is not None)
        yield _metric("ready", "Whether a worker is ready for frames.", health(self.state).ready)
        yield _metric("view_pages", "Pages of the live view that are open.", self.state.pages)
        if status is not None:
            yield from _daemon(status)
            yield from _frames(status)
            yield from _workers(status)
            yield _stages(status.stages)
        yield from _gpu_metrics(self.gpus)


def _metric(name: str, what: str, samples: float | Iterable[Sample], kind: str = "gauge") -> Metric:
    """One metric, `refocusd_<name>`, with one value or one sample for each set of labels."""
    metric = Metric(f"refocusd_{name.removesuffix('_total')}", what, kind)
    for labels, value in [({}, samples)] if isinstance(samples, (int, float)) else samples:
        metric.add_sample(f"refocusd_{name}", labels, value)
    return metric


def _daemon(status: Status) -> Iterator[Metric]:
    about = {"version": status.version}
    if (engine := status.engine) is not None:
        about |= {
            "backend": engine.backend,
            "precision": engine.precision,
            "device": engine.device,
            "model": engine.model_id,
        }
    yield _metric("info", "What the daemon runs.", [(about, 1)])
    yield _metric("uptime_seconds", "Time since the daemon's start.", status.uptime_s)
    yield _metric("paused", "Whether refocusing is paused.", status.paused)
    yield _metric("ring_bytes", "Shared memory for frames in flight.", status.ring_nbytes)
    yield _metric("ring_free_bytes", "Unused part of this memory.", status.ring_free)
    taken = "Raw pixels received since the start."
    yield _metric("raw_bytes_total", taken, status.raw_nbytes, "counter")


def _frames(status: Status) -> Iterator[Metric]:
    final = "Frames since the start, by final state and reason."
    yield _metric("frames_total", final, _by_reason(status.frames), "counter")
    verdicts = [({"verdict": name}, float(count)) for name, count in status.verdicts.items()]
    yield _metric("verdicts_total", "Frames since the start, by verdict.", verdicts, "counter")
    open_ = [detail for detail in status.details if detail.state != "ended"]
    yield _metric("acquisitions", "Acquisitions that are open.", len(open_))
    unseen = "Acquisitions since the start that have run, but of which no frame could be read."
    yield _metric("unseen_acquisitions_total", unseen, status.unseen, "counter")
    queued = sum(detail.queued for detail in status.details)
    yield _metric("queue_frames", "Frames in the daemon that no worker has yet.", queued)
    deferred = sum(detail.deferred for detail in status.details)
    yield _metric("deferred_frames", "Frames left to the catch-up.", deferred)
    pending = sum(counts.pending for counts in status.acquisitions.values())
    yield _metric("pending_frames", "Frames without a final state.", pending)
    offsets: list[Sample] = []
    uncertainties: list[Sample] = []
    for detail in open_:
        if (focus := detail.focus) is not None:
            direction = "known" if focus.direction_known else "unknown"
            labels = {"acquisition": detail.name, "direction": direction}
            offsets.append((labels, focus.offset_um))
            uncertainties.append((labels, focus.uncertainty_um))
    yield _metric(
        "focus_offset_um",
        "Distance of the stage from focus; if the direction is known, add it to z.",
        offsets,
    )
    yield _metric("focus_uncertainty_um", "Standard uncertainty of that distance.", uncertainties)


def _by_reason(frames: Mapping[str, int]) -> list[Sample]:
    counted: Counter[tuple[str, str]] = Counter()
    for rank, (name, count) in enumerate(sorted(frames.items(), key=lambda item: -item[1])):
        state, _, reason = name.partition(": ")
        counted[state, reason if rank < MAX_REASONS else "other reasons"] += count
    return [({"state": state, "reason": why}, n) for (state, why), n in counted.items()]


def _workers(status: Status) -> Iterator[Metric]:
    states = Counter(worker.state for worker in status.crew)
    by_state = [({"state": state}, float(states[state])) for state in ("starting", "ready", "busy")]
    yield _metric("workers", "Workers, by state.", by_state)
    answered = [({"worker": worker.identity}, float(worker.frames)) for worker in status.crew]
    answered_text = "Frames that a worker has answered."
    yield _metric("worker_frames_total", answered_text, answered, "counter")


def _stages(stages: Mapping[str, Histogram]) -> Metric:
    name = "refocusd_stage_seconds"
    metric = Metric(name, "Time of live frames in each stage.", "histogram")
    for stage, histogram in stages.items():
        passed = 0
        bounds = [f"{bound / 1000:g}" for bound in histogram.bounds_ms]
        for bound, count in zip([*bounds, "+Inf"], histogram.counts, strict=False):
            passed += count
            metric.add_sample(f"{name}_bucket", {"stage": stage, "le": bound}, passed)
        metric.add_sample(f"{name}_sum", {"stage": stage}, histogram.sum_ms / 1000)
        metric.add_sample(f"{name}_count", {"stage": stage}, passed)
    return metric


def _gpu_metrics(gpus: tuple[Gpu, ...]) -> Iterator[Metric]:
    def metric(name: str, what: str, values: Sequence[float | None]) -> Iterator[Metric]:
        known = [
            ({"gpu": str(gpu.index), "name": gpu.name}, value)
            for gpu, value in zip(gpus, values, strict=True)
            if value is not None
        ]
        if known:
            yield _metric(f"gpu_{name}", f"GPU of this host: {what}", known)

    busy = [None if gpu.busy_percent is None else gpu.busy_percent / 100 for gpu in gpus]
    yield from metric(
        "memory_used_bytes", "Memory in use by all programs.", [gpu.used_nbytes for gpu in gpus]
    )
    yield from metric("memory_bytes", "Memory of the device.", [gpu.total_nbytes for gpu in gpus])
    yield from metric("busy_ratio", "Share of time in which a kernel ran.", busy)
    celsius = [gpu.temperature_c for gpu in gpus]
    yield from metric("temperature_celsius", "Temperature of the device.", celsius)
