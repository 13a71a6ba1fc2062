"""Chooses the output of a run of frames on disk: a new one, or an existing one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refocusd.cli.console import note
from refocusd.config import Settings
from refocusd.datasets.dataset import (
    Output,
    acquisition_of,
    output_for,
    outputs_of,
    recognised,
    refuse_another,
)
from refocusd.formats.dataset import Dataset
from refocusd.profiles.catalogue import Catalogue
from refocusd.profiles.microscope_metadata import first_of


def _outputs_to_continue(
    frames: Dataset, target: Path, folder: Path | None, settings: Settings
) -> tuple[Output, ...]:
    """Outputs of these frames; outputs of other frames in the folder `target` are refused.

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
                    f"{output.path} is assumed to be of {frames.path} because of its name; nothing else proves it"
                )
    return tuple(ours)


def output_of_run(
    frames: Dataset,
    settings: Settings,
    run_of: Callable[[Sequence[str]], str],
    folder: Path | None,
) -> tuple[Output, bool]:
    """Output of the run that these settings make, and whether it is new.

    Parameters
    ----------
    frames : Dataset
    settings : Settings
    run_of : callable
        Gives the run's id, from the ids of the calibration profiles.
    folder : Path or None
        The folder that was asked for.

    Raises
    ------
    OutputError
        If the output of other frames is in the way.
    """
    target = output_for(frames, folder)
    outputs = _outputs_to_continue(frames, target.parent, folder, settings)
    acquisition = acquisition_of(frames, outputs, settings.ledgers)
    ours = [output for output in outputs if output.acquisition == acquisition]
    first = next((o.first for o in ours if o.first), None) or _first(frames)
    form = frames.first_format()
    catalogue, shape = Catalogue(settings.calibrations), (form.height, form.width)
    learned = catalogue.learned_on(acquisition) if settings.self_calibrate else []
    chosen, _ = catalogue.choose(first, shape, learned=learned)
    there = [o for o in ours if folder is None or o.path.parent == target.parent]
    run = run_of(chosen.ids)
    found = next((o for o in there if o.run == run), None)
    if found is None and settings.self_calibrate:
        # What refocusd measured by itself, or not, is no reason to refocus all frames once more.
        own = {profile.id() for profile in chosen.profiles if not profile.learned}
        begun = (o for o in there if o.run == run_of(o.profiles))
        found = next((o for o in begun if catalogue.not_learned(o.profiles) == own), None)
    new = Output(target, acquisition, run, "", {}, {}, tuple(chosen.ids), first)
    return (new, True) if found is None else (found, False)


def _first(frames: Dataset) -> dict[str, Any]:
    """Metadata of the first frame that identify the microscope."""
    key = frames.axes_keys()[0]
    channel = json.loads(key).get("channel", "")
    first: dict[str, Any] = json.loads(first_of(frames.metadata(key), channel))
    return first
