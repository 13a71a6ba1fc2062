"""``refocusd export``: write a dataset as OME-TIFF.

Writes a refocused dataset (NDTiff or OME-Zarr), or a raw NDTiff one, as
OME-TIFF: one file, or one for each position.

examples:
  refocusd export cells_refocused --output cells.ome.tif
  refocusd export cells_refocused --output cells.ome.tif --fill      zeros where a frame is missing
  refocusd export raw/cells_1 --output raw.ome.tif --json raw.json   a raw NDTiff dataset
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from refocusd.cli.console import console, messages, note, progress, write_json
from refocusd.datasets.output import Output
from refocusd.datasets.run_folder import refocused_path
from refocusd.errors import InputError
from refocusd.formats.dataset import understood
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.sink import refuse_within
from refocusd.formats.tiff.ome_export import export
from refocusd.formats.tiff.ome_export_plan import ExportPlan, plan_export
from refocusd.frame import counted

JSON = "the figures"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of the dataset")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write, ending in .ome.tif; the names of positions are added if there are several",
    )
    parser.add_argument("--fill", action="store_true", help="write zeros for missing frames")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if arguments.dataset.is_file():
        file = arguments.dataset
        made_of_it = refocused_path(file.with_name(file.name.split(".")[0]))
        rather = f"its refocused frames are in {made_of_it}"
        raise InputError(
            f"{file} is a file: {rather if made_of_it.exists() else 'give the folder of a dataset'}"
        )
    made = Output.at(arguments.dataset)
    with open_dataset(arguments.dataset) as reader:
        plan = plan_export(
            reader, arguments.output, fill=arguments.fill, overwrite=arguments.overwrite
        )
        if made:
            # The folder around the output counts as raw if raw was in the root of a drive; the plan has checked it.
            places = [place for place in made.raw_places() if place != made.path.parent]
            for raw, file in product(places, plan.files):
                refuse_within(file.path, raw)
        note(understood(reader))
        if plan.missing:
            messages.print(f"{counted(plan.missing)} missing: zeros are written there")
        with progress() as bar:
            task = bar.add_task(f"exporting {reader.path.name}", total=plan.steps)
            nbytes = export(plan, reader, lambda: bar.advance(task))
    for file in plan.files:
        t, c, z = file.sizes
        console.print(
            f"{file.path}: {counted(t, 'time')}, {counted(c, 'channel')}, {counted(z, 'plane')} of {plan.format}",
            markup=False,
            highlight=False,
        )
    write_json(arguments.json, _figures(plan, nbytes))
    return 0


def _figures(plan: ExportPlan, nbytes: int) -> dict[str, Any]:
    return {
        "files": [
            {"path": str(file.path), "axes": dict(file.axes), "sizes_tcz": list(file.sizes)}
            for file in plan.files
        ],
        "frames": plan.frames,
        "frames_filled": plan.missing,
        "bytes": nbytes,
        "height": plan.format.height,
        "width": plan.format.width,
        "dtype": str(plan.format.dtype),
        "pixel_um": plan.scale.pixel_um,
        "z_um": plan.scale.z_um,
        "interval_s": plan.scale.interval_s,
    }
