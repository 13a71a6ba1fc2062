"""``refocusd process``: finished datasets and recordings, from scratch at full speed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from refocusd.cli.console import note
from refocusd.cli.flags import add_command, add_setting_flags, settings_of
from refocusd.cli.offline import (
    Done,
    check_quickly,
    check_sink,
    feed,
    quietly,
    recorded,
    report,
)
from refocusd.cli.runs import output_of_run, outputs_to_continue
from refocusd.config import Settings
from refocusd.daemon.offline import OwnDaemon, held_elsewhere, own_settings
from refocusd.datasets.dataset import (
    Output,
    RawAndOutputs,
    acquisition_of,
    output_for,
    refuse_merging,
    refuse_refocused,
)
from refocusd.errors import OutputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.understood import understood

__all__ = ["register"]

EPILOG = """\
examples:
  refocusd process data/run_1                     → data/run_1_refocused
  refocusd process *.ome.tif --output refocused   → refocused/<name>_refocused each
  refocusd process data/run_1 --model my-bundle   another model: a second dataset beside the first
  refocusd process plate.zarr                     → plate_refocused.zarr, the same plate
  refocusd process plate.zarr --cluster slurm --max-jobs 50 --job-option=--partition=short
  refocusd process plate.zarr --cluster local --dry-run     jobs, memory and time, nothing done

What is done already is not done again; what was interrupted goes on where it was.
"""


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser = add_command(
        commands,
        "process",
        _process,
        short="refocus finished datasets and recordings at full speed",
        description="Refocuses NDTiff datasets, OME-Zarr plates and images, TIFF stacks and folders of "
        "images that lie on disk.",
        epilog=EPILOG,
        json="what was done",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="raw dataset, recording or folder"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for <name>_refocused (default: beside each PATH)"
    )
    cluster = parser.add_argument_group("cluster (OME-Zarr only; one job a position)")
    cluster.add_argument(
        "--cluster",
        metavar="WHERE",
        help="local, slurm, or the address of a Dask scheduler, tcp://HOST:PORT",
    )
    cluster.add_argument(
        "--max-jobs",
        type=int,
        default=0,
        metavar="N",
        help="workers at a time (default: cores, or 8)",
    )
    cluster.add_argument(
        "--job-memory", default="4GB", metavar="SIZE", help="of each worker (default: 4GB)"
    )
    cluster.add_argument(
        "--job-time",
        default="01:00:00",
        metavar="H:M:S",
        help="of each SLURM job (default: 01:00:00)",
    )
    cluster.add_argument(
        "--job-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="for sbatch; may be repeated",
    )
    cluster.add_argument(
        "--sbatch-file",
        type=Path,
        metavar="FILE",
        help="take sbatch options and commands from a file",
    )
    cluster.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and what it takes"
    )
    add_setting_flags(parser)


def _process(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    if arguments.cluster or arguments.dry_run:
        # Dask takes most of a second to import.
        from refocusd.cli.on_cluster import process_on_cluster

        return process_on_cluster(arguments, settings)
    all_done: list[Done] = []
    with quietly(), OwnDaemon() as daemon:
        for path in arguments.paths:
            with recorded(all_done, path):
                done = _one(path, arguments.output, settings, daemon, asked=bool(arguments.sink))
                all_done.append(done)
    return report(all_done, arguments.json)


def _one(
    path: Path, folder: Path | None, settings: Settings, daemon: OwnDaemon, *, asked: bool
) -> Done:
    with open_dataset(path) as frames:
        refuse_refocused(frames)
        note(understood(frames))
        if missing := len(frames.missing_keys()):
            note(f"{frames.path}: {missing} frames are named but not on disk: they are left out")
        target = output_for(frames, folder)
        outputs = outputs_to_continue(frames, target.parent, folder, settings)
        acquisition = acquisition_of(frames, outputs, settings.ledgers)
        keys = frames.axes_keys()
        daemon.start(own_settings(settings))
        output, is_new = output_of_run(
            frames, outputs, acquisition, settings, daemon.run_of, target, folder
        )
        if not is_new:
            check_sink(output, settings, asked=asked or settings.sink != Settings().sink)
            if reason := held_elsewhere(output, settings):
                return Done(path, output.path, summary=reason)
            check = check_quickly(_dataset(frames, output), output, settings)
            keys = check.report.to_do()
            if check.clean:
                return Done(path, output.path, check=check, summary=f"{output.path}: nothing to do")
            if keys:
                refuse_merging(frames, output, len(keys))
        place, seconds = feed(daemon, frames, keys, output)
        made = Output.at(place)
        if made is None:
            raise OutputError(f"{place} was moved while it was written")
        check = check_quickly(_dataset(frames, made), made, settings)
    return Done(path, place, len(keys), seconds, check)


def _dataset(frames: Dataset, output: Output) -> RawAndOutputs:
    return RawAndOutputs(frames.path, "", (output,), ())
