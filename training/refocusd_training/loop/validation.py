"""Validates the averaged weights on frames that are not in the training data."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from refocusd_training.data.samples import Batch
from refocusd_training.loop.feed import TensorBatch, tensors
from refocusd_training.loop.files import BEST_FILE, not_written, start_table, write_weights
from refocusd_training.loop.module import Refocusing
from refocusd_training.networks import RefocusNetwork

TABLE_FILE = "validation.csv"
COLUMNS = ("step", "validation_loss", "validation_psnr_db")
LEVELS_FILE = "validation_by_defocus.csv"
LEVEL_COLUMNS = ("step", "defocus_um", "frames", "validation_psnr_db")
#: Width of the defocus levels, um: the step between the planes of BBBC006.
LEVEL_UM = 2.0


@dataclass(frozen=True, slots=True)
class Validated:
    """Mean loss, and mean PSNR in dB with the range of each truth (no border, no fit)."""

    loss: float
    psnr: float


class Validation(pl.Callback):
    """Validates at regular steps, keeps the best weights, and ends a run that no longer improves.

    Parameters
    ----------
    batches : sequence of Batch
        Batches, which the processes divide among themselves.
    folder : Path
        Folder of the run.
    every, patience : int
        Intervals, see `TrainingConfig`.
    state : mapping, optional
        Result of `state` from when the run was interrupted.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        folder: Path,
        *,
        every: int,
        patience: int,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._batches, self._folder = batches, folder
        self._every, self._patience = every, patience
        state = state or {}
        self.best = float(state.get("best", math.inf))
        self.best_step = int(state.get("best_step", 0))
        self._since = int(state.get("since", 0))
        # From all batches, so that every process, which sees only a part of them, has the same levels.
        self._levels = sorted({level for batch in batches for level in _levels(batch)})
        self.latest: Validated | None = None
        if "latest" in state:
            self.latest = Validated(*state["latest"])
        self.ended = False

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        found: dict[str, Any] = {
            "best": self.best,
            "best_step": self.best_step,
            "since": self._since,
        }
        if self.latest:
            found["latest"] = (self.latest.loss, self.latest.psnr)
        return found

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the table, and remove the lines of steps that were lost with their state."""
        assert isinstance(pl_module, Refocusing)
        if self._every and trainer.is_global_zero:
            start_table(self._folder / TABLE_FILE, COLUMNS, pl_module.step)
            start_table(self._folder / LEVELS_FILE, LEVEL_COLUMNS, pl_module.step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        """Validate if it is due."""
        assert isinstance(pl_module, Refocusing)
        last = pl_module.step == pl_module.config.steps
        if not self._every or (pl_module.step % self._every and not last):
            return
        self.latest, by_level = self._validated(trainer, pl_module)
        if self.latest.loss < self.best:
            self.best, self.best_step, self._since = self.latest.loss, pl_module.step, 0
            if trainer.is_global_zero:
                write_weights(self._folder / BEST_FILE, pl_module.average.state_dict())
        else:
            self._since += 1
        if trainer.is_global_zero:
            self._write(trainer, pl_module.step)
            self._write_levels(pl_module.step, by_level)
        if self._patience and self._since >= self._patience:
            self.ended = trainer.should_stop = True

    def _validated(
        self, trainer: pl.Trainer, module: Refocusing
    ) -> tuple[Validated, list[list[float]]]:
        """The means, and for each level the number of frames and the sum of their PSNRs."""
        network = module.average
        training = network.training
        network.eval()
        sums = torch.zeros(3 + 2 * len(self._levels), dtype=torch.float64, device=module.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in self._batches[trainer.global_rank :: trainer.world_size]:
                on_device: TensorBatch = {  # type: ignore[assignment]
                    name: value.to(module.device)  # type: ignore[attr-defined]
                    for name, value in tensors(batch).items()
                }
                loss, psnr = _judged(module, network, on_device)
                sums[:3] += torch.stack([loss * len(psnr), psnr.sum(), loss.new_tensor(len(psnr))])
                for level, decibel in zip(_levels(batch), psnr, strict=True):
                    at = 3 + 2 * self._levels.index(level)
                    sums[at] += 1
                    sums[at + 1] += decibel
        network.train(training)
        total = trainer.strategy.reduce(sums, reduce_op="sum")
        summed, decibels, frames, *rest = total.tolist()
        by_level = [rest[i : i + 2] for i in range(0, len(rest), 2)]
        return Validated(summed / frames, decibels / frames), by_level

    def _write(self, trainer: pl.Trainer, step: int) -> None:
        assert self.latest is not None
        figures = dict(zip(COLUMNS[1:], (self.latest.loss, self.latest.psnr), strict=True))
        if trainer.logger:
            trainer.logger.log_metrics(figures, step)
        row = [step, *(f"{value:.5f}" for value in figures.values())]
        _append(self._folder / TABLE_FILE, [row])

    def _write_levels(self, step: int, by_level: list[list[float]]) -> None:
        rows = [
            [
                step,
                "" if math.isinf(level) else f"{level:g}",
                f"{frames:.0f}",
                f"{psnr / frames:.3f}",
            ]
            for level, (frames, psnr) in zip(self._levels, by_level, strict=True)
            if frames
        ]
        _append(self._folder / LEVELS_FILE, rows)


def _append(path: Path, rows: Sequence[Sequence[object]]) -> None:
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    except OSError as error:
        raise not_written(path, error) from error


def _levels(batch: Batch) -> list[float]:
    """Distance of each frame from focus, um, rounded to `LEVEL_UM`; infinite if unknown."""
    return [
        LEVEL_UM * round(abs(float(um)) / LEVEL_UM) if math.isfinite(um) else math.inf
        for um in batch.defocus_um
    ]


def _judged(
    module: Refocusing, network: RefocusNetwork, batch: TensorBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of a batch, and the PSNR of each of its frames."""
    loss = module.loss_of(network, batch, module.loss)
    refocused = network(batch["raw"].contiguous(memory_format=torch.channels_last))
    error = (refocused.float() - batch["truth"]) / batch["span"][:, None, None, None]
    psnr = -10 * torch.log10(error.square().mean(dim=(1, 2, 3)).clamp(min=1e-12))
    return loss.double(), psnr.double()
