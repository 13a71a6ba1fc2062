"""``refocusd process``: finished datasets and recordings, from scratch at full speed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from refocusd.cli.commands.resume import tell
from refocusd.cli.console import messages
from refocusd.cli.settings import add_setting_flags, settings_of
from refocusd.cli.work import (
    Done,
    OwnDaemon,
    check_quickly,
    feed,
    held_elsewhere,
    own_settings,
    quietly,
)
from refocusd.config import Settings
from refocusd.datasets.dataset import (
    Output,
    RawAndOutputs,
    acquisition_of,
    output_for,
    outputs_of,
    refuse_refocused,
)
from refocusd.errors import OutputError, RefocusdError, TransportError, WorkerError
from refocusd.formats.dataset import Dataset
from refocusd.formats.open_dataset import open_dataset
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
    parser: argparse.ArgumentParser = commands.add_parser(
        "process",
        help="refocus finished datasets and recordings at full speed",
        description="Refocuses NDTiff datasets, TIFF stacks and folders of images that lie on disk.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="raw dataset, recording or folder"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for <name>_refocused (default: beside each PATH)"
    )
    parser.add_argument("--json", metavar="FILE", help="write what was done as JSON")
    add_setting_flags(parser)
    parser.set_defaults(command=_process)


def _process(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    all_done: list[Done] = []
    with quietly(), OwnDaemon() as daemon:
        for path in arguments.paths:
            try:
                all_done.append(_one(path, arguments.output, settings, daemon))
            except (TransportError, WorkerError):
                raise  # of our own daemon: the next path would fare no better
            except (RefocusdError, OSError) as error:
                all_done.append(Done(path, said=str(error), error=True))
    return tell(all_done, arguments.json)


def _one(path: Path, folder: Path | None, settings: Settings, daemon: OwnDaemon) -> Done:
    with open_dataset(path) as frames:
        refuse_refocused(frames)
        outputs = outputs_of(frames, settings.ledgers, folder)
        acquisition = acquisition_of(frames, outputs, settings.ledgers)
        target = output_for(frames, folder)
        keys = frames.axes_keys()
        _warn_of(frames)
        endpoint = daemon.start(own_settings(settings))
        there = (o for o in outputs if folder is None or o.path.parent == target.parent)
        known = next((o.first for o in outputs if o.acquisition == acquisition and o.first), None)
        first = known or _first(frames)
        form = frames.first_format()
        shape = (form.height, form.width)
        chosen, _ = Catalogue(settings.calibrations).choose(first, shape)
        run = daemon.run_of(chosen.ids)
        ours = (acquisition, run)
        if output := next((o for o in there if (o.acquisition, o.run) == ours), None):
            if said := held_elsewhere(output, settings):
                return Done(path, output.path, said=said)
            check = check_quickly(_dataset(frames, output), output, settings)
            keys, target = check.report.to_do(), output.path
            if check.clean:
                return Done(path, output.path, check=check, said=f"{output.path}: nothing to do")
        place, seconds = feed(frames, keys, endpoint, acquisition, target, run, first, chosen.ids)
        made = Output.at(place)
        if made is None:
            raise OutputError(f"{place} was moved while it was written")
        check = check_quickly(_dataset(frames, made), made, settings)
    return Done(path, place, len(keys), seconds, check)


def _first(frames: Dataset) -> dict[str, Any]:
    """What the first frame tells of the microscope."""
    frame = frames.read(frames.axes_keys()[0])
    said: dict[str, Any] = json.loads(first_of(frame.metadata, frame.axes.get("channel", "")))
    return said


def _dataset(frames: Dataset, output: Output) -> RawAndOutputs:
    return RawAndOutputs(frames.path, "", (output,), ())


def _warn_of(frames: Dataset) -> None:
    if missing := len(frames.missing_keys()):
        messages.print(
            f"{frames.path}: {missing} frames are named but not on disk: they are left out",
            markup=False,
        )
