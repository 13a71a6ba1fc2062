"""What refocusd costs: time of an acquisition, latency of a frame, memory of the machine.

Three measurements, all with the real components (MMCore, processes, sockets, files):

acquisition
    Hardware-sequenced bursts of a real pycromanager `Acquisition`, interleaved
    with and without the hook.
transport
    Frames per second and latency from submission to the refocused frame on
    disk, with the shared ring and with TCP.
sustained
    2048² frames as fast as possible, and the memory that the processes use.

``benchmarks/README.md`` explains the figures.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Any, get_args

if __package__ in (None, ""):  # run as a file: the helpers are found from the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.overhead.acquisition import Condition, EngineChoice, Pace, measure_acquisition
from benchmarks.overhead.goals import goals
from benchmarks.overhead.tables import (
    acquisition_table,
    goal_table,
    sustained_table,
    transport_table,
)
from benchmarks.overhead.transport import measure_sustained, measure_transport
from benchmarks.shared.machine import Medium, file_system, machine, media
from refocusd.cli.console import console, messages, progress, write_json
from refocusd.errors import BundleError, RefocusdError
from refocusd.models.bundle import load_bundle

PARTS = ("acquisition", "transport", "sustained")
#: The model of the engine that keeps the CPU busy.
MODEL = "live-nuclei"

EPILOG = """\
examples:
  python -m benchmarks.overhead --json benchmarks/results/overhead-mypc.json
  python -m benchmarks.overhead --parts transport sustained --seconds 120
  python -m benchmarks.overhead --quick          does it run? (its figures mean little)
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__.partition("\n")[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--sides", nargs="+", type=int, default=[512, 2048], metavar="PX", help="frame sizes"
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=get_args(EngineChoice),
        default=get_args(EngineChoice),
        help="acquisition: what the daemon runs; none is the hook without a daemon",
    )
    parser.add_argument("--paces", nargs="+", choices=get_args(Pace), default=get_args(Pace))
    parser.add_argument("--pairs", type=int, default=8, help="acquisition: pairs a condition")
    parser.add_argument(
        "--raw-on",
        choices=("disk", "memory"),
        default="disk",
        help="acquisition: where raw and refocused frames go",
    )
    parser.add_argument(
        "--sinks",
        nargs="+",
        choices=("memory", "disk"),
        default=("memory", "disk"),
        help="transport and sustained: where refocused frames go",
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help="transport: of each pair ring, TCP"
    )
    parser.add_argument("--frames", type=int, default=1000, help="transport: of a stream at most")
    parser.add_argument("--seconds", type=float, default=60.0, help="sustained: how long")
    parser.add_argument(
        "--disk", type=Path, default=Path(gettempdir()), help="folder on the disk to measure with"
    )
    parser.add_argument(
        "--memory",
        type=Path,
        help="folder on a file system in memory (default: where Linux has it)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="short bursts, few repetitions")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write; exit status 1 if a frame was lost, 2 for an error."""
    arguments = _parser().parse_args(argv)
    if arguments.quick:
        arguments.pairs, arguments.repetitions = 2, 1
        arguments.frames = min(arguments.frames, 100)
        arguments.seconds = min(arguments.seconds, 2.0)
    if arguments.pairs < 2 or arguments.repetitions < 1 or arguments.frames < 2:
        _parser().error("take at least 2 pairs, 1 repetition and 2 frames")
    figures: dict[str, Any] = {
        "benchmark": "overhead",
        "begun_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": arguments.quick,
        "machine": machine(),
    }
    busy = figures["machine"]["cpu_busy_before_percent"]
    if busy > 10:
        messages.print(f"others use {busy:.0f} % of the processor: the figures will scatter")
    where = media(arguments.disk, arguments.memory)
    try:
        if "acquisition" in arguments.parts:
            figures["acquisition"] = _acquisition(arguments, dict(where))
        sinks = [medium for medium in where if medium[0] in arguments.sinks]
        if "transport" in arguments.parts:
            figures["transport"] = _transport(arguments, sinks)
        if "sustained" in arguments.parts:
            with messages.status(f"sustained, {arguments.seconds:.0f} s"):
                figures["sustained"] = [
                    measure_sustained(max(arguments.sides), medium, arguments.seconds)
                    for medium in sinks
                ]
            console.print(sustained_table(figures["sustained"]))
    except RefocusdError as error:
        messages.print(f"error: {error}", style="red")
        return error.exit_status
    figures["goals"] = goals(figures)
    console.print(goal_table(figures["goals"]))
    write_json(arguments.json, figures)
    measured = [*figures.get("acquisition", []), *figures.get("transport", [])]
    measured += figures.get("sustained", [])
    return 1 if any(m["frames_unaccounted"] + m["frames_failed"] for m in measured) else 0


def _acquisition(arguments: argparse.Namespace, where: dict[str, Path]) -> list[dict[str, Any]]:
    engines = list(arguments.engines)
    if "openvino" in engines:
        try:
            load_bundle(MODEL)
        except BundleError as error:
            messages.print(f"without the busy engine: {error}")
            engines.remove("openvino")
    burst_s = 0.3 if arguments.quick else 3.0
    conditions = [
        Condition(engine, side_px, pace, burst_s)
        for engine in engines
        for side_px in arguments.sides
        for pace in arguments.paces
    ]
    parent = where.get(arguments.raw_on, where["disk"])
    rows: list[dict[str, Any]] = []
    if not conditions:
        return rows
    with progress() as bar:
        task = bar.add_task("acquisitions with and without the hook", total=len(conditions))
        for condition, row in measure_acquisition(conditions, arguments.pairs, parent):
            rows.append({**row, "raw_file_system": file_system(parent)})
            bar.update(task, advance=1, description=f"acquisitions, done: {condition}")
    console.print(acquisition_table(rows))
    return rows


def _transport(arguments: argparse.Namespace, where: list[Medium]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with progress() as bar:
        task = bar.add_task("ring against TCP", total=2 * len(arguments.sides) * len(where))
        for row in measure_transport(
            arguments.sides, where, arguments.repetitions, arguments.frames
        ):
            rows.append(row)
            bar.advance(task)
    console.print(transport_table(rows))
    return rows


if __name__ == "__main__":
    sys.exit(main())
