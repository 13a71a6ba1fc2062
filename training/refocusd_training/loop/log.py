"""The log of a run: one line per step, TensorBoard, and a progress bar."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

import lightning.pytorch as pl
from rich.progress import Progress

from refocusd.cli.console import progress
from refocusd_training.loop.files import not_written, start_table
from refocusd_training.loop.module import Refocusing

LOG_FILE = "log.csv"
COLUMNS = ("step", "loss", "learning_rate", "seconds")
#: Interval, in steps, at which the log is flushed and TensorBoard gets a point.
EVERY = 25


class Log(pl.Callback):
    """Logs every step; only in the first process.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    spent : float
        Duration of the run's earlier sessions, s.
    minutes : float
        Time limit of the run, over all its sessions; 0 for no limit.
    """

    def __init__(self, folder: Path, *, spent: float = 0.0, minutes: float = 0.0) -> None:
        self._path = folder / LOG_FILE
        self._started = time.monotonic() - spent
        self._minutes = minutes
        self._file: TextIO | None = None
        self._progress: Progress | None = None
        self.ended = False
        #: Set by another thread or a signal to end the run after the current step.
        self.interrupted = False

    @property
    def seconds(self) -> float:
        """Duration of the run so far, s."""
        return time.monotonic() - self._started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the file, and remove the lines of steps that were lost with their state."""
        assert isinstance(pl_module, Refocusing)
        if not trainer.is_global_zero:
            return
        done, steps = pl_module.step, pl_module.config.steps
        try:
            start_table(self._path, COLUMNS, done)
            self._file = self._path.open("a", encoding="utf-8", newline="")
        except OSError as error:
            raise not_written(self._path, error) from error
        self._progress = progress()
        self._progress.start()
        self._progress.add_task("training", total=steps, completed=done)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        *_: object,
    ) -> None:
        """Write a line."""
        assert isinstance(pl_module, Refocusing)
        assert isinstance(outputs, dict)
        loss = float(outputs["loss"])
        pl_module.follow(loss)
        if self._minutes:
            late = self.seconds > 60 * self._minutes
            # The processes' clocks differ, but all of them must end together.
            if trainer.strategy.reduce_boolean_decision(late, all=False):
                self.ended = trainer.should_stop = True
        if self.interrupted:
            trainer.should_stop = True
        if self._file is None or self._progress is None:
            return
        step, rate = pl_module.step, pl_module.rate
        line = f"{step},{loss:.5f},{rate:.2e},{self.seconds:.1f}\n"
        try:
            self._file.write(line)
        except OSError as error:
            raise not_written(self._path, error) from error
        if step % EVERY == 0:
            self.flush()
        said = f"training, loss {pl_module.smoothed:.3f}"
        self._progress.update(self._progress.task_ids[0], completed=step, description=said)
        if trainer.logger and step % EVERY == 0:
            trainer.logger.log_metrics({"loss": loss, "learning_rate": rate}, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002 - Lightning's
        """Close the file and the bar."""
        self.close()

    def flush(self) -> None:
        """Force all lines written so far to the disk."""
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                raise not_written(self._path, error) from error

    def close(self) -> None:
        """Close the file and the bar, however the run ended; a second call does nothing.

        Raises
        ------
        OutputError
            If the file's last lines cannot be written.
        """
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:
                raise not_written(self._path, error) from error
