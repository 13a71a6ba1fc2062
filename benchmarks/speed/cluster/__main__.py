"""Plates on a cluster: what more workers give, what Dask costs, and what a million frames would take.

    python -m benchmarks.speed.cluster --json benchmarks/results/cluster-<machine>.json
    python -m benchmarks.speed.cluster --guide benchmarks/results/cluster-<machine>.json   into docs/guide/plates.md
    python -m benchmarks.speed.cluster --quick             does it run?  Its figures mean little
    python -m benchmarks.speed.cluster --parts live        one part alone
    python -m benchmarks.speed.cluster --parts slide       one image of 20 000 x 20 000 px; not among the default parts

`process` is the command without a cluster: a daemon in the command, and one worker.  All engines have one
thread.  `process` keeps more than one core busy, so it is compared with one worker of a cluster on one core
as well, to which both are bound.  How much two workers do is judged by what two bare engines do, each in a
process of its own.  `linear` has two workers with an engine of known time.  A million frames are planned from the time and the memory of one worker, as measured here.  The whole
plate has 384 wells, 2 fields and 3 planes of 128 x 128 px, refocused by deconvolution and verified.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
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
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
import psutil
import zarr
from rich.table import Table
from scipy.ndimage import gaussian_filter

from benchmarks.shared.machine import machine, scratch
from benchmarks.shared.stream import sample_frames, stream
from refocusd.cli.console import console, messages, write_json
from refocusd.cluster.job import engines_of
from refocusd.config import Settings
from refocusd.engines.engine import BlurEngine
from refocusd.errors import RefocusdError
from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate
from refocusd.processes.daemon_process import DaemonProcess

PARTS = ("workers", "linear", "plate", "live", "slide")
#: Where the guide shows what was measured.
GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide" / "plates.md"
#: Above this, others keep the processor busy.
MOST_BUSY_PERCENT = 20.0
#: Of `plate`: wells, fields of each, planes of each, and their side.
WELLS, FIELDS, PLANES, PLATE_PX = 384, 2, 3, 128
#: Of `slide`: its side, that of the specimen which is repeated over it, and the blur that is stated.
SLIDE_PX, SPECIMEN_PX, SLIDE_BLUR_PX = 20_000, 2000, 20.0
#: Flags of ``refocusd process`` for each contender of `workers`.
CONTENDERS = {
    "process": ["--workers", "1"],
    "cluster, 1 worker": ["--cluster", "local", "--max-jobs", "1"],
    "cluster, 2 workers": ["--cluster", "local", "--max-jobs", "2"],
}
#: Those of them that are also bound to one core, where the system can.
ON_ONE_CORE = " on one core"
if hasattr(os, "sched_setaffinity"):
    CONTENDERS |= {
        name + ON_ONE_CORE: CONTENDERS[name] for name in ("process", "cluster, 1 worker")
    }
#: How long bare engines are counted, s.
BARE_S = 20.0
SLOW_ENGINE = Path(__file__).parent / "slow_engine"
ENGINE_MS = 20.0
#: Frames of a position, and how many distinct ones there are.
PER_POSITION, DISTINCT = 20, 8
#: Of `plan`: frames, workers at a time, and a public price of a computer with two cores and 8 GiB.
PLANNED_FRAMES, PLANNED_WORKERS, DOLLARS_PER_TWO_CORES_HOUR = 1_000_000, 64, 0.0816
PRICE = (
    "Amazon m7g.large, Linux, on demand, us-east-1, as [reported on 17 June 2026]"
    "(https://www.factualminds.com/blog/amazon-ec2-on-demand-pricing-instance-families-2026/)"
)


def write_plate(
    path: Path,
    frames: int,
    shape: tuple[int, int],
    *,
    fields: int = 1,
    per_field: int = PER_POSITION,
    axis: str = "t",
) -> Path:
    """Write a plate of blurred fields, each with so many time points or planes, as OME-Zarr 0.5."""
    rng = np.random.default_rng(0)
    pixels = [_field(rng, shape) for _ in range(DISTINCT)]
    plate = zarr.open_group(path, mode="w")
    positions = -(-frames // (fields * per_field))
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
        images = [{"path": str(field)} for field in range(fields)]
        well.attrs["ome"] = {"version": "0.5", "well": {"images": images}}
        for field in range(fields):
            left = frames - (number * fields + field) * per_field
            _write_field(well.create_group(str(field)), axis, min(per_field, left), pixels)
    return path


def _write_field(image: Any, axis: str, frames: int, pixels: Sequence[Pixels]) -> None:
    scale = [{"type": "scale", "scale": [2.0, 0.645, 0.645]}]
    space = ({"name": name, "type": "space", "unit": "micrometer"} for name in "zyx")
    axes = [{"name": "t", "type": "time"}, *space]
    axes = [each for each in axes if each["name"] in (axis, "y", "x")]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    multiscale = {"name": "field", "axes": axes, "datasets": datasets}
    image.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    height, width = pixels[0].shape
    array = image.create_array(
        "0",
        shape=(frames, height, width),
        dtype="uint16",
        chunks=(1, height, width),
        dimension_names=[axis, "y", "x"],
    )
    for at in range(frames):
        array[at] = pixels[at % len(pixels)]


def _field(rng: np.random.Generator, shape: tuple[int, int], blur_px: float = 6.0) -> Pixels:
    """Squares that are 2.7 times as wide as the blur, out of focus."""
    sharp = np.zeros(shape, np.float32)
    half, room = round(blur_px * 4 / 3), 3000 * (blur_px / 6) ** 2
    for y, x in rng.random((max(2, round(shape[0] * shape[1] / room)), 2)) * shape:
        rows = slice(max(0, int(y) - half), int(y) + half)
        sharp[rows, max(0, int(x) - half) : int(x) + half] += 800.0
    noisy = 200 + gaussian_filter(sharp, blur_px, mode="wrap") + rng.normal(0, 6, shape)
    return noisy.clip(0, 65535).astype(np.uint16)


def process(
    plate: Path, folder: Path, flags: Sequence[str], *, one_core: bool = False
) -> dict[str, float]:
    """Run ``refocusd process`` on a plate: s of the whole command, frames/s, and MiB of its largest process.

    `one_core` binds it to the first core that there is.
    """
    folder.mkdir()
    report = folder / "report.json"
    command = [sys.executable, "-m", "refocusd", "process", str(plate), "--output", str(folder)]
    command += ["--threads", "1", "--ledgers", str(folder / "ledgers"), "--json", str(report)]
    begun = time.perf_counter()
    bound = _bind_to_one_core if one_core else None
    before = _processor_s()
    with subprocess.Popen(
        [*command, *flags], stderr=subprocess.PIPE, text=True, preexec_fn=bound
    ) as running:
        peak = _Peak(running.pid)
        _, said = running.communicate()
    took_s = time.perf_counter() - begun
    if running.returncode:
        raise RefocusdError(f"{' '.join(flags)} ended with {running.returncode}: {said[-2000:]}")
    (done,) = json.loads(report.read_text(encoding="utf-8"))["datasets"]
    return {
        "command_s": took_s,
        "frames_per_s": done["frames_per_s"],
        "frames_refocused": done["refocused"],
        "processor_s": _processor_s() - before,
        "worker_mib": peak.stop() / 2**20,
    }


def _bind_to_one_core() -> None:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def _processor_s() -> float:
    """Processor time of the programs that have ended, s."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Peak:
    """The most memory that a process or one of its children takes, read ten times a second."""

    def __init__(self, pid: int) -> None:
        self._of = psutil.Process(pid)
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.wait(0.1):
            with suppress(psutil.NoSuchProcess):
                for child in (self._of, *self._of.children(recursive=True)):
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
    """Frames/s of one bare engine, and of two in processes of their own: no code around them."""
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
    frame = _field(np.random.default_rng(0), shape)
    out = np.empty_like(frame)
    for _ in range(3):  # compiled for the size
        engine.refocus(frame, out, told)
    ready.wait()
    begun, frames = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        engine.refocus(frame, out, told)
        frames += 1
    found.put(frames / (time.perf_counter() - begun))


