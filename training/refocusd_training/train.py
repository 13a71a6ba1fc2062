"""The training loop's public names; the loop itself is `refocusd_training.loop`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd_training.config import TrainingConfig
from refocusd_training.data.sharp import specimens_of
from refocusd_training.loop.record import RunRecord
from refocusd_training.loop.run import network_of_run, ranges_of_run, run_training, train_on
from refocusd_training.networks import RefocusNetwork, build_network
from refocusd_training.samples import Batch, SampleStream
from refocusd_training.simulate.ranges import Ranges

__all__ = [
    "RunRecord",
    "network_of",
    "network_of_run",
    "ranges_of_run",
    "run_training",
    "specimens_of",
    "train",
]


def network_of(config: TrainingConfig) -> RefocusNetwork:
    """The network that a configuration describes, newly initialised from its seed."""
    return build_network(config.network, config.seed)


class _Specimens:
    """Specimens at hand as a source; none is held out."""

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
    device: str | None = None,
    resume: bool = False,
) -> RunRecord:
    """Train on specimens at hand, through the simulator; otherwise as `run_training`.

    Parameters
    ----------
    config : TrainingConfig
    specimens : sequence of ndarray of float32, shape (height, width)
        Flux, as `specimens_of` gives it.
    output, device, resume
        As `run_training`.
    """
    if not specimens:
        raise InputError("there are no specimens to train on: check the data folder and the split")

    def opened(seed: int, ranges: Ranges) -> _Specimens:
        stream = SampleStream(
            specimens,
            size=config.size,
            batch=config.batch,
            bank=config.data.bank,
            seed=seed,
            ranges=ranges,
        )
        return _Specimens(stream, len(specimens))

    return train_on(config, opened, output, device=device, resume=resume)
