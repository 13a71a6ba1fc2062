"""Speed of training: samples per second of the loader alone, of the step alone, and of both.

    python benchmarks/speed/training_rate.py --config training/configs/quick.toml --data bbbc038

The loader draws and simulates frames in one thread; the step is forward, loss, backward,
clipping, optimiser and weight average, on batches that are already in memory.  If the loader
is slower than the step, a faster GPU does not help.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import torch
from refocusd_training.config import TrainingConfig, load_config
from refocusd_training.data.samples import Batch
from refocusd_training.data.source import SampleSource, open_samples
from refocusd_training.loop.run import train_on
from refocusd_training.simulate.ranges import Ranges


class Stored:
    """A source that repeats a few batches from memory, so that loading takes no time."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches
        self.description: dict[str, object] = {"data": "stored batches"}

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield them, as a source would from step `first`."""
        return islice(cycle(self._batches), first, None)

    def validation(self) -> list[Batch]:
        """Hold nothing out."""
        return []


def opened(config: TrainingConfig, data: Path, seed: int) -> SampleSource:
    return open_samples(config.data, data, size=config.size, batch=config.batch, seed=seed)


def loader_rate(config: TrainingConfig, source: SampleSource, steps: int) -> float:
    """Samples per second, without the first batch and the transfer functions that it computes."""
    stream = source.batches(0)
    next(stream)
    started = time.perf_counter()
    for _ in range(steps):
        next(stream)
    return steps * config.batch / (time.perf_counter() - started)


def loop_rate(config: TrainingConfig, source: SampleSource, device: str, steps: int) -> float:
    """Samples per second of the whole loop over a source, after ten steps that are not counted."""
    warm = 10
    short = replace(
        config, steps=warm + steps, frozen_steps=0, checkpoint_every=10**6, validate_every=0,
        patience=0, minutes=0.0, snapshots=False,
    )  # fmt: skip

    def open_source(_seed: int, _ranges: Ranges) -> SampleSource:
        return source

    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        train_on(short, open_source, run, device=device)
        rows = (run / "log.csv").read_text(encoding="utf-8").splitlines()
    seconds = float(rows[-1].split(",")[-1]) - float(rows[warm].split(",")[-1])
    return steps * config.batch / max(seconds, 1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("training/configs/quick.toml"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    source = opened(config, arguments.data, config.seed)
    stored = Stored(list(islice(source.batches(0), 8)))
    figures = {
        "config": arguments.config.name,
        "network": config.network.name,
        "size": config.size,
        "batch": config.batch,
        "device": arguments.device,
        "threads": config.threads or torch.get_num_threads(),
        "loader_samples_per_s": round(loader_rate(config, source, arguments.steps), 1),
        "step_samples_per_s": round(
            loop_rate(config, stored, arguments.device, arguments.steps), 1
        ),
        "loop_samples_per_s": round(
            loop_rate(config, source, arguments.device, arguments.steps), 1
        ),
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