def measure_linear(folder: Path, counts: Sequence[int], shape: tuple[int, int]) -> dict[str, Any]:
    """Frames/s of two workers with an engine of known time, on plates of more and more fields."""
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
    """A whole plate through two workers once, and whether every frame is accounted for."""
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
    """One large image in tiles by the default model: its time, and the most memory that it takes."""
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


def write_slide(path: Path, side_px: int) -> Path:
    """Write an OME-Zarr image of blurred nuclei, the same ones again and again."""
    rng = np.random.default_rng(0)
    specimen = _field(rng, (SPECIMEN_PX, SPECIMEN_PX), SLIDE_BLUR_PX)
    image = zarr.open_group(path, mode="w")
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [0.325, 0.325]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    multiscale: dict[str, Any] = {"name": "slide", "axes": axes, "datasets": datasets}
    image.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    array = image.create_array(
        "0",
        shape=(side_px, side_px),
        dtype="uint16",
        chunks=(SPECIMEN_PX // 2, SPECIMEN_PX // 2),
        dimension_names=["y", "x"],
    )
    for top in range(0, side_px, SPECIMEN_PX):
        rows = min(SPECIMEN_PX, side_px - top)
        row = np.tile(specimen[:rows], -(-side_px // SPECIMEN_PX))
        array[top : top + rows] = row[:, :side_px]
    return path


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
        "dollars": hours / min(1.0, measured["efficiency_of_two"]) * DOLLARS_PER_TWO_CORES_HOUR / 2,
    }


def plan_as_markdown(plan: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """The same as a table for the guide."""
    width, height = measured["frame_px"]
    one = measured["contenders"]["cluster, 1 worker"]
    rows = {
        "measured": f"{one['frames_per_s']:.1f} frames a second by one worker; two do "
        f"{measured['efficiency_of_two']:.2f} times as much as twice one",
        "frames": f"{plan['frames']:,} of {width} × {height} px, {plan['raw_tb']:.2f} TB",
        "jobs": f"{plan['jobs']:,} positions of {PER_POSITION} frames",
        "time of one worker": f"{plan['worker_hours']:.0f} h",
        f"time of {plan['workers']} workers": f"{plan['hours']:.1f} h",
        "memory of a worker": f"{plan['worker_gib']:.1f} GiB",
        "cost of cores": f"${plan['dollars']:.2f}, at ${DOLLARS_PER_TWO_CORES_HOUR} an hour for two cores with "
        f"8 GiB ({PRICE})",
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())]
    )


def into_guide(figures: Path, guide: Path = GUIDE) -> str:
    """The guide's page with the plan of these figures in its place."""
    found = json.loads(figures.read_text(encoding="utf-8"))
    table = plan_as_markdown(found["plan"], found["workers"])
    before, begin, rest = guide.read_text(encoding="utf-8").partition("<!-- plan: ")
    mark, end, after = rest.partition("<!-- plan ends -->")
    return f"{before}{begin}{mark.splitlines()[0]}\n{table}\n{end}{after}"


def _table(found: Mapping[str, Any]) -> Table:
    table = Table("figure", "value", "goal")
    if workers := found.get("workers"):
        for name, run in workers["contenders"].items():
            told = f"{run['frames_per_s']:.1f} frames/s, {run['command_s']:.0f} s, {run['worker_mib']:.0f} MiB"
            table.add_row(name, told, "")
        table.add_row("efficiency of two workers", f"{workers['efficiency_of_two']:.2f}", "≥ 0.9")
        told = f"{workers['efficiency_of_two_on_two_cores']:.2f}"
        table.add_row("the same, to one bound to one core", told, "≥ 0.9")
        own = workers["machines_own"]
        told = f"{own['frames_per_s']:.1f} frames/s, two {own['frames_per_s_of_two']:.1f}"
        table.add_row("a bare engine", told, "")
        table.add_row("the machine's own efficiency", f"{own['efficiency_of_two']:.2f}", "")
        for name, against in (
            ("on_one_core_", "process, one core each"),
            ("of_two_", "process, two cores each"),
            ("", "process, which uses two cores"),
        ):
            if (percent := workers.get(f"overhead_{name}percent")) is not None:
                goal = "≤ 5 %" if name else ""
                table.add_row(f"overhead against {against}", f"{percent:.1f} %", goal)
    if linear := found.get("linear"):
        for count, rate in linear["frames_per_s_by_frames"].items():
            table.add_row(f"{count} frames", f"{rate:.1f} frames/s", "")
        table.add_row("change of the rate", f"{linear['change_percent']:.1f} %", "≥ -5 %")
    if plate := found.get("plate"):
        name = f"{plate['wells']} wells, {plate['frames']} frames of {plate['side_px']} px"
        clean = "verified" if plate["verify_status"] == 0 else "NOT verified"
        told = f"{plate['frames_per_s']:.1f} frames/s, {plate['command_s']:.0f} s, {clean}"
        table.add_row(name, told, "verified")
    if slide := found.get("slide"):
        told = f"{slide['command_s']:.0f} s, {slide['most_memory_mib']:.0f} MiB at most"
        table.add_row(f"{slide['side_px']} px squared, {slide['raw_mb']:.0f} MB", told, "")
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
        prog="python -m benchmarks.speed.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:-1])
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--guide", type=Path, metavar="FILE", help="put the plan of these figures into the guide"
    )
    parser.add_argument("--quick", action="store_true", help="few frames, under 5 minutes")
    parser.add_argument("--disk", type=Path, default=Path(gettempdir()), help="folder to write to")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    if options.guide:
        GUIDE.write_text(into_guide(options.guide), encoding="utf-8")
        return 0
    quick = options.quick
    found: dict[str, Any] = {"machine": machine(), "quick": quick}
    if found["machine"]["cpu_busy_before_percent"] > MOST_BUSY_PERCENT:
        messages.print(
            "other programs keep the processor busy: `process` yields to them and may take many times "
            "as long, and the figures say little"
        )
    try:
        with scratch(options.disk) as folder:
            if "workers" in options.parts:
                frames, rounds = (20, 1) if quick else (options.frames, options.rounds)
                found["workers"] = measure_workers(folder, frames, (520, 696), rounds)
                own = measure_own((520, 696), 1.0 if quick else BARE_S)
                found["workers"]["machines_own"] = own
                found["plan"] = plan_for(found["workers"])
            if "linear" in options.parts:
                counts = (20, 40) if quick else (1000, 10_000)
                found["linear"] = measure_linear(folder, counts, (128, 128))
            if "plate" in options.parts:
                found["plate"] = measure_plate(folder, 4 if quick else WELLS)
            if "slide" in options.parts:
                found["slide"] = measure_slide(folder, 10_000 if quick else SLIDE_PX)
            if "live" in options.parts:
                seconds, workers = (0.5, (1, 2)) if quick else (10.0, (1, 2, 4, 8))
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
