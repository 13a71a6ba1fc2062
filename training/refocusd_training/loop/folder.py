"""The run folder: creates it, checks it before a run is resumed, and reads it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

from torch import nn

from refocusd.errors import ConfigError, InputError, OutputError, RefocusdError
from refocusd.models.bundle import load_bundle
from refocusd.profiles.profile import load_profile, save_profile
from refocusd_training.config import TrainingConfig, load_config, write_config
from refocusd_training.loop.files import (
    BEGUN,
    CONFIG_FILE,
    PROFILE_FILE,
    RECORD_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    misfit_of,
    not_written,
    read_weights,
)
from refocusd_training.networks import RefocusNetwork, build_network
from refocusd_training.simulate.ranges import DEFAULT_RANGES, WIDE_RANGES, Ranges, ranges_of

#: Prefix of the defocus head's weights.
HEAD = "defocus."


#: Settings that may change when a run is resumed; any other change would make it another run.
MAY_CHANGE = frozenset(
    {
        "steps",
        "decay",
        "checkpoint_every",
        "snapshots",
        "validate_every",
        "patience",
        "minutes",
        "threads",
        "profile",
        "weights",
    }
)


def ranges_of_run(run: Path) -> tuple[Ranges, str | None]:
    """Ranges from which a run draws optics and cameras, and the id of the profile they come from."""
    path = run / PROFILE_FILE
    if not path.exists():
        wide = load_config(run / CONFIG_FILE).data.optics == "any"
        return WIDE_RANGES if wide else DEFAULT_RANGES, None
    profile = load_profile(path)
    return ranges_of(profile), profile.id()


def network_of_run(run: Path, weights: Path | None = None) -> RefocusNetwork:
    """The network of a run with its averaged weights, for inference.

    Raises
    ------
    InputError
        If the weights are missing or do not fit the configuration.
    """
    config = load_config(run / CONFIG_FILE)
    network = build_network(config.network, config.seed, pretrained=False)
    load_weights(network, weights or run / WEIGHTS_FILE)
    return network.eval()


def load_weights(network: nn.Module, path: Path, *, new_head: bool = False) -> None:
    """Load weights that must fit the network.

    Parameters
    ----------
    network : torch.nn.Module
    path : Path
    new_head : bool
        Whether a defocus head that the file lacks may keep its random initial weights.

    Raises
    ------
    InputError
        If they cannot be read or do not fit.
    """
    weights = read_weights(path)
    if new_head and not any(name.startswith(HEAD) for name in weights):
        weights |= {
            name: value for name, value in network.state_dict().items() if name.startswith(HEAD)
        }
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path} does not fit the network of the configuration ({misfit_of(error)}): give weights of "
            "that network, or correct its [network] table"
        ) from error


def origin_of(path: Path) -> str:
    """Origin of the weights that a run starts from: their bundle or run, as far as it is known.

    It contains only names and numbers, because paths are private.
    """
    try:
        if (path.parent / "rdf.yaml").is_file():
            bundle = load_bundle(path.parent)
            return f"from the bundle {bundle.model_id}"
        told = json.loads((path.parent / RECORD_FILE).read_text(encoding="utf-8"))
        return (
            f"from {path.name} of the run {path.parent.name} ({told['steps']} steps of "
            f"{told['batch']} frames in {told['seconds']:.0f} s on {told['device']}, weights "
            f"{told['initialised']})"
        )
    except (RefocusdError, OSError, ValueError, KeyError, TypeError):
        return f"from {path.name}"


def prepare(config: TrainingConfig, output: Path, *, resume: bool) -> None:
    """Create the run folder, with its configuration and profile, or check the one to resume.

    Raises
    ------
    ConfigError, InputError, OutputError
        See `run_training`.
    """
    if resume:
        if not (output / STATE_FILE).is_file():
            raise InputError(
                f"{output} has no checkpoint to resume from: start the run anew, without --resume"
            )
        before = load_config(output / CONFIG_FILE)
        _refuse_other_run(config, before, output)
        # These are kept from the start, because on another machine the same files have other paths.
        config = replace(config, profile=before.profile, weights=before.weights)
    elif output.exists() and not _is_free(output):
        raise OutputError(
            f"{output} is not empty: give a new folder for this run, or resume the one it holds"
        )
    profile = load_profile(config.profile) if config.profile and not resume else None
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(output, error) from error
    if profile is not None:
        # A copy, so that the run is resumed and exported with the profile from its start.
        save_profile(profile, output / PROFILE_FILE)
    write_config(config, output / CONFIG_FILE)


def _is_free(output: Path) -> bool:
    """Whether a folder is empty, or holds only what a run writes before its first checkpoint."""
    return output.is_dir() and BEGUN.issuperset(entry.name for entry in output.iterdir())


def _refuse_other_run(config: TrainingConfig, before: TrainingConfig, output: Path) -> None:
    for item in fields(config):
        if item.name in MAY_CHANGE:
            continue
        old, new = getattr(before, item.name), getattr(config, item.name)
        if old != new:
            raise ConfigError(
                f"{item.name} is {new}, but the run in {output} was begun with {old}: resume it "
                f"with its own {CONFIG_FILE}, or start another run"
            )
