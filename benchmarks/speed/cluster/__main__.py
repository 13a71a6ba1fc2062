"""Plates on a cluster: the gain of more workers, the cost of Dask, and the time for a million frames.

    python -m benchmarks.speed.cluster --json benchmarks/results/cluster-<machine>.json
    python -m benchmarks.speed.cluster --guide benchmarks/results/cluster-<machine>.json   into docs/guide/plates.md
    python -m benchmarks.speed.cluster --quick             checks that it runs; its figures mean little
    python -m benchmarks.speed.cluster --parts live        one part only
    python -m benchmarks.speed.cluster --parts slide       one image of 20 000 x 20 000 px; not among the default parts

`process` is the command without a cluster: a daemon in the command, and one worker.  All engines use one
thread.  `process` keeps more than one core busy, so it is also compared with one worker of a cluster while
both are bound to one core.  The efficiency of two workers is compared with that of two bare engines, each in
its own process.  `linear` has two workers with an engine of known time.  The plan for a million frames
follows from the measured time and memory of one worker.  `plate` is a whole plate of 384 wells, 2 fields and
3 planes of 128 x 128 px, refocused by deconvolution and verified.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Any

if __package__ in (None, ""):  # run as a file: the helpers are found from the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from rich.table import Table

from benchmarks.shared.machine import machine, scratch
from benchmarks.speed.cluster.parts import (
    BARE_S,
    SLIDE_PX,
    WELLS,
    measure_linear,
    measure_live,
    measure_own,
    measure_plate,
    measure_slide,
    measure_workers,
)
from benchmarks.speed.cluster.plan import GUIDE, into_guide, plan_as_markdown, plan_for
from refocusd.cli.console import console, messages, write_json
from refocusd.errors import RefocusdError

PARTS = ("workers", "linear", "plate", "live", "slide")
#: Processor load of other programs above which the figures are unreliable.
MOST_BUSY_PERCENT = 20.0


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; exit status 2 for an error."""
    options = _parser().parse_args(arguments)
    if options.guide:
        GUIDE.write_text(into_guide(options.guide), encoding="utf-8")
        return 0
    about = machine()
    if about["cpu_busy_before_percent"] > MOST_BUSY_PERCENT:
        messages.print(
            "other programs keep the processor busy: `process` yields to them and may take many times "
            "as long, and the figures say little"
        )
    try:
        with scratch(options.disk) as folder:
            found = _measured(folder, options)
    except RefocusdError as error:
        messages.print(f"error: {error}", markup=False)
        return 2
    console.print(_table(found))
    if plan := found.get("plan"):
        console.print(plan_as_markdown(plan, found["workers"]), markup=False, soft_wrap=True)
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"measured_at": measured_at, "machine": about, "quick": options.quick}
    write_json(options.json, _rounded({**head, **found}))
    return 0


def _parser() -> argparse.ArgumentParser:
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
    return parser


def _measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the chosen parts."""
    quick = options.quick
    found: dict[str, Any] = {}
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
    return found


def _table(found: Mapping[str, Any]) -> Table:
    table = Table("figure", "value", "goal")
    for part, rows in ROWS.items():
        if part in found:
            for row in rows(found[part]):
                table.add_row(*row)
    return table


def _worker_rows(workers: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, run in workers["contenders"].items():
        rate, whole_s = run["frames_per_s"], run["command_s"]
        yield name, f"{rate:.1f} frames/s, {whole_s:.0f} s, {run['worker_mib']:.0f} MiB", ""
    yield "efficiency of two workers", f"{workers['efficiency_of_two']:.2f}", "≥ 0.9"
    bound = f"{workers['efficiency_of_two_on_two_cores']:.2f}"
    yield "the same, to one bound to one core", bound, "≥ 0.9"
    own = workers["machines_own"]
    one, two = own["frames_per_s"], own["frames_per_s_of_two"]
    yield "a bare engine", f"{one:.1f} frames/s, two {two:.1f}", ""
    yield "the machine's own efficiency", f"{own['efficiency_of_two']:.2f}", ""
    for name, against, goal in (
        ("on_one_core_", "process, one core each", "≤ 5 %"),
        ("of_two_", "process, two cores each", "≤ 5 %"),
        ("", "process, which uses two cores", ""),
    ):
        if (percent := workers.get(f"overhead_{name}percent")) is not None:
            yield f"overhead against {against}", f"{percent:.1f} %", goal


def _linear_rows(linear: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for count, rate in linear["frames_per_s_by_frames"].items():
        yield f"{count} frames", f"{rate:.1f} frames/s", ""
    yield "change of the rate", f"{linear['change_percent']:.1f} %", "≥ -5 %"


def _plate_rows(plate: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    name = f"{plate['wells']} wells, {plate['frames']} frames of {plate['side_px']} px"
    clean = "verified" if plate["verify_status"] == 0 else "NOT verified"
    yield (
        name,
        f"{plate['frames_per_s']:.1f} frames/s, {plate['command_s']:.0f} s, {clean}",
        "verified",
    )


def _slide_rows(slide: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    name = f"{slide['side_px']} px squared, {slide['raw_mb']:.0f} MB"
    yield name, f"{slide['command_s']:.0f} s, {slide['most_memory_mib']:.0f} MiB at most", ""


def _live_rows(live: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for count, rate in live["frames_per_s_by_workers"].items():
        share = live["share_of_ideal_by_workers"][count]
        yield f"live, {count} workers", f"{rate:.0f} frames/s, {share:.0%} of ideal", ""
    for side, limit in live["limit_by_side_px"].items():
        told = f"{limit['frames_per_s']:.0f} frames/s, {limit['mb_per_s']:.0f} MB/s"
        yield f"broker's limit, {side} px", told, ""


#: The table's rows for each part.
ROWS = {
    "workers": _worker_rows,
    "linear": _linear_rows,
    "plate": _plate_rows,
    "slide": _slide_rows,
    "live": _live_rows,
}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
