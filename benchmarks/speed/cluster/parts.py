"""The parts of the benchmark; each function returns the figures of its part."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.shared.machine import scratch
from benchmarks.shared.stream import sample_frames, stream
from benchmarks.speed.cluster.command import ENGINE_MS, engine_takes, process
from benchmarks.speed.cluster.plates import (
    SLIDE_BLUR_PX,
    sample_field,
    write_plate,
    write_slide,
)
from refocusd.cli.console import messages
from refocusd.cluster.job import engines_of
from refocusd.config import Settings
from refocusd.engines.engine import BlurEngine
from refocusd.errors import RefocusdError
from refocusd.imaging.blur import BlurEstimate
from refocusd.processes.daemon_process import DaemonProcess

#: Of `plate`: wells, fields per well, planes per field, and the side of a plane.
WELLS, FIELDS, PLANES, PLATE_PX = 384, 2, 3, 128
#: Side of `slide`.
SLIDE_PX = 20_000
#: Flags of ``refocusd process`` for each contender of `workers`.
CONTENDERS = {
    "process": ["--workers", "1"],
    "cluster, 1 worker": ["--cluster", "local", "--max-jobs", "1"],
    "cluster, 2 workers": ["--cluster", "local", "--max-jobs", "2"],
}
#: Suffix of the contenders that are bound to one core, on systems that can do that.
ON_ONE_CORE = " on one core"
if hasattr(os, "sched_setaffinity"):
    CONTENDERS |= {
        name + ON_ONE_CORE: CONTENDERS[name] for name in ("process", "cluster, 1 worker")
    }
#: Duration of the measurement of bare engines, s.
BARE_S = 20.0


def measure_workers(
    folder: Path, frames: int, shape: tuple[int, int], rounds: int, seed: int = 0
) -> dict[str, Any]:
    """Each contender on the same plate, in a new random order each round; medians over the rounds."""
    plate = write_plate(folder / "plate.zarr", frames, shape)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for turn in range(rounds):
        for name in Random(seed + turn).sample(list(CONTENDERS), len(CONTENDERS)):
            with scratch(folder) as place:
                bound = name.endswith(ON_ONE_CORE)
                run = process(plate, place / "run", CONTENDERS[name], one_core=bound)
                found[name].append(run)
                messages.print(f"{name}: {found[name][-1]}", markup=False)
    medians = {
        name: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    rates = {name: run["frames_per_s"] for name, run in medians.items()}
    one, two = rates["cluster, 1 worker"], rates["cluster, 2 workers"]
    overheads = {
        f"overhead{kind.replace(' ', '_')}_percent": (
            rates[f"process{kind}"] / rates[f"cluster, 1 worker{kind}"] - 1
        )
        * 100
        for kind in ("", ON_ONE_CORE)
        if f"process{kind}" in rates
    }
    return {
        "frames": frames,
        "frame_px": list(shape[::-1]),
        "rounds": rounds,
        "contenders": medians,
        "efficiency_of_two": two / (2 * one),
        "efficiency_of_two_on_two_cores": two
        / (2 * rates.get("cluster, 1 worker" + ON_ONE_CORE, one)),
        **overheads,
        "overhead_of_two_percent": (rates["process"] / two - 1) * 100,
    }


def measure_own(shape: tuple[int, int], seconds: float) -> dict[str, float]:
    """Frames/s of one bare engine, and of two in separate processes, without refocusd around them."""
    rates = {}
    for count in (1, 2):
        spawn = multiprocessing.get_context("spawn")
        ready, found = spawn.Barrier(count), spawn.SimpleQueue()
        engines = [
            spawn.Process(target=_bare_engine, args=(shape, seconds, ready, found))
            for _ in range(count)
        ]
        for each in engines:
            each.start()
        rates[count] = sum(found.get() for _ in engines)
        for each in engines:
            each.join()
    return {
        "frames_per_s": rates[1],
        "frames_per_s_of_two": rates[2],
        "efficiency_of_two": rates[2] / (2 * rates[1]),
    }


def _bare_engine(shape: tuple[int, int], seconds: float, ready: Any, found: Any) -> None:
    engine = engines_of(Settings(threads=1)).engines[""]
    assert isinstance(engine, BlurEngine)
    told = BlurEstimate(6.0, 0.08, "frames")
    frame = sample_field(np.random.default_rng(0), shape)
    out = np.empty_like(frame)
    for _ in range(3):  # warm-up: compiles the network for the size
        engine.refocus(frame, out, told)
    ready.wait()
    begun, frames = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        engine.refocus(frame, out, told)
        frames += 1
    found.put(frames / (time.perf_counter() - begun))


def measure_linear(folder: Path, counts: Sequence[int], shape: tuple[int, int]) -> dict[str, Any]:
    """Frames/s of two workers with an engine of known time, for each number of frames in `counts`."""
    rates = {}
    flags = [*CONTENDERS["cluster, 2 workers"], "--backend", "identity"]
    for count in counts:
        with scratch(folder) as place, engine_takes():
            plate = write_plate(place / "plate.zarr", count, shape)
            done = process(plate, place / "run", flags)
            rates[str(count)] = done["frames_per_s"]
            messages.print(f"{count} frames: {done}", markup=False)
    first, *_, last = rates.values()
    return {
        "engine_ms": ENGINE_MS,
        "frame_px": list(shape[::-1]),
        "frames_per_s_by_frames": rates,
        "change_percent": (last / first - 1) * 100,
    }


def measure_plate(folder: Path, wells: int) -> dict[str, Any]:
    """A whole plate through two workers once; also verifies the output."""
    count = wells * FIELDS * PLANES
    raw = folder / "plate384.zarr"
    write_plate(raw, count, (PLATE_PX, PLATE_PX), fields=FIELDS, per_field=PLANES, axis="z")
    flags = [*CONTENDERS["cluster, 2 workers"], "--backend", "deconvolution"]
    done = process(raw, folder / "run384", flags)
    messages.print(f"{wells} wells: {done}", markup=False)
    where = ["--ledgers", str(folder / "run384" / "ledgers")]
    output = folder / "run384" / "plate384_refocused.zarr"
    verified = subprocess.run(
        [sys.executable, "-m", "refocusd", "verify", str(output), *where],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    about = {"wells": wells, "fields": FIELDS, "planes": PLANES, "side_px": PLATE_PX}
    return {**about, "frames": count, **done, "verify_status": verified.returncode}


def measure_slide(folder: Path, side_px: int) -> dict[str, Any]:
    """One large image, refocused in tiles by the default model: its time and its peak memory."""
    raw = write_slide(folder / "slide.zarr", side_px)
    done = process(raw, folder / "slide", ["--blur-px", str(SLIDE_BLUR_PX)])
    return {
        "side_px": side_px,
        "blur_px": SLIDE_BLUR_PX,
        "raw_mb": side_px**2 * 2 / 1e6,
        "frames_refocused": done["frames_refocused"],
        "command_s": done["command_s"],
        "most_memory_mib": done["worker_mib"],
    }


def measure_live(
    folder: Path, seconds: float, side_px: int, workers: Sequence[int]
) -> dict[str, Any]:
    """Frames/s of one acquisition with an engine of known time, and with one of no time (the broker's limit)."""
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
            # The first acquisition is not counted: it waits until all workers are ready.
            for name, count in (("warm", max(32, 8 * workers)), ("counted", frames)):
                done = stream(daemon.endpoint, place / name, pixels, count, fps=None, inline=False)
        if done.unaccounted or done.failed:
            raise RefocusdError(f"{done.unaccounted} frames unaccounted, {done.failed} failed")
        messages.print(f"{workers} workers, {side_px} px: {frames / done.seconds:.1f} frames/s")
        return frames / done.seconds
