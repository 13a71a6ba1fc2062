"""Plates on a cluster: what more workers give, what Dask costs, and what a million frames would take.

    python -m benchmarks.cluster --json benchmarks/results/cluster-<machine>.json
    python -m benchmarks.cluster --quick             does it run?  Its figures mean little
    python -m benchmarks.cluster --parts live        one part alone

`process` is the command without a cluster: a daemon in the command, and one worker.  All engines have one
thread.  A million frames are planned from the time and the memory of one worker, as measured here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import gettempdir
from typing import Any
from unittest import mock

if __package__ in (None, ""):  # run as a file: the helpers are found from the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import psutil
import zarr
from rich.table import Table
from scipy.ndimage import gaussian_filter

from benchmarks.overhead_machine import machine, scratch
from benchmarks.overhead_stream import sample_frames, stream
from refocusd.cli.console import console, messages, write_json
from refocusd.errors import RefocusdError
from refocusd.frame import Pixels
from refocusd.processes.daemon_process import DaemonProcess

PARTS = ("workers", "linear", "live")
#: Flags of ``refocusd process`` for each contender of `workers`.
CONTENDERS = {
    "process": ["--workers", "1"],
    "cluster, 1 worker": ["--cluster", "local", "--max-jobs", "1"],
    "cluster, 2 workers": ["--cluster", "local", "--max-jobs", "2"],
}
SLOW_ENGINE = Path(__file__).parent / "slow_engine"
ENGINE_MS = 20.0
#: Frames of a position, and how many distinct ones there are.
PER_POSITION, DISTINCT = 20, 8
#: Of `plan`: frames, workers at a time, and the list price of one of two vCPUs of AWS' m6i.large
#: (2 vCPUs, 8 GiB, Linux, on demand, us-east-1).
PLANNED_FRAMES, PLANNED_WORKERS, DOLLARS_PER_WORKER_HOUR = 1_000_000, 64, 0.096 / 2


def write_plate(path: Path, frames: int, shape: tuple[int, int]) -> Path:
    """Write a plate of blurred fields, 20 time points each, as OME-Zarr 0.5; takes a well a position."""
    rng = np.random.default_rng(0)
    pixels = [_field(rng, shape) for _ in range(DISTINCT)]
    plate = zarr.open_group(path, mode="w")
    positions = -(-frames // PER_POSITION)
    names = [f"{chr(65 + n // 24 % 26)}{n // 624 or ''}/{n % 24 + 1}" for n in range(positions)]
    rows, columns = ([n.split("/")[i] for n in names] for i in (0, 1))
    row_names, column_names = list(dict.fromkeys(rows)), list(dict.fromkeys(columns))
    wells = [
        {"path": name, "rowIndex": row_names.index(row), "columnIndex": column_names.index(column)}
        for name, row, column in zip(names, rows, columns, strict=True)
    ]
    about: dict[str, Any] = {
        "name": path.stem,
        "rows": [{"name": row} for row in row_names],
        "columns": [{"name": column} for column in column_names],
        "wells": wells,
    }
    plate.attrs["ome"] = {"version": "0.5", "plate": about}
    for number, name in enumerate(names):
        well = plate.create_group(name)
        well.attrs["ome"] = {"version": "0.5", "well": {"images": [{"path": "0"}]}}
        _write_field(well, min(PER_POSITION, frames - number * PER_POSITION), pixels)
    return path


def _write_field(well: Any, frames: int, pixels: Sequence[Pixels]) -> None:
    image = well.create_group("0")
    scale = [{"type": "scale", "scale": [1.0, 0.645, 0.645]}]
    axes = [
        {"name": "t", "type": "time"},
        *({"name": name, "type": "space", "unit": "micrometer"} for name in "yx"),
    ]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    multiscale = {"name": "field", "axes": axes, "datasets": datasets}
    image.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    height, width = pixels[0].shape
    array = image.create_array(
        "0", shape=(frames, height, width), dtype="uint16", chunks=(1, height, width)
    )
    for at in range(frames):
        array[at] = pixels[at % len(pixels)]


def _field(rng: np.random.Generator, shape: tuple[int, int]) -> Pixels:
    """Discs of 16 px, out of focus."""
    sharp = np.zeros(shape, np.float32)
    for y, x in rng.random((max(2, shape[0] * shape[1] // 3000), 2)) * shape:
        sharp[max(0, int(y) - 8) : int(y) + 8, max(0, int(x) - 8) : int(x) + 8] += 800.0
    noisy = 200 + gaussian_filter(sharp, 6.0) + rng.normal(0, 6, shape)
    return noisy.clip(0, 65535).astype(np.uint16)


def process(plate: Path, folder: Path, flags: Sequence[str]) -> dict[str, float]:
    """Run ``refocusd process`` on a plate: s of the whole command, frames/s, and MiB of its largest process."""
    folder.mkdir()
    report = folder / "report.json"
    command = [sys.executable, "-m", "refocusd", "process", str(plate), "--output", str(folder)]
    command += ["--threads", "1", "--ledgers", str(folder / "ledgers"), "--json", str(report)]
    begun = time.perf_counter()
    with subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True) as running:
        peak = _Peak(running.pid)
        _, said = running.communicate()
    took_s = time.perf_counter() - begun
    if running.returncode:
        raise RefocusdError(f"{' '.join(flags)} ended with {running.returncode}: {said[-2000:]}")
    (done,) = json.loads(report.read_text(encoding="utf-8"))["datasets"]
    return {
        "command_s": took_s,
        "frames_per_s": done["frames_per_s"],
        "worker_mib": peak.stop() / 2**20,
    }


class _Peak:
    """The most memory that one child of a process takes, read ten times a second."""

    def __init__(self, pid: int) -> None:
        self._of = psutil.Process(pid)
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.wait(0.1):
            with suppress(psutil.NoSuchProcess):
                for child in self._of.children(recursive=True):
                    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        self._most = max(self._most, child.memory_info().rss)

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._most


def measure_workers(
    folder: Path, frames: int, shape: tuple[int, int], rounds: int, seed: int = 0
) -> dict[str, Any]:
    """Each contender on the same plate, in an order drawn anew each round; medians of the rounds."""
    plate = write_plate(folder / "plate.zarr", frames, shape)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for turn in range(rounds):
        for name in Random(seed + turn).sample(list(CONTENDERS), len(CONTENDERS)):
            with scratch(folder) as place:
                found[name].append(process(plate, place / "run", CONTENDERS[name]))
                messages.print(f"{name}: {found[name][-1]}", markup=False)
    medians = {
        name: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    alone, one, two = (medians[name]["frames_per_s"] for name in CONTENDERS)
    return {
        "frames": frames,
        "frame_px": list(shape[::-1]),
        "rounds": rounds,
        "contenders": medians,
        "efficiency_of_two": two / (2 * one),
        "overhead_percent": (alone / one - 1) * 100,
        "overhead_of_command_percent": (
            medians["cluster, 1 worker"]["command_s"] / medians["process"]["command_s"] - 1
        )
        * 100,
    }


def measure_linear(folder: Path, counts: Sequence[int], shape: tuple[int, int]) -> dict[str, Any]:
    """Frames/s of two workers on plates of more and more fields."""
    rates = {}
    for count in counts:
        with scratch(folder) as place:
            plate = write_plate(place / "plate.zarr", count, shape)
            done = process(plate, place / "run", CONTENDERS["cluster, 2 workers"])
            rates[str(count)] = done["frames_per_s"]
            messages.print(f"{count} frames: {done}", markup=False)
    first, *_, last = rates.values()
    return {
        "frame_px": list(shape[::-1]),
        "frames_per_s_by_frames": rates,
        "change_percent": (last / first - 1) * 100,
    }


def measure_live(
    folder: Path, seconds: float, side_px: int, workers: Sequence[int]
) -> dict[str, Any]:
    """Frames/s of one acquisition with an engine of known time; and without one: the broker's limit."""
    paced = {
        str(count): _live(folder, count, side_px, round(seconds * count * 1e3 / ENGINE_MS))
        for count in workers
    }
    most = 1e3 / ENGINE_MS
    limits = {}
    for side in (side_px, 2048):
        frames = round(seconds * (1000 if side == side_px else 60))
        fps = _live(folder, 2, side, frames, engine_ms=0.0)
        limits[str(side)] = {"frames_per_s": fps, "mb_per_s": fps * side * side * 2 / 1e6}
    return {
        "engine_ms": ENGINE_MS,
        "side_px": side_px,
        "frames_per_s_by_workers": paced,
        "share_of_ideal_by_workers": {n: fps / (most * int(n)) for n, fps in paced.items()},
        "limit_by_side_px": limits,
    }


