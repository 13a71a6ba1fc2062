"""Processor time that the hook costs the acquiring process, by thread and by step.

    python -m benchmarks.speed.hook_cost [--side 2048] [--rate 40] [--frames 400] [--json FILE]

Frames are given to the hook's `Feed` at a fixed rate, as pycromanager does, and go to a real daemon
with the pass-through engine.  Unlike frames per second, processor time depends little on other programs:
it does not include waiting for a core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from refocusd.bench.machine import machine
from refocusd.frame import checksum
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.sources.feed import Feed

#: The first frames touch the ring's and the buffer's memory for the first time.
WARM_UP_FRAMES = 40


def threads_ms() -> dict[str, float]:
    """Processor time of this process's threads so far, ms, by the thread's name."""
    spent: dict[str, float] = {}
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    for task in Path("/proc/self/task").iterdir():
        name = names.get(int(task.name), "socket and others")
        name = "hook" if name == "MainThread" else name
        spent[name] = spent.get(name, 0.0) + int((task / "schedstat").read_text().split()[0]) / 1e6
    return spent


def measure(side: int, rate: float, frames: int, folder: Path, *, keep: bool) -> dict[str, Any]:
    """Processor time per frame, ms, by thread.

    With `keep` the buffer holds the camera's own arrays, as when the user has no hook; otherwise copies.
    """
    images = np.random.default_rng(0).integers(90, 4000, (4, side, side), np.uint16)
    flags = ["--backend", "identity", "--ledgers", str(folder / "ledgers")]
    with DaemonProcess(flags, folder / "daemon.log") as daemon:
        output = str(folder / "output")
        feed = Feed(daemon.endpoint, output=output, expected=0, buffer_nbytes=128 << 20)
        feed.begin("cost", has_raw=False)
        before = threads_ms()
        begun = time.perf_counter()
        in_hook_ms: list[float] = []
        for number in range(WARM_UP_FRAMES + frames):
            due = begun + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            while len(feed._state.buffer) > 4:  # no frame may be dropped if the machine is busy
                time.sleep(0.005)
            if number == WARM_UP_FRAMES:
                before = threads_ms()
            entered = time.thread_time()
            metadata = {"Axes": {"time": number}, "Exposure": 10.0}
            feed.take(images[number % 4], metadata, time.perf_counter_ns(), keep=keep)
            in_hook_ms.append(1e3 * (time.thread_time() - entered))
        after = threads_ms()
        feed.end()
        counts = feed.wait(60.0)
    assert counts is not None
    assert counts.passed_through == WARM_UP_FRAMES + frames, counts
    by_thread = {name: (after[name] - before.get(name, 0.0)) / frames for name in after}
    by_thread["hook"] = sum(in_hook_ms[WARM_UP_FRAMES:]) / frames
    return {
        "side_px": side,
        "rate_fps": rate,
        "frames": frames,
        "copied_in_hook": not keep,
        "cpu_ms_per_frame": by_thread,
    }


def steps(side: int, repeats: int = 100) -> dict[str, float]:
    """Processor time of the steps that every frame needs, each measured alone, ms."""
    images = np.random.default_rng(0).integers(90, 4000, (4, side, side), np.uint16)
    copies = [np.zeros_like(images[0]) for _ in range(16)]

    def spent_ms(do: Callable[[int], object]) -> float:
        begun = time.thread_time()
        for number in range(repeats):
            do(number)
        return 1e3 * (time.thread_time() - begun) / repeats

    return {
        "one copy": spent_ms(lambda n: np.copyto(copies[n % 16], images[n % 4])),
        "checksum": spent_ms(lambda n: checksum(copies[n % 16])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--rate", type=float, default=40.0, help="frames per second")
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = Table("frame", "part", "ms of processor time a frame")
    report: dict[str, Any] = {"machine": machine(), "sizes": []}
    for side, keep in itertools.product(arguments.side, (False, True)):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(side, arguments.rate, arguments.frames, Path(folder), keep=keep)
        found["steps_cpu_ms"] = steps(side)
        report["sizes"].append(found)
        spent = found["cpu_ms_per_frame"]
        frame = f"{side}², {'kept' if keep else 'copied in the hook'}"
        for name, value in {**spent, "all": sum(spent.values())}.items():
            table.add_row(frame, name, f"{value:.3f}")
        for name, value in found["steps_cpu_ms"].items():
            table.add_row(frame, f"({name})", f"{value:.3f}")
    Console(soft_wrap=True).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
