"""``refocusd process``: finished datasets and recordings, from scratch at full speed."""

from __future__ import annotations

import argparse
import json
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
from refocusd.config import Settings
from refocusd.daemon.offline import OwnDaemon, held_elsewhere, own_settings
from refocusd.datasets.dataset import (
    Output,
    RawAndOutputs,
    acquisition_of,
    output_for,
    outputs_of,
    recognised,
    refuse_another,
    refuse_refocused,
)
from refocusd.errors import OutputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.understood import understood
from refocusd.profiles.catalogue import Catalogue
from refocusd.profiles.microscope_metadata import first_of

__all__ = ["register"]

EPILOG = """\
examples:
  refocusd process data/run_1                     → data/run_1_refocused
  refocusd process *.ome.tif --output refocused   → refocused/<name>_refocused each
  refocusd process data/run_1 --model my-bundle   another model: a second dataset beside the first

What is done already is not done again; what was interrupted goes on where it was.
"""


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser = add_command(
        commands,
        "process",
        _process,
        short="refocus finished datasets and recordings at full speed",
        description="Refocuses NDTiff datasets, TIFF stacks and folders of images that lie on disk.",
        epilog=EPILOG,
        json="what was done",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="raw dataset, recording or folder"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for <name>_refocused (default: beside each PATH)"
    )
    add_setting_flags(parser)


def _process(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
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
        outputs = _outputs(frames, target.parent, folder, settings)
        acquisition = acquisition_of(frames, outputs, settings.ledgers)
        keys = frames.axes_keys()
        daemon.start(own_settings(settings))
        ours = [output for output in outputs if output.acquisition == acquisition]
        first = next((o.first for o in ours if o.first), None) or _first(frames)
        form = frames.first_format()
        chosen, _ = Catalogue(settings.calibrations).choose(first, (form.height, form.width))
        run = daemon.run_of(chosen.ids)
        there = (o for o in ours if folder is None or o.path.parent == target.parent)
        found = (o for o in there if o.run == run)
        new = Output(target, acquisition, run, "", {}, {}, tuple(chosen.ids), first)
        output = next(found, new)
        if output is not new:
            check_sink(output, settings, asked=asked or settings.sink != Settings().sink)
            if reason := held_elsewhere(output, settings):
                return Done(path, output.path, summary=reason)
            check = check_quickly(_dataset(frames, output), output, settings)
            keys = check.report.to_do()
            if check.clean:
                return Done(path, output.path, check=check, summary=f"{output.path}: nothing to do")
        place, seconds = feed(daemon, frames, keys, output)
        made = Output.at(place)
        if made is None:
            raise OutputError(f"{place} was moved while it was written")
        check = check_quickly(_dataset(frames, made), made, settings)
    return Done(path, place, len(keys), seconds, check)


def _outputs(
    frames: Dataset, target: Path, folder: Path | None, settings: Settings
) -> tuple[Output, ...]:
    """Outputs of these very frames; those of others in the folder `target` are in the way.

    Raises
    ------
    OutputError
    """
    ours = []
    for output in outputs_of(frames, settings.ledgers, folder):
        recognition = recognised(frames, output, settings.ledgers)
        if output.path.parent == target:
            refuse_another(frames.path, output, recognition)
        if not recognition.differing:
            ours.append(output)
            if not recognition.compared:
                note(
                    f"{output.path} is taken for one of {frames.path} by its name: nothing proves it"
                )
    return tuple(ours)


def _first(frames: Dataset) -> dict[str, Any]:
    """What the first frame tells of the microscope."""
    frame = frames.read(frames.axes_keys()[0])
    first: dict[str, Any] = json.loads(first_of(frame.metadata, frame.axes.get("channel", "")))
    return first


def _dataset(frames: Dataset, output: Output) -> RawAndOutputs:
    return RawAndOutputs(frames.path, "", (output,), ())
