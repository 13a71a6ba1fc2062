"""``refocusd bench``: measure the engines on this computer.

Measures speed, memory and quality of every engine that works here.

examples:
  refocusd bench
  refocusd bench --size 512 1024 2048x2048 --precision f32 bf16 --json bench.json --plot bench.png
  refocusd bench --size 4096 --tile 512 1024 --batch 1 4

WORKER is the whole time a worker spends on a frame, NETWORK that of the engine alone.  LIMIT is the time that
the network's arithmetic and memory traffic would take at the rates measured on this device.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.table import Table

from refocusd.bench.combination import Combination, Result, median_interval, percentile
from refocusd.bench.machine import BUSY, busy_share, machine
from refocusd.bench.plot import write_plot
from refocusd.bench.session import run_session
from refocusd.bench.tuning import tune
from refocusd.cli.console import console, messages, plain, progress, say, write_json
from refocusd.cli.flags import frame_size
from refocusd.config import Backend, EngineOptions, Precision
from refocusd.errors import ConfigError
from refocusd.models.bundle import load_bundle
from refocusd.optional import need

#: Precisions to try if none is named.
_PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "openvino": ("f32", "bf16", "int8"),
    "tensorrt": ("f16", "f32"),
    "cuda": ("f16", "f32"),
}

JSON = "all figures"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--model", nargs="+", default=["live-nuclei"], help="models or bundles")
    parser.add_argument("--backend", nargs="+", choices=get_args(Backend))
    parser.add_argument(
        "--device",
        nargs="+",
        default=["CPU"],
        help="OpenVINO devices: CPU, GPU, NPU, AUTO (default: CPU)",
    )
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision))
    parser.add_argument(
        "--size",
        nargs="+",
        type=frame_size,
        default=[(side, side) for side in (512, 1024, 2048)],
        help="frame sizes: a side or WIDTHxHEIGHT, px (default: 512 1024 2048)",
    )
    parser.add_argument(
        "--tile", nargs="+", type=int, default=[0], help="sides of tiles, px; 0 chooses"
    )
    parser.add_argument(
        "--batch", nargs="+", type=int, default=[0], help="tiles per batch; 0 chooses"
    )
    parser.add_argument(
        "--tune",
        action="store_true",
        help="first find the best tiles for frames that do not fit whole; `refocusd run` then uses them",
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of a CPU engine; 0 chooses")
    parser.add_argument(
        "--engine-mib", type=int, default=0, help="memory of the engine, MiB; 0 chooses"
    )
    parser.add_argument("--frames", type=int, default=20, help="frames timed in each round")
    parser.add_argument("--rounds", type=int, default=3, help="new processes per combination")
    parser.add_argument("--plot", metavar="FILE", help="plot the results (PNG, SVG or PDF)")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    combinations = _combinations(arguments)
    if arguments.plot:
        need("matplotlib", "--plot", "calibrate")
    busy = busy_share()
    if busy > BUSY:
        messages.print(
            f"[bold red]!![/] other programs take {100 * busy:.0f} % of the processor, so "
            "these times are not reliable: close them and measure again"
        )
    with progress() as bar:
        task = bar.add_task("measuring")
        for combination in combinations if arguments.tune else ():
            bar.update(task, description=plain(f"tuning {combination.name}"))
            tune(combination)
        results = run_session(
            combinations,
            frames=arguments.frames,
            rounds=arguments.rounds,
            on_step=lambda name: bar.update(task, description=plain(name)),
        )
    measured = [result for result in results if not result.refused]
    if measured:
        console.print(_times(measured))
        console.print(_limits(measured))
    refused = [result for result in results if result.refused]
    for result in refused:
        say(f"-- {result.combination.name}: {result.refused}")
    write_json(
        arguments.json,
        {
            "machine": machine(),
            "busy_before_share": busy,
            "too_busy": busy > BUSY,
            "results": [result.as_json() for result in results],
        },
    )
    if arguments.plot:
        write_plot(Path(arguments.plot), results)
    return 1 if len(refused) == len(results) else 0


def _combinations(arguments: argparse.Namespace) -> list[Combination]:
    for name, value, high in (
        ("frames", arguments.frames, 100_000),
        ("rounds", arguments.rounds, 100),
    ):
        if not 1 <= value <= high:
            raise ConfigError(f"--{name} {value}: it must be between 1 and {high}")
    for model in arguments.model:
        load_bundle(model)  # a missing or damaged model is reported before any work
    named: Sequence[Backend] = arguments.backend or ("openvino", "tensorrt", "cuda")
    engines = [
        (backend, precision, device)
        for backend in named
        for device in (arguments.device if backend == "openvino" else ["CPU"])
        for precision in (arguments.precision or _precisions(backend, device))
    ]
    return [
        Combination(
            model,
            EngineOptions(
                backend,
                precision,
                arguments.threads,
                tile,
                batch,
                arguments.engine_mib,
                device=device,
            ),
            shape,
        )
        for model, (backend, precision, device), shape, tile, batch in itertools.product(
            arguments.model, engines, arguments.size, arguments.tile, arguments.batch
        )
    ]


def _precisions(backend: Backend, device: str) -> tuple[Precision, ...]:
    """The precisions to try if none is named."""
    if device.upper() != "CPU":
        return ("auto", "f32")
    return _PRECISIONS.get(backend, ("auto",))


def _engine(result: Result) -> tuple[str, str]:
    """Engine and frame, as the tables name them."""
    made = result.combination
    name = f"{made.model} {made.options.backend} {result.rounds[0].precision}"
    if made.options.device.upper() != "CPU":
        name += f" {result.rounds[0].device}"
    if made.options.tile_px or made.options.tile_batch:
        name += f" {made.options.tile_px or 'auto'}×{made.options.tile_batch or 'auto'}"
    return plain(name), f"{made.shape[1]}×{made.shape[0]}"


def _times(results: Sequence[Result]) -> Table:
    table = Table("engine", "frame", "worker ms", "95 %", "p95", "p99", "fps", title="speed")
    for result in results:
        times = result.worker_ms
        low, high = median_interval(times)
        table.add_row(
            *_engine(result),
            f"{percentile(times, 50):.1f}",
            f"{low:.1f}-{high:.1f}",
            f"{percentile(times, 95):.1f}",
            f"{percentile(times, 99):.1f}",
            f"{result.fps:.1f}",
        )
    return table


def _limits(results: Sequence[Result]) -> Table:
    table = Table(
        "engine", "frame", "network ms", "limit ms", "of limit", "peak MiB", "off f32", "PSNR dB",
        title="limit, memory, and counts off f32: p99.9 (max)",
    )  # fmt: skip
    for result in results:
        quality = result.quality
        table.add_row(
            *_engine(result),
            f"{percentile(result.engine_ms, 50):.1f}",
            _cell(result.roofline_ms, ".1f"),
            _cell(result.of_roofline, ".0%"),
            _cell(result.peak_mib, ".0f"),
            f"{quality.p999_counts:.0f} ({quality.max_counts:.0f})" if quality else "-",
            _cell(quality.psnr_db, ".1f", "equal") if quality else "-",
        )
    return table


def _cell(value: float | None, digits: str, missing: str = "-") -> str:
    return missing if value is None else format(value, digits)
