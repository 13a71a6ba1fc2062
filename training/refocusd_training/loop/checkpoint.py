"""Checkpoints at regular steps, from which a run resumes exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl

from refocusd_training.loop.files import (
    STATE_FILE,
    WEIGHTS_FILE,
    write_record,
    write_state,
    write_weights,
)
from refocusd_training.loop.log import Log
from refocusd_training.loop.module import Refocusing
from refocusd_training.loop.record import RunRecord
from refocusd_training.loop.validation import Validation


class Checkpoints(pl.Callback):
    """Writes state, averaged weights and record; only in the first process.

    Lightning's own checkpoint is a pickle of its loops and callbacks. This one consists of
    tensors and numbers, and reading it executes nothing. The loops' state is only the step,
    because batches and rates are functions of it.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    log : Log
    validation : Validation
    recorded : callable
        Returns the record of the module's current step.
    """

    def __init__(
        self,
        folder: Path,
        log: Log,
        validation: Validation,
        recorded: Callable[[Refocusing], RunRecord],
    ) -> None:
        self._folder, self._log, self._validation = folder, log, validation
        self._recorded = recorded

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        """Write a checkpoint if one is due, and at the end."""
        assert isinstance(pl_module, Refocusing)
        step, config = pl_module.step, pl_module.config
        due = step % config.checkpoint_every == 0 or step == config.steps
        if trainer.is_global_zero and (due or trainer.should_stop):
            self._write(pl_module)

    def _write(self, module: Refocusing) -> None:
        # The log must contain at least the steps up to the state from which the run is resumed.
        self._log.flush()
        # The state is written first, because weights and record can be made again from it.
        state = module.state() | {"seconds": self._log.seconds}
        write_state(self._folder / STATE_FILE, state | {"validation": self._validation.state()})
        weights = module.average.state_dict()
        if module.config.snapshots:
            write_weights(self._folder / f"step_{module.step:06d}.safetensors", weights)
        write_weights(self._folder / WEIGHTS_FILE, weights)
        write_record(self._folder, self._recorded(module))
