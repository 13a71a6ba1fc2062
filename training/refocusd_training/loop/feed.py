"""Draws batches ahead in a thread and converts them to tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refocusd_training.data.samples import Batch, Exposure, Prefetched
from refocusd_training.simulate.torch_exposure import expose_on


class Drawn(Protocol):
    """Returns the samples of one step after the other; implemented by `Prefetched`."""

    def take(self) -> tuple[list[Exposure], NDArray[np.float32]]:
        """Exposures of the next step, and the factor by which each is dimmed."""
        ...


class TensorBatch(TypedDict):
    """A `Batch` as tensors; ``defocus_um`` is NaN if it is unknown."""

    raw: Tensor
    truth: Tensor
    span: Tensor
    defocus_um: Tensor


def seed_of(seed: int, rank: int) -> int:
    """Seed of one of several processes; the first process has the seed of the run."""
    if rank == 0:
        return seed
    return int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])


def tensors(batch: Batch, *, pinned: bool = False) -> TensorBatch:
    """A batch as tensors, in page-locked memory if a GPU will fetch them."""
    found = {name: torch.from_numpy(getattr(batch, name)) for name in TensorBatch.__annotations__}
    if pinned:
        found = {name: value.pin_memory() for name, value in found.items()}
    return cast("TensorBatch", found)


class Feed(Iterable[TensorBatch]):
    """Tensors of `count` batches, taken on demand.

    Parameters
    ----------
    batches : Prefetched
    count : int
    pinned : bool
        Whether to use page-locked memory, because a GPU will fetch them.
    """

    def __init__(self, batches: Prefetched[Batch], count: int, *, pinned: bool = False) -> None:
        self._batches, self._count, self._pinned = batches, count, pinned

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[TensorBatch]:
        """Yield each batch once."""
        return (tensors(self._batches.take(), pinned=self._pinned) for _ in range(self._count))


class ExposingFeed(Iterable[TensorBatch]):
    """Batches whose frames are exposed on the device that trains.

    Parameters
    ----------
    drawn : Drawn
        Exposures without their noise, from step `first` on.
    first, count : int
    device : torch.device
    seed : int
        Seed of this process; the noise of a step depends only on it and the step.
    """

    def __init__(
        self, drawn: Drawn, first: int, count: int, *, device: torch.device, seed: int
    ) -> None:
        self._drawn, self._first, self._count = drawn, first, count
        self._device, self._seed = device, seed

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[TensorBatch]:
        """Yield each batch once."""
        for step in range(self._first, self._first + self._count):
            exposures, dimming = self._drawn.take()
            seed = int(np.random.SeedSequence([self._seed, step]).generate_state(1)[0])
            batch = expose_on(exposures, dimming, device=self._device, seed=seed)
            yield cast(
                "TensorBatch", {name: getattr(batch, name) for name in TensorBatch.__annotations__}
            )
