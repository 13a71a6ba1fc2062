"""The record of a run: its provenance and its figures."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata

import torch

__all__ = ["RunRecord", "described_device", "versions"]

PACKAGES = ("refocusd", "torch", "lightning", "numpy", "scipy", "scikit-image")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a finished (or interrupted) run says of itself; ``run.json``.

    Parameters
    ----------
    data : str
        What it learned from, in words.
    images : int
        Of the training side.
    split_sha256 : str
        Of the list that decides which image trains, "" where there is none.
    seed, steps, planned_steps : int
    seconds : float
        Spent training, over all its sessions.
    final_loss : float
        Of training, smoothed over some 50 steps.
    device : str
    versions : dict of str to str
    profile : str, optional
        Id of the calibration profile that it was trained for.
    devices, batch : int
        Processes, and frames a step of all of them together.
    precision : str
    parameters : int
        Weights of the network.
    initialised : str
        Where the weights came from before the first step.
    teacher : str
        Name of the bundle's or run's folder whose answers were learned as well; "" for none.
    limits : tuple of str
        What was found of the finished network, for its card: sentences that a reader adds.
    validation_loss, validation_psnr : float, optional
        Of the averaged weights: the latest, or the best where the run stopped by it.
    best_step : int, optional
        Of the lowest validation loss.
    ended : str
        ``steps``, ``patience`` or ``minutes``: what made it end; "" while it has not.
    samples : dict
        What the data's reader says of itself: counts, split, channels, what was skipped.
    """

    data: str
    images: int
    split_sha256: str
    seed: int
    steps: int
    planned_steps: int
    seconds: float
    final_loss: float
    device: str
    versions: dict[str, str]
    profile: str | None = None
    devices: int = 1
    batch: int = 0
    precision: str = ""
    parameters: int = 0
    initialised: str = "from the seed"
    teacher: str = ""
    limits: tuple[str, ...] = ()
    validation_loss: float | None = None
    validation_psnr: float | None = None
    best_step: int | None = None
    ended: str = ""
    samples: Mapping[str, object] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Of what takes part in training."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def described_device(device: torch.device) -> str:
    """The device in words: what a reader needs to judge the time that a run took."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {torch.get_num_threads()} threads, {platform.machine()}"
