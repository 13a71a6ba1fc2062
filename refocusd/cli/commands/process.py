"""``refocusd process``: refocus finished datasets and recordings at full speed.

Refocuses NDTiff datasets, OME-Zarr plates and images, TIFF stacks and folders
of images that are on disk.

examples:
  refocusd process data/run_1                     → data/run_1_refocused
  refocusd process *.ome.tif --output refocused   → refocused/<name>_refocused each
  refocusd process data/run_1 --model my-bundle   another model: a second dataset beside the first
  refocusd process plate.zarr                     → plate_refocused.zarr, the same plate
  refocusd process slide.ome.tif                  → slide_refocused.zarr, in tiles if above 67 million pixels
  refocusd process plate.zarr --cluster slurm --max-jobs 50 --job-option=--partition=short
  refocusd process plate.zarr --cluster local --dry-run     jobs, memory and time; nothing is written

Frames that are done are not refocused again; an interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from refocusd.cli.flags import Paths, add_setting_flags, settings_of
from refocusd.cli.offline import Done, process_one, quietly, recorded, report
from refocusd.daemon.offline import OwnDaemon

JSON = "what was done"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        action=Paths,
        metavar="PATH",
        help="raw dataset, recording or folder; may have wildcards",
    )
    parser.add_argument(
        "--output", type=Path, help="folder for <name>_refocused (default: beside each PATH)"
    )
    cluster = parser.add_argument_group("cluster (OME-Zarr and large TIFFs; one job a position)")
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
        help="most workers at a time (default: number of cores with local, else 8)",
    )
    cluster.add_argument(
        "--job-memory", default="4GB", metavar="SIZE", help="memory of each worker (default: 4GB)"
    )
    cluster.add_argument(
        "--job-time",
        default="01:00:00",
        metavar="H:M:S",
        help="time limit of each SLURM job (default: 01:00:00)",
    )
    cluster.add_argument(
        "--job-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="option for sbatch; may be repeated",
    )
    cluster.add_argument(
        "--sbatch-file",
        type=Path,
        metavar="FILE",
        help="read sbatch options and commands from a file",
    )
    cluster.add_argument(
        "--dry-run",
        action="store_true",
        help="print jobs, memory and time, measured on two frames; write nothing",
    )
    add_setting_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    settings = settings_of(arguments)
    if arguments.cluster or arguments.dry_run:
        # Dask takes most of a second to import.
        from refocusd.cli.on_cluster import process_on_cluster

        return process_on_cluster(arguments, settings)
    all_done: list[Done] = []
    asked = bool(arguments.sink)
    with quietly(), OwnDaemon() as daemon:
        for path in arguments.paths:
            with recorded(all_done, path):
                all_done.append(process_one(path, arguments.output, settings, daemon, asked=asked))
    return report(all_done, arguments.json)