def _live(
    folder: Path, workers: int, side_px: int, frames: int, engine_ms: float = ENGINE_MS
) -> float:
    with scratch(folder) as place, engine_takes(engine_ms):
        flags = ["--backend", "identity", "--workers", str(workers), "--policy", "complete"]
        flags += ["--ledgers", str(place / "ledgers"), "--no-trust-map"]
        with DaemonProcess(flags, place / "refocusd.log") as daemon:
            pixels = sample_frames(side_px)
            # The first acquisition waits for all workers to be ready.
            for name, count in (("warm", max(32, 8 * workers)), ("counted", frames)):
                done = stream(daemon.endpoint, place / name, pixels, count, fps=None, inline=False)
        if done.unaccounted or done.failed:
            raise RefocusdError(f"{done.unaccounted} frames unaccounted, {done.failed} failed")
        messages.print(f"{workers} workers, {side_px} px: {frames / done.seconds:.1f} frames/s")
        return frames / done.seconds


@contextmanager
def engine_takes(milliseconds: float = ENGINE_MS) -> Iterator[None]:
    """Have the identity engine of the processes that are started meanwhile take so long a frame."""
    path = os.pathsep.join(filter(None, [str(SLOW_ENGINE), os.environ.get("PYTHONPATH", "")]))
    with mock.patch.dict(
        os.environ, {"PYTHONPATH": path, "BENCHMARK_ENGINE_MS": str(milliseconds)}
    ):
        yield


