"""``refocusd resume``: refocus the pending and failed frames of a dataset.

Refocuses, from raw, the frames of a dataset that have no final state yet or
failed, and repairs its ledger.

examples:
  refocusd resume data/run_1                  every run of this acquisition
  refocusd resume data/run_1_refocused        this run only
  refocusd resume data/* --no-retry-failed    leave out frames that failed before

The run's own model and settings are used again. The command may be repeated, and interrupted at
any time.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from refocusd.cli.console import note
from refocusd.cli.flags import Paths, add_setting_flags, given_settings, settings_of
from refocusd.cli.offline import (
    Done,
    check_quickly,
    check_sink,
    feed,
    quietly,
    recorded,
    report,
)
from refocusd.cluster.plan import has_slides
from refocusd.cluster.screen import Cluster
from refocusd.config import Settings
from refocusd.daemon.offline import OwnDaemon, held_elsewhere
from refocusd.datasets.dataset import RawAndOutputs, find_dataset, refuse_another
from refocusd.datasets.output import Output
from refocusd.datasets.output_ledger import repair_ledger
from refocusd.datasets.run_settings import check_profiles, refuse_other_frames, settings_of_run
from refocusd.datasets.verify import RunCheck
from refocusd.errors import BundleError, InputError
from refocusd.files import in_command
from refocusd.formats.dataset import understood
from refocusd.formats.open_dataset import open_dataset

JSON = "what was done"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "datasets",
        nargs="+",
        type=Path,
        action=Paths,
        metavar="DATASET",
        help="raw dataset or recording, or a refocused dataset of it",
    )
    parser.add_argument(
        "--retry-failed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="attempt failed frames once more (default: yes)",
    )
    add_setting_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    settings = settings_of(arguments)
    all_done: list[Done] = []
    with quietly(), OwnDaemon() as daemon:
        for path in arguments.datasets:
            with recorded(all_done, path):
                dataset = find_dataset(path, settings.ledgers)
                if not dataset.outputs:
                    raise InputError(
                        f"no frame of {path} was refocused yet, so there is nothing to resume; "
                        f"refocus it with `refocusd process {in_command(path)}`"
                    )
                for output in dataset.outputs:
                    with recorded(all_done, path, output.path):
                        if arguments.sink:
                            check_sink(output, settings, asked=True)
                        done = _finish(dataset, output, settings, daemon, arguments)
                        all_done.append(replace(done, path=path))
    return report(all_done, arguments.json)


def _finish(
    dataset: RawAndOutputs,
    output: Output,
    settings: Settings,
    daemon: OwnDaemon | Cluster,
    arguments: argparse.Namespace,
) -> Done:
    """Attempt the remaining frames of one run.

    Raises
    ------
    RefocusdError
        If that cannot be done.
    """
    path = output.path
    if reason := held_elsewhere(output, settings):
        return Done(path, path, summary=reason)
    check = check_quickly(dataset, output, settings)
    for text in check.notes:
        note(text)
    keys = check.report.to_do()
    if not arguments.retry_failed:
        failed = {p.axes for p in check.report.problems if p.kind == "failed"}
        keys = [key for key in keys if key not in failed]
    if dataset.raw is None:
        return _finish_without_raw(dataset, output, settings, check, keys)
    recognition = check.recognition
    if recognition is not None and (keys or recognition.another):
        refuse_another(dataset.raw, output, recognition)
    if not keys and not check.ledger_needs_repair:
        return Done(path, path, check=check, summary=f"{path}: nothing to do")
    check_profiles(output, dataset.raw, settings)
    with open_dataset(dataset.raw) as frames:
        if has_slides(frames):
            daemon = Cluster(None)
    own = settings_of_run(output, settings)
    refuse_other_frames(output, dataset.raw, given_settings(arguments), settings, own)
    daemon.start(own)
    if (run := daemon.run_of(output.profiles)) != output.run:
        raise BundleError(
            f"{path} is of run {output.run}, but its model and settings make run "
            f"{run} here (another version of refocusd?); `refocusd process {in_command(dataset.raw)}` "
            "refocuses the raw data again, into another dataset"
        )
    with open_dataset(dataset.raw) as frames:
        note(understood(frames))
        _, seconds = feed(daemon, frames, keys, output)
    after = check_quickly(dataset, output, settings)
    return Done(
        path, path, len(keys), seconds, after, "" if keys else f"{path}: the ledger was repaired"
    )


def _finish_without_raw(
    dataset: RawAndOutputs, output: Output, settings: Settings, check: RunCheck, keys: list[str]
) -> Done:
    """Repair the ledger of a run whose raw data are lost, or were never saved.

    Raises
    ------
    InputError
        If frames are left that only raw data could complete.
    """
    path = output.path
    if not keys and check.ledger_needs_repair:
        # The metadata of the refocused frames are enough to rebuild it.
        repair_ledger(settings.ledgers, path, output.run, output.acquisition)
        check = check_quickly(dataset, output, settings)
        if not dataset.raw_lost:
            return Done(path, path, check=check, summary=f"{path}: the ledger was repaired")
    left = keys or check.ledger_needs_repair
    if lost := dataset.raw_lost:
        if left or check.report.unnamed or check.acquired is None:
            raise InputError(
                f"{path} is not known to be complete, and its raw data are missing at {lost}: put them "
                "back, or beside it, and name them if they were renamed: `refocusd resume RAW`"
            )
        said = f"{path}: nothing to do, every frame has its final state; its raw data are no longer at {lost}"
        return Done(path, path, summary=said)
    if left:
        raise InputError(
            f"{path} is not complete, and its acquisition saved no raw data to refocus it from"
        )
    return Done(path, path, check=check, summary=f"{path}: nothing to do")
