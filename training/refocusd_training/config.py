"""Settings of one training run, read from TOML; an unknown key is an error.

The settings of the loop are at the top of the file; the tables ``[network]``,
``[loss]``, ``[final_loss]`` and ``[data]`` belong to the packages of those names.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from refocusd.config import Limits, check_settings
from refocusd.errors import ConfigError
from refocusd.files import output, read_limited
from refocusd.toml_value import toml_value
from refocusd_training.data.config import DataConfig
from refocusd_training.losses.config import LossConfig
from refocusd_training.networks.config import NetworkConfig
from refocusd_training.weights import IMAGENET

#: Upper limit of numbers that have no natural one.
MOST = 10**9
#: Settings that name files or folders; relative to the folder of the configuration.
PATHS = (
    ("profile",),
    ("weights",),
    ("teacher",),
    ("network", "encoder_weights"),
    ("loss", "feature_weights"),
    ("final_loss", "feature_weights"),
)


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """One training run.

    Parameters
    ----------
    seed : int
        Seed of the weights and of everything that is drawn.
    steps : int
        Optimiser steps.
    batch : int
        Frames per step and device.
    size : int
        Side of a training frame, px, a multiple of 32.
    schedule : str
        ``constant``: linear up, constant, linear down to 0; ``one-cycle``: Smith and Topin
        2018 (arXiv:1708.07120), cosine up and down, momentum the other way round.
    learning_rate : float
        Highest rate of AdamW.
    warm_up, decay : int
        With ``constant``: steps over which the rate rises at the start and falls to 0 at the
        end.  The steps in between do not depend on `steps`, so that a run can be stopped, given
        more steps and resumed.
    rise : float
        With ``one-cycle``: share of the steps over which the rate rises.
    frozen_steps : int
        Number of first steps in which the convolutions of a pre-trained encoder do not change (its
        normalisations learn); with ``one-cycle`` these steps are a cycle of their own.
    unfrozen_rate : float
        Highest rate of the cycle after the frozen one; 0 for `learning_rate`.
    encoder_rate : float
        Rate of the encoder after it is unfrozen, relative to that of the other layers.
    weight_decay : float
        Weight decay of AdamW.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay of the weights' moving average, which is validated and exported.
    precision : str
        ``bf16``, ``f16`` (both mixed) or ``f32``.
    simulation : str
        Where frames of ``sharp`` data are exposed: ``device``, the one that trains; ``cpu``;
        ``auto``: on the device if it is a GPU.  Both give equal distributions, but not equal frames.
    defocus_weight : float
        Weight of the defocus head's loss, if the network has the head.
    checkpoint_every : int
        Steps between checkpoints.
    snapshots : bool
        Keep the averaged weights of every checkpoint, not only of the latest.
    validate_every : int
        Steps between validations; 0 for never.
    patience : int
        Number of validations without a new best after which the run ends, with the best weights; 0
        for never.
    minutes : float
        Time limit of the run; 0 for no limit.
    threads : int
        Threads of torch on a CPU; 0: torch chooses.
    profile : str
        Calibration profile (JSON) of the microscope to train for, relative to the
        configuration's folder: its optics and camera replace the ranges.  "" for none.
    weights : str
        Weights (safetensors) to start from, relative to the configuration's folder; a defocus
        head that they lack starts from the seed.  "" for none.
    teacher : str
        Folder of a bundle or of a run, relative to the configuration's folder, whose network's outputs
        are learned beside the truth (Hinton, Vinyals and Dean 2015, arXiv:1503.02531).  "" for
        none.
    teacher_weight : float
        Weight of the loss against these outputs; that against the truth has the weight 1.
    network : NetworkConfig
    loss : LossConfig
    final_loss : LossConfig, optional
        Replaces `loss` during the last `decay` steps: frames that are sharp and clean already
        gain their last tenths of a decibel when the rest is learned.
    data : DataConfig
    """

    seed: int = 2
    steps: Annotated[int, Limits(1, MOST)] = 1000
    batch: Annotated[int, Limits(1, MOST)] = 6
    size: Annotated[int, Limits(1, MOST)] = 320
    schedule: Literal["constant", "one-cycle"] = "constant"
    learning_rate: Annotated[float, Limits(1e-12, math.inf)] = 1.2e-3
    warm_up: Annotated[int, Limits(0, MOST)] = 200
    decay: Annotated[int, Limits(0, MOST)] = 400
    rise: Annotated[float, Limits(1e-6, 1 - 1e-6)] = 0.25
    frozen_steps: Annotated[int, Limits(0, MOST)] = 0
    unfrozen_rate: float = 0.0
    encoder_rate: float = 0.1
    weight_decay: float = 0.01
    clip: Annotated[float, Limits(1e-12, math.inf)] = 1.0
    ema: Annotated[float, Limits(0.0, 1 - 1e-9)] = 0.998
    precision: Literal["bf16", "f16", "f32"] = "bf16"
    simulation: Literal["auto", "cpu", "device"] = "auto"
    defocus_weight: Annotated[float, Limits(0.0, MOST)] = 0.1
    checkpoint_every: Annotated[int, Limits(1, MOST)] = 500
    snapshots: bool = False
    validate_every: Annotated[int, Limits(0, MOST)] = 0
    patience: Annotated[int, Limits(0, MOST)] = 0
    minutes: float = 0.0
    threads: Annotated[int, Limits(0, MOST)] = 0
    profile: str = ""
    weights: str = ""
    teacher: str = ""
    teacher_weight: Annotated[float, Limits(0.0, MOST)] = 1.0
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    final_loss: LossConfig | None = None
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        """Refuse settings that cannot run."""
        check_settings(self)
        if self.size % 32:
            raise ConfigError(f"size is {self.size}; give a multiple of 32 px")
        if self.frozen_steps >= self.steps:
            raise ConfigError(
                f"frozen_steps is {self.frozen_steps} of {self.steps} steps; leave some unfrozen"
            )
        if self.frozen_steps and not (self.network.encoder_weights or self.weights):
            raise ConfigError(
                f"frozen_steps is {self.frozen_steps}, but an encoder with random weights must be "
                "trained from the start: set frozen_steps to 0, or give network.encoder_weights"
            )
        if self.patience and not self.validate_every:
            raise ConfigError("patience counts validations; give validate_every as well")


def _refuse_unknown(table: dict[str, Any], kind: type, where: str) -> None:
    """Refuse unknown keys, here and in the tables below."""
    known = {item.name for item in fields(kind)}
    if unknown := sorted(set(table) - known):
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; known: {sorted(known)}")
    for name, hint in get_type_hints(kind).items():
        options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for option in options:
            if dataclasses.is_dataclass(option) and isinstance(table.get(name), dict):
                assert isinstance(option, type)
                _refuse_unknown(table[name], option, f"[{name}] of {where}")


def load_config(path: Path) -> TrainingConfig:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        If it cannot be read, has an unknown key or a value of another type.
    """
    try:
        table = tomllib.loads(read_limited(path, 1 << 20).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as TOML ({error})") from error
    _refuse_unknown(table, TrainingConfig, str(path))
    for *outer, name in PATHS:
        within = table.get(outer[0]) if outer else table
        if not isinstance(within, dict):
            continue
        given = within.get(name)
        if isinstance(given, str) and given not in {"", IMAGENET}:
            # Absolute, because the configuration is also written into the run's folder.
            within[name] = str((path.parent / given).absolute())
    try:
        return msgspec.convert(table, TrainingConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} has an invalid value ({error})") from error


def _lines(settings: Any, name: str = "") -> list[str]:
    """One dataclass as TOML: its values, then the tables within it."""
    values, tables = [f"[{name}]"] if name else [], []
    for item in fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            tables += ["", *_lines(value, f"{name}.{item.name}" if name else item.name)]
        elif value is not None:
            values.append(f"{item.name} = {toml_value(value)}")
    return values + tables


def write_config(config: TrainingConfig, path: Path) -> None:
    """Write every setting, including defaults, as TOML that `load_config` reads.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with output(path):
        path.write_text("\n".join(_lines(config)) + "\n", encoding="utf-8")
