"""The training loop: simulated frames in, checkpoints out.

A run folder holds ``config.toml`` (every setting), ``log.csv`` (loss over
steps), ``step_NNNNNN.safetensors`` (averaged weights, every checkpoint),
``weights.safetensors`` (the latest), ``state.pt`` (to resume from) and
``run.json`` (provenance); ``profile.json`` where it was trained for a microscope.
"""

from __future__ import annotations

import csv
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn

from refocusd.errors import InputError, OutputError
from refocusd.profile import load_profile, save_profile
from refocusd_training.config import TrainingConfig, write_config
from refocusd_training.data import find_images, read_image
from refocusd_training.losses import refocus_loss
from refocusd_training.networks import LiveUNet, LiveUNetConfig
from refocusd_training.samples import Batch, Prefetched, SampleStream
from refocusd_training.simulate.ranges import DEFAULT_RANGES, Ranges, ranges_of
from refocusd_training.simulate.specimen import flux_of
from refocusd_training.split import Side, load_split, split_digest

__all__ = ["RunRecord", "network_of", "ranges_of_run", "specimens_of", "train"]

#: Steps after which the log is readable from outside.
LOG_FLUSH = 25
PROFILE_FILE = "profile.json"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a finished (or interrupted) run says of itself; ``run.json``."""

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
    #: Id of the calibration profile that it was trained for.
    profile: str | None = None


def ranges_of_run(run: Path) -> tuple[Ranges, str | None]:
    """What a run draws optics and cameras from, and the id of the profile behind it."""
    path = run / PROFILE_FILE
    if not path.exists():
        return DEFAULT_RANGES, None
    profile = load_profile(path)
    return ranges_of(profile), profile.id()


def network_of(config: TrainingConfig) -> LiveUNet:
    """The network that a configuration describes, newly initialised from its seed."""
    torch.manual_seed(config.seed)
    return LiveUNet(LiveUNetConfig(**asdict(config.network)))


def specimens_of(data: Path, side: Side) -> dict[str, NDArray[np.float32]]:
    """Flux of every image of one side of the split, by name.

    Raises
    ------
    InputError
        If images are missing.
    """
    names = [entry.name for entry in load_split() if entry.side == side]
    return {name: flux_of(read_image(path)) for name, path in find_images(data, names).items()}


class _Average:
    """Exponential moving average of a network's weights, warmed up at the start."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._count = 0
        self.weights = {name: value.detach().clone() for name, value in _weights(network).items()}

    def restore(self, weights: dict[str, Tensor], count: int) -> None:
        """Continue from saved weights after `count` updates."""
        self._count = count
        for name, value in weights.items():
            self.weights[name].copy_(value)

    def update(self, network: nn.Module) -> None:
        self._count += 1
        decay = min(self._decay, (1 + self._count) / (10 + self._count))
        with torch.no_grad():
            for name, value in _weights(network).items():
                self.weights[name].lerp_(value, 1 - decay)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters())


def _on_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    raw, truth, span = (torch.from_numpy(a) for a in (batch.raw, batch.truth, batch.span))
    return raw.to(device), truth.to(device), span.to(device)


