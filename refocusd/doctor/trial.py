"""``python -m refocusd.doctor.trial``: what may crash or hang, in a process that can be ended.

An order comes as one line of JSON on standard input, the report goes back on standard output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TypeVar

import msgspec
import numpy as np

from refocusd.config import EngineOptions
from refocusd.errors import RefocusdError
from refocusd.frame import checksum
from refocusd.transport.ring import RingAddress, SharedRing

__all__ = ["EngineOrder", "EngineReport", "RingOrder", "RingReport", "TrialError", "attempt"]

_LAST_CHARS = 300


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


class TrialError(Exception):
    """The trial did not work; says why.  Never leaves the doctor."""


Report = TypeVar("Report", EngineReport, RingReport)


def attempt(order: EngineOrder | RingOrder, report: type[Report], limit_s: float) -> Report:
    """Carry an order out in another process.

    Raises
    ------
    TrialError
        If it fails, crashes, or takes longer than `limit_s`.
    """
    command = [sys.executable, "-m", "refocusd.doctor.trial"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(order), capture_output=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired as error:
        raise TrialError(f"not done after {limit_s:g} s") from error
    except OSError as error:
        raise TrialError(f"no process can be started: {error}") from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1][-_LAST_CHARS:] if lines else "without a word"
        how = f"crashed (status {done.returncode}): " if done.returncode != 2 else ""
        raise TrialError(how + why)
    try:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=report)
    except (IndexError, msgspec.MsgspecError) as error:
        raise TrialError(f"its process gave no report: {error}") from error


def _engine(order: EngineOrder) -> EngineReport:
    from refocusd.engines.choose import build_engine

    begun = time.perf_counter()
    engine = build_engine(order.model, order.options)
    engine.warm_up(order.shape)
    ready_s = time.perf_counter() - begun
    raw = np.random.default_rng(0).integers(100, 4000, order.shape, dtype=np.uint16)
    begun = time.perf_counter()
    engine.refocus(raw, np.empty_like(raw))
    frame_ms = (time.perf_counter() - begun) * 1e3
    made_of = engine.description
    report = EngineReport(
        made_of.backend, made_of.precision, made_of.device, _has_bf16(), ready_s, frame_ms
    )
    engine.close()
    return report


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
        return 2
    os.write(sys.stdout.fileno(), msgspec.json.encode(report) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
