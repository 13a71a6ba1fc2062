"""A training run small enough for tests, with frames and specimens for it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from refocusd_training.config import TrainingConfig
from refocusd_training.data.config import DataConfig
from refocusd_training.data.samples import Batch, SampleStream
from refocusd_training.loop.record import RunRecord
from refocusd_training.loop.run import train_on
from refocusd_training.losses import LossConfig
from refocusd_training.networks import NetworkConfig, RefocusNetwork, build_network
from refocusd_training.simulate.ranges import Ranges
from safetensors.torch import load_file

TINY = TrainingConfig(
    seed=7,
    steps=40,
    batch=2,
    size=96,
    learning_rate=4e-3,
    warm_up=5,
    decay=10,
    ema=0.9,
    checkpoint_every=20,
    threads=1,
    network=NetworkConfig(widths=(8, 16, 16), blocks=(1, 1, 1), half=8, fine=4),
    loss=LossConfig(logarithm=0.01),
    final_loss=LossConfig(logarithm=0.03),
    data=DataConfig(channels=("DNA=.",), bank=12, validate=0.4, test=0.0, validation_batches=2),
)


def network_of(config: TrainingConfig) -> RefocusNetwork:
    """The network that a configuration describes, newly initialised from its seed."""
    return build_network(config.network, config.seed)


class Specimens:
    """A source of given specimens, none of which is held out."""

    def __init__(self, stream: SampleStream, images: int) -> None:
        self._stream = stream
        self.description: dict[str, object] = {"data": "specimens at hand", "images": images}

    def batches(self, first: int) -> Iterator[Batch]:
        return self._stream.batches(first)

    def validation(self) -> list[Batch]:
        return []


def train(
    config: TrainingConfig,
    specimens: Sequence[NDArray[np.float32]],
    output: Path,
    *,
    resume: bool = False,
) -> RunRecord:
    """Train on given specimens through the simulator, on the CPU."""

    def opened(seed: int, ranges: Ranges) -> Specimens:
        stream = SampleStream(
            specimens,
            size=config.size,
            batch=config.batch,
            bank=config.data.bank,
            seed=seed,
            ranges=ranges,
        )
        return Specimens(stream, len(specimens))

    return train_on(config, opened, output, device="cpu", resume=resume)


def write_images(folder: Path, sample: NDArray[np.uint8], side: int = 128) -> Path:
    """Cut the sample into a lab's images; some of them are used for validation."""
    folder.mkdir(exist_ok=True)
    for top in range(0, 512, side):
        for left in range(0, 512, side):
            cut = sample[top : top + side, left : left + side]
            Image.fromarray(cut).save(folder / f"field_{top}_{left}.png")
    return folder


def column(run: Path, name: str, file: str = "log.csv") -> list[float]:
    with (run / file).open(encoding="utf-8") as rows:
        return [float(row[name]) for row in csv.DictReader(rows)]


def same_weights(one: Path, two: Path) -> bool:
    """Whether the averaged weights of two runs are the same, bit for bit."""
    a, b = (load_file(run / "weights.safetensors") for run in (one, two))
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)
