"""How good the averaged weights are on frames that training does not show."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from refocusd_training.loop.feed import TensorBatch, tensors
from refocusd_training.loop.files import BEST_FILE, not_written, start_table, write_weights
from refocusd_training.loop.module import Refocusing
from refocusd_training.networks import RefocusNetwork
from refocusd_training.samples import Batch

__all__ = ["Validated", "Validation"]

TABLE_FILE = "validation.csv"
COLUMNS = ("step", "validation_loss", "validation_psnr_db")


@dataclass(frozen=True, slots=True)
class Validated:
    """Mean loss, and mean PSNR in dB with the range of each truth (no border, no fit)."""

    loss: float
    psnr: float


class Validation(pl.Callback):
    """Validates every so many steps, keeps the best weights, and ends a run that has no better.

    Parameters
    ----------
    batches : sequence of Batch
        Shared among the processes.
    folder : Path
        Of the run.
    every, patience : int
        As in `TrainingConfig`.
    state : mapping, optional
        What `state` gave when the run was interrupted.
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
        self.latest: Validated | None = None
        if "latest" in state:
            self.latest = Validated(*state["latest"])
        self.ended = False

    def state(self) -> dict[str, Any]:
        """What a resumed run needs of it."""
        found: dict[str, Any] = {
            "best": self.best,
            "best_step": self.best_step,
            "since": self._since,
        }
        if self.latest:
            found["latest"] = (self.latest.loss, self.latest.psnr)
        return found

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the table; what it says of steps that were lost with their state goes."""
        assert isinstance(pl_module, Refocusing)
        if self._every and trainer.is_global_zero:
            start_table(self._folder / TABLE_FILE, COLUMNS, pl_module.step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        """Validate, where it is time."""
        assert isinstance(pl_module, Refocusing)
        last = pl_module.step == pl_module.config.steps
        if not self._every or (pl_module.step % self._every and not last):
            return
        self.latest = self._validated(trainer, pl_module)
        if self.latest.loss < self.best:
            self.best, self.best_step, self._since = self.latest.loss, pl_module.step, 0
            if trainer.is_global_zero:
                write_weights(self._folder / BEST_FILE, pl_module.average.state_dict())
        else:
            self._since += 1
        if trainer.is_global_zero:
            self._write(trainer, pl_module.step)
        if self._patience and self._since >= self._patience:
            self.ended = trainer.should_stop = True

    def _validated(self, trainer: pl.Trainer, module: Refocusing) -> Validated:
        network = module.average
        training = network.training
        network.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=module.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in self._batches[trainer.global_rank :: trainer.world_size]:
                on_device: TensorBatch = {  # type: ignore[assignment]
                    name: value.to(module.device)  # type: ignore[attr-defined]
                    for name, value in tensors(batch).items()
                }
                sums += _sums(module, network, on_device)
        network.train(training)
        total = trainer.strategy.reduce(sums, reduce_op="sum")
        loss, psnr, frames = total.tolist()
        return Validated(loss / frames, psnr / frames)

    def _write(self, trainer: pl.Trainer, step: int) -> None:
        assert self.latest is not None
        figures = dict(zip(COLUMNS[1:], (self.latest.loss, self.latest.psnr), strict=True))
        if trainer.logger:
            trainer.logger.log_metrics(figures, step)
        path = self._folder / TABLE_FILE
        try:
            with path.open("a", encoding="utf-8", newline="") as file:
                row = [step, *(f"{value:.5f}" for value in figures.values())]
                csv.writer(file, lineterminator="\n").writerow(row)
        except OSError as error:
            raise not_written(path, error) from error


def _sums(module: Refocusing, network: RefocusNetwork, batch: TensorBatch) -> torch.Tensor:
    """Sums over a batch's frames: loss, PSNR, and how many they are."""
    frames = len(batch["raw"])
    loss = module.loss_of(network, batch, module.loss)
    refocused = network(batch["raw"].contiguous(memory_format=torch.channels_last))
    error = (refocused.float() - batch["truth"]) / batch["span"][:, None, None, None]
    psnr = -10 * torch.log10(error.square().mean(dim=(1, 2, 3)).clamp(min=1e-12))
    return torch.stack([loss.double() * frames, psnr.double().sum(), loss.new_tensor(frames)])
