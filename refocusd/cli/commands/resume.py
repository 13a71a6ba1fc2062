"""``refocusd resume``: finishes what is pending or failed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from refocusd.cli.console import note
from refocusd.cli.flags import add_command, add_setting_flags, settings_of
from refocusd.cli.offline import (
    Done,
    OwnDaemon,
    check_quickly,
    feed,
    held_elsewhere,
    own_settings,
    quietly,
    report,
)
from refocusd.config import Settings
from refocusd.datasets.dataset import Dataset, Output, find_dataset
from refocusd.datasets.verify import RunCheck
from refocusd.errors import BundleError, InputError, RefocusdError, TransportError, WorkerError
from refocusd.formats.raw_frames import open_raw
from refocusd.models.bundle import load_bundle, shipped_bundles
from refocusd.models.library import user_bundles
from refocusd.profiles.catalogue import Catalogue

__all__ = ["register"]

#: What opening the run repairs, frames apart.
_REPAIRED = ("not in the ledger", "state differs")

EPILOG = """\
examples:
  refocusd resume data/run_1                  every run of this acquisition
  refocusd resume data/run_1_refocused        this run only
  refocusd resume data/* --no-retry-failed    leave alone what failed before

It goes on with the model and the settings that the run was begun with.  Doing it twice does
no harm, nor does stopping it at any moment.
"""


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser = add_command(
        commands,
        "resume",
        _resume,
        short="finish what is pending or failed in a dataset",
        description="Refocuses, from raw, the frames of a dataset that have no final state yet or "
        "failed, and repairs its ledger.",
        epilog=EPILOG,
        json="what was done",
    )
    parser.add_argument(
        "datasets",
        nargs="+",
        type=Path,
        metavar="DATASET",
        help="raw dataset or recording, or a refocused dataset of it",
    )
    parser.add_argument(
        "--retry-failed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="attempt failed frames once more",
    )
    add_setting_flags(parser)


def _resume(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    all_done: list[Done] = []
    with quietly(), OwnDaemon() as daemon:
        for path in arguments.datasets:
            try:
                dataset = find_dataset(path, settings.ledgers)
                if not dataset.outputs:
                    raise InputError(
                        f"nothing of {path} was refocused yet, so there is nothing to resume; "
                        f"`refocusd process {path}` does all of it"
                    )
            except (RefocusdError, OSError) as error:
                all_done.append(Done(path, summary=str(error), error=True))
                continue
            for output in dataset.outputs:
                try:
                    done = _finish(dataset, output, settings, daemon, arguments.retry_failed)
                    all_done.append(replace(done, path=path))
                except (TransportError, WorkerError):
                    raise  # of our own daemon: the next dataset would fare no better
                except (RefocusdError, OSError) as error:
                    all_done.append(Done(path, output.path, summary=str(error), error=True))
    return report(all_done, arguments.json)


def _finish(
    dataset: Dataset, output: Output, settings: Settings, daemon: OwnDaemon, retry_failed: bool
) -> Done:
    """Attempt what is left of one run.

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
    if not retry_failed:
        failed = {p.axes for p in check.report.problems if p.kind == "failed"}
        keys = [key for key in keys if key not in failed]
    if not keys and not _needs_repair(check):
        return Done(path, path, check=check, summary=f"{path}: nothing to do")
    if dataset.raw is None:
        lost = f" at {dataset.raw_lost}" if dataset.raw_lost else ""
        raise InputError(
            f"{path} is not complete, and its raw data are not there{lost}: put them beside it"
        )
    _check_profiles(output, dataset.raw, settings)
    endpoint = daemon.start(settings_of_run(output, settings))
    if (run := daemon.run_of(output.profiles)) != output.run:
        raise BundleError(
            f"{path} is of run {output.run}, but its model and settings make run "
            f"{run} here (another version of refocusd?); `refocusd process {dataset.raw}` "
            "refocuses the raw data anew, beside it"
        )
    with open_raw(dataset.raw) as frames:
        _, seconds = feed(frames, keys, endpoint, output)
    after = check_quickly(dataset, output, settings)
    return Done(
        path, path, len(keys), seconds, after, "" if keys else f"{path}: the ledger was repaired"
    )


def _check_profiles(output: Output, raw: Path, settings: Settings) -> None:
    """Refuse a run whose calibration profiles are not there any more, before an engine starts.

    Raises
    ------
    InputError
    """
    try:
        Catalogue(settings.calibrations).named(output.profiles, output.first)
    except InputError as error:
        raise InputError(
            f"{output.path} cannot be finished: {error}; or refocus the raw data anew, beside it, "
            f"with `refocusd process {raw}`"
        ) from error


def _needs_repair(check: RunCheck) -> bool:
    """Whether the ledger, or its local file, must be put right."""
    # A ledger that had to be replaced by its copy is noted; one that is nowhere is a fault.
    return any(p.kind in _REPAIRED for p in check.report.problems) or check.ledger_off


def settings_of_run(output: Output, settings: Settings) -> Settings:
    """The settings in force, but for those that decide the pixels: they are the run's.

    Raises
    ------
    BundleError
        If the model that made the run is not at hand.
    """
    pass_in_focus = bool(output.settings.get("pass_in_focus", settings.pass_in_focus))
    if output.engine.get("backend") == "identity":
        return own_settings(settings, backend="identity", pass_in_focus=pass_in_focus)
    recorded = _by_name(output.settings.get("channel_models"))
    channels = {
        channel: _at_hand(
            output, about, [recorded.get(channel), settings.channel_models.get(channel)]
        )
        for channel, about in _by_name(output.engine.get("channels")).items()
    }
    return own_settings(
        settings,
        model=_at_hand(output, output.engine, [output.settings.get("model"), settings.model]),
        channel_models=channels,
        # Frames that a rule skipped have their final state.
        skip_channels=[name for name in settings.skip_channels if name not in channels],
        backend="auto" if settings.backend == "identity" else settings.backend,
        pass_in_focus=pass_in_focus,
    )


def _by_name(said: object) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}


def _at_hand(output: Output, engine: Any, names: Sequence[object]) -> str:
    """Which of these bundles, or of those that are installed, is that of an engine of the run.

    Raises
    ------
    BundleError
        If none is.
    """
    about = _by_name(engine)
    wanted = about.get("model_sha256")
    named = [name for name in names if isinstance(name, str) and name]
    for name in dict.fromkeys([*named, *shipped_bundles(), *user_bundles()]):
        try:
            if load_bundle(name).sha256 == wanted:
                return name
        except BundleError:
            continue
    raise BundleError(
        f"{output.path} was made with the model {about.get('model_id') or output.model} (sha256 "
        f"{str(wanted)[:12]}…), which is not at hand ({', '.join(named) or 'it'} is missing or "
        "another); name its folder with --model (or in channel_models), or refocus the raw data with "
        "another model by `refocusd process`: that makes a second dataset beside it"
    )
