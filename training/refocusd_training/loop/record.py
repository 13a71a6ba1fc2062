"""The record of a run: its provenance and its figures."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata

import torch

PACKAGES = ("refocusd", "torch", "lightning", "numpy", "scipy", "scikit-image")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The record of a finished or interrupted run, stored in ``run.json``.

    Parameters
    ----------
    data : str
        Description of the training data, in words.
    images : int
        Number of images on the training side.
    split_sha256 : str
        SHA-256 of the list that assigns images to the sides; "" if there is none.
    seed, steps, planned_steps : int
    seconds : float
        Duration of training, over all sessions.
    final_loss : float
        Training loss, smoothed over about 50 steps.
    device : str
    versions : dict of str to str
    profile : str, optional
        Id of the calibration profile of the microscope for which it was trained.
    devices, batch : int
        Number of processes, and frames per step of all of them together.
    precision : str
    parameters : int
        Number of weights of the network.
    initialised : str
        Origin of the weights before the first step.
    teacher : str
        Folder name of the bundle or run that was the teacher; "" for none.
    limits : tuple of str
        Limits of the finished network for its model card, as sentences that are added by hand.
    validation_loss, validation_psnr : float, optional
        Figures of the averaged weights: the latest, or the best if the run stopped early.
    best_step : int, optional
        Step with the lowest validation loss.
    ended : str
        Why the run ended: ``steps``, ``patience`` or ``minutes``; "" if it has not ended.
    samples : dict
        Description by the data's reader: counts, split, channels, skipped images.
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
    """Versions of the packages that training uses."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def described_device(device: torch.device) -> str:
    """The device in words, so that readers can judge the duration of a run."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {torch.get_num_threads()} threads, {platform.machine()}"