def plan_for(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What `PLANNED_FRAMES` would take, if other computers' cores were as fast as those here."""
    one = measured["contenders"]["cluster, 1 worker"]
    hours = PLANNED_FRAMES / one["frames_per_s"] / 3600
    width, height = measured["frame_px"]
    return {
        "frames": PLANNED_FRAMES,
        "jobs": math.ceil(PLANNED_FRAMES / PER_POSITION),
        "workers": PLANNED_WORKERS,
        "worker_hours": hours,
        "hours": hours / PLANNED_WORKERS / min(1.0, measured["efficiency_of_two"]),
        "worker_gib": one["worker_mib"] / 1024,
        "raw_tb": PLANNED_FRAMES * width * height * 2 / 1e12,
        "dollars": hours / min(1.0, measured["efficiency_of_two"]) * DOLLARS_PER_WORKER_HOUR,
    }


def plan_as_markdown(plan: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """The same as a table for the guide."""
    width, height = measured["frame_px"]
    rows = {
        "frames": f"{plan['frames']:,} of {width} × {height} px, {plan['raw_tb']:.2f} TB",
        "jobs": f"{plan['jobs']:,} positions of {PER_POSITION} frames",
        "time of one worker": f"{plan['worker_hours']:.0f} h",
        f"time of {plan['workers']} workers": f"{plan['hours']:.1f} h",
        "memory of a worker": f"{plan['worker_gib']:.1f} GiB",
        "cost": f"${plan['dollars']:.0f}, at ${2 * DOLLARS_PER_WORKER_HOUR} an hour for two vCPUs with "
        "8 GiB (AWS m6i.large, on demand, us-east-1)",
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())]
    )


def _table(found: Mapping[str, Any]) -> Table:
    table = Table("figure", "value", "goal")
    if workers := found.get("workers"):
        for name, run in workers["contenders"].items():
            told = f"{run['frames_per_s']:.1f} frames/s, {run['command_s']:.0f} s, {run['worker_mib']:.0f} MiB"
            table.add_row(name, told, "")
        table.add_row("efficiency of two workers", f"{workers['efficiency_of_two']:.2f}", "≥ 0.9")
        table.add_row("overhead, frames/s", f"{workers['overhead_percent']:.1f} %", "≤ 5 %")
        whole = f"{workers['overhead_of_command_percent']:.1f} %"
        table.add_row("overhead, whole command", whole, "")
    if linear := found.get("linear"):
        for count, rate in linear["frames_per_s_by_frames"].items():
            table.add_row(f"{count} frames", f"{rate:.1f} frames/s", "")
        table.add_row("change of the rate", f"{linear['change_percent']:.1f} %", "± 5 %")
    if live := found.get("live"):
        for count, rate in live["frames_per_s_by_workers"].items():
            share = live["share_of_ideal_by_workers"][count]
            table.add_row(
                f"live, {count} workers", f"{rate:.0f} frames/s, {share:.0%} of ideal", ""
            )
        for side, limit in live["limit_by_side_px"].items():
            told = f"{limit['frames_per_s']:.0f} frames/s, {limit['mb_per_s']:.0f} MB/s"
            table.add_row(f"broker's limit, {side} px", told, "")
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; exit status 2 for an error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few frames, under 5 minutes")
    parser.add_argument("--disk", type=Path, default=Path(gettempdir()), help="folder to write to")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    quick = options.quick
    found: dict[str, Any] = {"machine": machine()}
    try:
        with scratch(options.disk) as folder:
            if "workers" in options.parts:
                frames, rounds = (40, 1) if quick else (options.frames, options.rounds)
                found["workers"] = measure_workers(folder, frames, (520, 696), rounds)
                found["plan"] = plan_for(found["workers"])
            if "linear" in options.parts:
                counts = (100, 200) if quick else (1000, 10_000)
                found["linear"] = measure_linear(folder, counts, (256, 256))
            if "live" in options.parts:
                seconds, workers = (1.0, (1, 2)) if quick else (10.0, (1, 2, 4, 8))
                found["live"] = measure_live(folder, seconds, 256, workers)
    except RefocusdError as error:
        messages.print(f"error: {error}", markup=False)
        return 2
    console.print(_table(found))
    if plan := found.get("plan"):
        console.print(plan_as_markdown(plan, found["workers"]), markup=False, soft_wrap=True)
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(options.json, {"measured_at": measured_at, **_rounded(found)})
    return 0


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