def train(
    config: TrainingConfig,
    specimens: Sequence[NDArray[np.float32]],
    output: Path,
    *,
    device: str | None = None,
    resume: bool = False,
) -> RunRecord:
    """Train a network and leave its checkpoints in a new folder.

    Parameters
    ----------
    config : TrainingConfig
    specimens : sequence of ndarray of float32, shape (height, width)
        Flux, as `specimens_of` gives it.
    output : Path
        Run folder; must not exist, or be empty, unless resumed.
    device : str, optional
        A torch device; by default CUDA where there is one, else the CPU.
    resume : bool
        Continue from the folder's latest checkpoint.  The configuration may
        give more steps than before, nothing else.

    Returns
    -------
    RunRecord

    Raises
    ------
    InputError
        If there is no specimen.
    OutputError
        If the folder holds something already.
    """
    if not specimens:
        raise InputError("there are no specimens to train on: check the data folder and the split")
    if not resume and output.exists() and any(output.iterdir()):
        raise OutputError(
            f"{output} is not empty: give a new folder for this run, or resume the one it holds"
        )
    profile = load_profile(config.profile) if config.profile and not resume else None
    output.mkdir(parents=True, exist_ok=True)
    if profile is not None:
        # A copy: the run is resumed and exported with what it was begun with.
        save_profile(profile, output / PROFILE_FILE)
    ranges, profile_id = ranges_of_run(output)
    write_config(config, output / "config.toml")
    if config.threads:
        torch.set_num_threads(config.threads)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = network_of(config).to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    average = _Average(network, config.ema)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    stream = SampleStream(
        specimens,
        size=config.size,
        batch=config.batch,
        bank=config.bank,
        seed=config.seed,
        ranges=ranges,
    )
    done, spent, smoothed = 0, 0.0, math.nan
    if resume:
        done, spent, smoothed = _restore(output, network, optimiser, average)
    step, started = done, time.monotonic() - spent
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with (
        Prefetched(stream.batches(done)) as batches,
        (output / "log.csv").open("a", encoding="utf-8", newline="") as log,
        Progress(*columns) as progress,
    ):
        writer = csv.writer(log, lineterminator="\n")
        if not resume:
            writer.writerow(["step", "loss", "learning_rate", "seconds"])
        task = progress.add_task("training", total=config.steps, completed=done)
        for step in range(done + 1, config.steps + 1):
            rate = learning_rate_at(config, step)
            for group in optimiser.param_groups:
                group["lr"] = rate
            raw, truth, span = _on_device(batches.take(), target)
            with torch.autocast(target.type, torch.bfloat16):
                refocused = network(raw.contiguous(memory_format=torch.channels_last))
            last = step > config.steps - config.decay
            weight = config.final_logarithm if last else config.logarithm
            loss = refocus_loss(refocused.float(), truth, span, weight)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimiser.step()
            average.update(network)
            value = float(loss.detach())
            smoothed = value if math.isnan(smoothed) else 0.98 * smoothed + 0.02 * value
            elapsed = time.monotonic() - started
            writer.writerow([step, f"{value:.5f}", f"{rate:.2e}", f"{elapsed:.1f}"])
            progress.update(task, advance=1, description=f"training, loss {smoothed:.3f}")
            if step % LOG_FLUSH == 0:
                log.flush()
            if step % config.checkpoint_every == 0 or step == config.steps:
                record = _record(config, len(specimens), step, elapsed, smoothed, target)
                record = replace(record, profile=profile_id)
                _checkpoint(output, network, optimiser, average, record)
    record = _record(config, len(specimens), step, time.monotonic() - started, smoothed, target)
    return replace(record, profile=profile_id)


def learning_rate_at(config: TrainingConfig, step: int) -> float:
    """Rate of a step (from 1): linear up, constant, linear down to 0."""
    up = step / max(config.warm_up, 1)
    down = (config.steps - step) / config.decay if config.decay else 1.0
    return config.learning_rate * max(min(up, 1.0, down), 0.0)


def _record(
    config: TrainingConfig,
    images: int,
    step: int,
    seconds: float,
    loss: float,
    device: torch.device,
) -> RunRecord:
    return RunRecord(
        data="BBBC038v1 (CC0), fluorescence images, training side of the split",
        images=images,
        split_sha256=split_digest(),
        seed=config.seed,
        steps=step,
        planned_steps=config.steps,
        seconds=round(seconds, 1),
        final_loss=round(loss, 5),
        device=f"{device.type}, {torch.get_num_threads()} threads, {platform.machine()}",
        versions={"torch": torch.__version__, "numpy": np.__version__},
    )


def _restore(
    output: Path, network: nn.Module, optimiser: torch.optim.Optimizer, average: _Average
) -> tuple[int, float, float]:
    """Continue from ``state.pt``: steps done, seconds spent, loss."""
    path = output / "state.pt"
    try:
        state = torch.load(path, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        average.restore(state["average"], state["step"])
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"{path} does not continue this run ({error}): start it anew") from error
    return int(state["step"]), float(state["seconds"]), float(state["loss"])


def _checkpoint(
    output: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: _Average,
    record: RunRecord,
) -> None:
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average.weights,
        "step": record.steps,
        "seconds": record.seconds,
        "loss": record.final_loss,
    }
    torch.save(state, output / "state.tmp")
    (output / "state.tmp").replace(output / "state.pt")
    weights = {name: value.cpu().contiguous() for name, value in average.weights.items()}
    save_file(weights, output / f"step_{record.steps:06d}.safetensors")
    save_file(weights, output / "weights.safetensors")
    text = json.dumps(asdict(record), indent=2) + "\n"
    (output / "run.json").write_text(text, encoding="utf-8")
