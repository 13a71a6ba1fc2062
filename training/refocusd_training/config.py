"""Settings of one training run, read from TOML; an unknown key is an error."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from refocusd.errors import ConfigError

__all__ = ["NetworkSettings", "TrainingConfig", "load_config", "write_config"]


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Widths and depths of `LiveUNet`; see `LiveUNetConfig`."""

    widths: tuple[int, int, int] = (32, 80, 128)
    blocks: tuple[int, int, int] = (1, 1, 3)
    half: int = 24
    fine: int = 8


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """One training run.

    Parameters
    ----------
    seed : int
        Of weights and simulation.
    steps : int
        Optimiser steps.
    batch : int
        Frames a step.
    size : int
        Side of a training frame in pixels, a multiple of 32.
    bank : int
        Transfer functions kept at a time.
    learning_rate : float
        Of AdamW, after the warm-up and before the decay.
    warm_up, decay : int
        Steps over which the rate rises at the start and falls to 0 at the end.
        What lies between does not depend on `steps`: a run may be stopped, given
        more steps and resumed.
    logarithm, final_logarithm : float
        Weight of the loss's logarithm before the decay, and during it: frames
        that are sharp and clean already get their last tenths of a decibel when
        the rest is learned.
    weight_decay : float
        Of AdamW.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay of the weights' moving average, which is what is exported.
    checkpoint_every : int
        Steps.
    threads : int
        Of torch on a CPU; 0 leaves torch's choice.
    profile : str
        Calibration profile (JSON) of the microscope to train for, relative to the
        configuration's folder: its optics and camera replace the ranges.  "" for none.
    network : NetworkSettings
    """

    seed: int = 2
    steps: int = 1000
    batch: int = 6
    size: int = 320
    bank: int = 384
    learning_rate: float = 1.2e-3
    warm_up: int = 200
    decay: int = 400
    logarithm: float = 0.01
    final_logarithm: float = 0.03
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.998
    checkpoint_every: int = 500
    threads: int = 0
    profile: str = ""
    network: NetworkSettings = field(default_factory=NetworkSettings)

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        for name in ("steps", "batch", "size", "bank", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.size % 32:
            raise ConfigError(f"size is {self.size}; give a multiple of 32 px")
        if not isinstance(self.profile, str):
            raise ConfigError(f"profile is {self.profile}; give the path of a calibration profile")


def _checked(table: dict[str, Any], kind: type, where: str) -> dict[str, Any]:
    known = {item.name for item in fields(kind)}
    if unknown := sorted(set(table) - known):
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; known: {sorted(known)}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def load_config(path: Path) -> TrainingConfig:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        If it cannot be read, has an unknown key or a value of another type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML ({error})") from error
    network = NetworkSettings(
        **_checked(table.pop("network", {}), NetworkSettings, f"[network] of {path}")
    )
    if isinstance(table.get("profile"), str) and table["profile"]:
        table["profile"] = str(path.parent / table["profile"])
    try:
        return TrainingConfig(network=network, **_checked(table, TrainingConfig, str(path)))
    except TypeError as error:
        raise ConfigError(f"{path} has a value of the wrong type ({error})") from error


def _toml(value: object) -> str:
    # A JSON string is a TOML one as well.
    return json.dumps(value) if isinstance(value, str) else str(value)


def write_config(config: TrainingConfig, path: Path) -> None:
    """Write every setting, defaults included, as TOML that `load_config` reads."""
    lines = [
        f"{item.name} = {_toml(getattr(config, item.name))}"
        for item in fields(config)
        if item.name != "network"
    ]
    lines += ["", "[network]"]
    for item in fields(config.network):
        value = getattr(config.network, item.name)
        lines.append(f"{item.name} = {list(value) if isinstance(value, tuple) else value}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
