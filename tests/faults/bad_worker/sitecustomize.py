"""Loaded by every interpreter with this folder in PYTHONPATH; injects the requested faults."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

__all__: list[str] = []


def _bend(fault: str, every: int, late_s: float) -> None:
    import msgspec

    from refocusd.transport import messages as wire
    from refocusd.transport.client import Connection
    from refocusd.worker import worker
    from refocusd.worker.refocus import refocus_frame

    send, lend = Connection.send, Connection.lend
    frames = 0
    kept: list[tuple[Any, ...]] = []

    def bent_frame(engine: Any, raw: Any, out: Any, **more: Any) -> Any:
        nonlocal frames
        frames += 1
        facts = refocus_frame(engine, raw, out, **more)
        if frames % every:
            return facts
        if fault == "late":
            time.sleep(late_s)
        elif fault == "exit":
            os._exit(3)
        elif fault == "error":
            raise ValueError("this worker is bent")
        elif fault == "memory":
            raise MemoryError
        elif fault == "nan":
            nan = float("nan")
            return msgspec.structs.replace(facts, focus_after=nan, flux_ratio=nan, engine_ms=nan)
        return facts

    def bent_send(self: Any, message: wire.Message, *pixels: Any, **more: Any) -> Any:
        if not isinstance(message, wire.Result) or frames % every:
            sent = send(self, message, *pixels, **more)
            while isinstance(message, wire.Result) and kept:
                sent = send(self, *kept.pop())
            return sent
        if fault == "pixels":
            message = msgspec.structs.replace(message, checksum=message.checksum ^ 1)
        elif fault == "twice":
            send(self, message, *pixels, **more)
        elif fault == "order":
            kept.append((message, *pixels))
            return True
        return send(self, message, *pixels, **more)

    def bent_lend(self: Any, message: wire.Result, pixels: Any) -> Any:
        """Commit the fault in workers that send pixels through the socket."""
        if fault == "shape" and frames % every == 0:
            pixels = pixels[: len(pixels) // 2]
        elif fault == "pixels" and frames % every == 0:
            message = msgspec.structs.replace(message, checksum=message.checksum ^ 1)
        return lend(self, message, pixels)

    worker.refocus_frame = bent_frame  # type: ignore[attr-defined]
    Connection.lend = bent_lend  # type: ignore[method-assign,assignment]
    Connection.send = bent_send  # type: ignore[method-assign]


def _bend_clock(offset: Path) -> None:
    """Shift the wall clock; durations (`time.monotonic`) are not affected."""
    seconds, nanoseconds = time.time, time.time_ns

    def off_s() -> float:
        try:
            return float(offset.read_text(encoding="utf-8") or 0.0)
        except FileNotFoundError:
            return 0.0

    time.time = lambda: seconds() + off_s()
    time.time_ns = lambda: nanoseconds() + round(off_s() * 1e9)


def _bend_disk(write_s: float, most: float = float("inf"), gate: str = "") -> None:
    from refocusd.formats.ndtiff import stack as ndtiff_stack

    write_all = ndtiff_stack.write_all

    frames = 0

    def slow_write(file: Any, data: Any) -> None:
        nonlocal frames
        # Pixels, even those of a 64x64 frame; headers and metadata are shorter.
        half = len(data) // 2 if len(data) >= 1 << 12 else 0
        if half:
            write_all(file, data[:half])
            time.sleep(write_s)
            frames += 1
            while frames > most and not Path(gate).exists():
                time.sleep(0.02)
        write_all(file, data[half:])

    ndtiff_stack.write_all = slow_write


if "BAD_WORKER" in os.environ and {"refocusd.worker", "worker"} & set(sys.orig_argv):
    _fault, _every, _late_s = os.environ["BAD_WORKER"].split()
    _bend(_fault, int(_every), float(_late_s))
if "BAD_CLOCK" in os.environ:
    _bend_clock(Path(os.environ["BAD_CLOCK"]))
if "SLOW_DISK" in os.environ and {"run", "process", "resume"} & set(sys.orig_argv):
    _write_s, *_held = os.environ["SLOW_DISK"].split(maxsplit=2)
    _bend_disk(float(_write_s), *((int(_held[0]), _held[1]) if _held else ()))
