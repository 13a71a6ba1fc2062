"""``python -m refocusd.doctor.trial``: what may crash or hang, in a process that can be ended."""

from __future__ import annotations

import sys
import time

import msgspec
import numpy as np
from scipy.ndimage import gaussian_filter

from refocusd.config import EngineOptions
from refocusd.errors import RefocusdError
from refocusd.frame import Pixels, checksum
from refocusd.processes.trial import REFUSED, print_report
from refocusd.transport.ring import RingAddress, SharedRing

#: This module, for `refocusd.processes.trial.attempt`.
TRIAL = "refocusd.doctor.trial"


class EngineOrder(msgspec.Struct, frozen=True, tag=True):
    """Build this engine and refocus a frame of `shape` (height, width)."""

    model: str
    options: EngineOptions
    shape: tuple[int, int]


class RingOrder(msgspec.Struct, frozen=True, tag=True):
    """Attach this ring and read a uint16 frame of `shape` at `offset`."""

    address: RingAddress
    offset: int
    shape: tuple[int, int]


class EngineReport(msgspec.Struct, frozen=True):
    """What ran: `ready_s` from nothing to warm, `frame_ms` for one more frame."""

    backend: str
    precision: str
    device: str
    bf16: bool
    ready_s: float
    frame_ms: float


class RingReport(msgspec.Struct, frozen=True):
    """What was read."""

    checksum: int


def _engine(order: EngineOrder) -> EngineReport:
    from refocusd.engines.choose import build_engine

    begun = time.perf_counter()
    engine = build_engine(order.model, order.options)
    engine.warm_up(order.shape)
    ready_s = time.perf_counter() - begun
    raw = _frame(order.shape)
    begun = time.perf_counter()
    engine.refocus(raw, np.empty_like(raw))
    frame_ms = (time.perf_counter() - begun) * 1e3
    made_of = engine.description
    report = EngineReport(
        made_of.backend, made_of.precision, made_of.device, _has_bf16(), ready_s, frame_ms
    )
    engine.close()
    return report


def _frame(shape: tuple[int, int]) -> Pixels:
    """Something out of focus: an engine that looks at the blur passes noise through."""
    coarse = np.random.default_rng(0).normal(3000, 20000, shape).astype(np.float32)
    smooth = gaussian_filter(coarse, 6.0, mode="wrap")
    return np.asarray(np.clip(smooth, 100, 60000), dtype=np.uint16)


def _has_bf16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _ring(order: RingOrder) -> RingReport:
    with SharedRing.attach(order.address) as ring:
        return RingReport(checksum(ring.view(order.offset, order.shape, "uint16")))


def main() -> int:
    """Carry out the order on standard input."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineOrder | RingOrder)
    try:
        report = _engine(order) if isinstance(order, EngineOrder) else _ring(order)
    except (RefocusdError, ImportError, MemoryError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.buffer.write(message.encode() + b"\n")
        return REFUSED
    print_report(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
