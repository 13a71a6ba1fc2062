"""``refocusd verify``: proves frame by frame that nothing is lost or altered."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from refocusd.cli.console import console, messages, progress, write_json
from refocusd.cli.settings import settings_of
from refocusd.config import Settings
from refocusd.daemon.daemon import daemon_status
from refocusd.datasets.dataset import Output, RawAndOutputs, find_dataset, is_being_written
from refocusd.datasets.verify import RunCheck, check_run
from refocusd.errors import TransportError
from refocusd.formats.open_dataset import open_dataset
from refocusd.ledger import is_marked

__all__ = ["held_by_daemon", "register"]

#: Lines shown of what is off with one run; all are in the JSON.
SHOWN = 20
#: How long a running daemon may take to answer.
ANSWER_S = 1.0

EPILOG = """\
examples:
  refocusd verify data/run_1                  every run of this acquisition, pixels included
  refocusd verify data/run_1 --quick          no pixels: which frames there are
  refocusd verify data/run_1_refocused --json report.json

exit status: 0 if every raw frame has exactly one final state that is not failed and all
matches; 1 if anything is off or pending; 2 if that cannot be found out
"""


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "verify",
        help="prove that every frame of a dataset is accounted for",
        description="Holds raw frames, ledger and refocused frames against each other, frame by "
        "frame.  Changes nothing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dataset", type=Path, help="raw dataset or recording, or a refocused dataset of it"
    )
    parser.add_argument("--quick", action="store_true", help="do not compare pixels")
    parser.add_argument("--json", metavar="FILE", help="write all that was found as JSON")
    parser.add_argument("--config", metavar="FILE", help="settings file, TOML")
    parser.add_argument("--ledgers", help="folder of the ledgers, on a local disk")
    parser.add_argument("--endpoint", help="where a running daemon is asked")
    parser.set_defaults(command=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    dataset = find_dataset(arguments.dataset, settings.ledgers)
    checks = [
        _check(dataset, output, settings, quick=arguments.quick) for output in dataset.outputs
    ]
    if not checks:
        assert dataset.raw is not None
        with open_dataset(dataset.raw) as frames:
            count = len(frames)
        console.print(
            f"{dataset.raw}: {count} frames, none refocused; `refocusd process {dataset.raw}` does that",
            markup=False,
        )
    for check in checks:
        _show(check)
    clean = bool(checks) and all(check.clean for check in checks)
    write_json(
        arguments.json,
        {
            "dataset": str(arguments.dataset),
            "raw": str(dataset.raw or ""),
            "quick": arguments.quick,
            "runs": [check.as_json() for check in checks],
            "clean": clean,
        },
    )
    return 0 if clean else 1


def held_by_daemon(output: Output, settings: Settings) -> bool:
    """Whether the running daemon, if there is one, has the acquisition of an output open."""
    with contextlib.suppress(TransportError):
        details = daemon_status(settings.endpoint, ANSWER_S).details
        return any(a.id == output.acquisition and a.state != "ended" for a in details)
    return False


def _check(dataset: RawAndOutputs, output: Output, settings: Settings, *, quick: bool) -> RunCheck:
    running = is_being_written(output.path) or (
        is_marked(settings.ledgers, output.acquisition) and held_by_daemon(output, settings)
    )
    with progress() as bar:
        task = bar.add_task(f"verifying {output.path.name}", total=None)
        return check_run(
            dataset,
            output,
            settings.ledgers,
            pixels=not quick,
            running=running,
            begin=lambda frames: bar.update(task, total=frames),
            looked_at=lambda: bar.advance(task),
        )


def _show(check: RunCheck) -> None:
    report = check.report
    title = f"{check.output.path} (run {check.output.run}, {check.output.model})"
    table = Table(title=title, show_header=False, title_justify="left", box=box.SIMPLE)
    table.add_row("raw frames", str(report.frames))
    for state in ("refocused", "passed_through", "skipped", "failed"):
        table.add_row(state.replace("_", " "), str(report.states.get(state, 0)))
    table.add_row("pending", str(len(report.pending) + report.unnamed))
    table.add_row("refocused pixels compared", str(report.compared))
    table.add_row("raw pixels compared", str(report.raw_compared))
    console.print(table)
    for note in check.notes:
        messages.print(note, markup=False)
    if report.without_checksum:
        messages.print(
            f"{report.without_checksum} frames have no checksum in the ledger: their pixels were not "
            "compared with what was written"
        )
    off = [*check.faults, *(f"{p.kind}: {p.axes} {p.detail}" for p in report.problems)]
    off += [f"pending: {axes}" for axes in report.pending]
    for line in off[:SHOWN]:
        console.print(line.rstrip(), markup=False, highlight=False)
    if len(off) > SHOWN:
        kinds = Counter(p.kind for p in report.problems)
        kinds_text = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        console.print(
            f"and {len(off) - SHOWN} more ({kinds_text or 'no problems'}; {len(report.pending)} "
            "pending): --json has them all",
            markup=False,
        )
    if check.running:
        console.print("still running: frames are being written; look again when that has ended")
    elif count := len(report.to_do()):
        console.print(
            f"{count} frames can be attempted: `refocusd resume {check.output.path}`", markup=False
        )
    console.print("clean" if check.clean else "NOT clean")
