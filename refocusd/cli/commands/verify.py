"""``refocusd verify``: prove that every frame of a dataset is accounted for.

Compares raw frames, ledger and refocused frames with each other, frame by
frame. Changes nothing.

examples:
  refocusd verify data/run_1                  every run of this acquisition, pixels included
  refocusd verify data/run_1 --quick          only which frames exist, without their pixels
  refocusd verify data/run_1_refocused --json report.json

exit status: 0 if every raw frame has exactly one final state that is not failed and all
matches; 1 if anything is wrong or pending; 2 if this cannot be determined
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from rich import box
from rich.table import Table

from refocusd.cli.console import console, note, plain, progress, say, write_json
from refocusd.cli.flags import add_setting_flags, settings_of
from refocusd.config import Settings
from refocusd.daemon.offline import held_by_daemon
from refocusd.datasets.dataset import RawAndOutputs, find_dataset
from refocusd.datasets.output import Output, is_being_written
from refocusd.datasets.verify import RunCheck, check_run
from refocusd.files import in_command
from refocusd.formats.dataset import understood
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import counted
from refocusd.ledger import is_marked

#: Most problems of one run that are printed; the JSON has all.
SHOWN = 20
_FLAGS = ("ledgers", "endpoint")


JSON = "all findings"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "dataset", type=Path, help="raw dataset or recording, or a refocused dataset of it"
    )
    parser.add_argument("--quick", action="store_true", help="do not compare pixels")
    add_setting_flags(parser, *_FLAGS)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    settings = settings_of(arguments, *_FLAGS)
    dataset = find_dataset(arguments.dataset, settings.ledgers)
    quick: bool = arguments.quick
    checks = [_check(dataset, output, settings, quick=quick) for output in dataset.outputs]
    if not checks:
        assert dataset.raw is not None
        with open_dataset(dataset.raw) as frames:
            note(understood(frames))
            count = len(frames)
        say(
            f"{dataset.raw}: {counted(count)}, none refocused; `refocusd process {in_command(dataset.raw)}` does that"
        )
    for check in checks:
        _show(check)
    clean = bool(checks) and all(check.clean for check in checks)
    write_json(
        arguments.json,
        {
            "dataset": str(arguments.dataset),
            "raw": str(dataset.raw or ""),
            "quick": quick,
            "runs": [check.as_json() for check in checks],
            "clean": clean,
        },
    )
    return 0 if clean else 1


def _check(dataset: RawAndOutputs, output: Output, settings: Settings, *, quick: bool) -> RunCheck:
    running = is_being_written(output.path) or (
        is_marked(settings.ledgers, output.acquisition) and held_by_daemon(output, settings)
    )
    with progress() as bar:
        task = bar.add_task(plain(f"verifying {output.path.name}"), total=None)
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
    table = Table(title=plain(title), show_header=False, title_justify="left", box=box.SIMPLE)
    for state, count in check.counts().items():
        table.add_row("raw frames" if state == "frames" else state.replace("_", " "), str(count))
    for verdict, count in check.verdicts.items():
        if verdict != "passed_through":  # counted as a state
            table.add_row(f"  of these {verdict}", str(count))
    table.add_row("refocused pixels compared", str(report.compared))
    table.add_row("raw pixels compared", str(report.raw_compared))
    console.print(table)
    for text in check.notes:
        note(text)
    if report.without_checksum:
        note(
            f"{counted(report.without_checksum)} without a checksum in the ledger: pixels not compared "
            "with what was written"
        )
    _show_problems(check)
    if check.running:
        say("still running: frames are being written; verify again when the run has ended")
    for text in check.advice():
        say(text)
    say("clean" if check.clean else "NOT clean")


def _show_problems(check: RunCheck) -> None:
    """Print the first problems and pending frames, and how many more there are."""
    report = check.report
    lines = [*check.faults, *(f"{p.kind}: {p.axes} {p.detail}" for p in report.problems)]
    lines += [f"pending: {axes}" for axes in report.pending]
    for line in lines[:SHOWN]:
        say(line.rstrip())
    if len(lines) > SHOWN:
        kinds = Counter(p.kind for p in report.problems).most_common()
        say(
            f"and {len(lines) - SHOWN} more ({', '.join(f'{n} {kind}' for kind, n in kinds) or 'no problems'}; "
            f"{len(report.pending)} pending): --json lists all"
        )
