"""The source of training batches, for every kind of data.

==========  ===================  =========================================================
kind        file                 truth
==========  ===================  =========================================================
`sharp`     `data.sharp`         the simulator's in-focus frame, without noise
`bbbc006`   `data.bbbc006`       plane 16 of the same field
`stacks`    `data.stacks`        the sharpest plane of the same field
==========  ===================  =========================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from refocusd_training.data.config import DataConfig
from refocusd_training.data.samples import Batch, Exposure
from refocusd_training.simulate.ranges import DEFAULT_RANGES, Ranges

#: Number of problems that are described in full.
TOLD = 5


class SampleSource(Protocol):
    """Training and validation batches of one data set."""

    @property
    def description(self) -> dict[str, object]:
        """Describe the data as plain JSON: images, split, channels, and what was skipped and why."""
        ...

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield the batches of step `first` and all later ones, without end.

        A batch depends only on the seed and its step.
        """
        ...

    def validation(self) -> list[Batch]:
        """Fixed batches of specimens that training does not see, independent of the seed."""
        ...


@runtime_checkable
class ExposureSource(SampleSource, Protocol):
    """A source whose frames can be exposed on the training device by `simulate.torch_exposure`."""

    def exposures(self, first: int) -> Iterator[tuple[list[Exposure], NDArray[np.float32]]]:
        """Yield the exposures of step `first` and all later ones; see `SampleStream.exposures`."""
        ...


def open_samples(
    config: DataConfig,
    folder: Path,
    *,
    size: int,
    batch: int,
    seed: int,
    ranges: Ranges = DEFAULT_RANGES,
) -> SampleSource:
    """Open the training data that a configuration describes.

    Parameters
    ----------
    config : DataConfig
    folder : Path
        Folder of the data.
    size : int
        Side of a training frame, px.
    batch : int
        Frames per step.
    seed : int
        Seed of everything that is drawn, except the split.
    ranges : Ranges
        Ranges of optics and cameras for the simulator.

    Raises
    ------
    InputError
        If the folder holds nothing to train on.
    """
    # Each kind imports only what it needs.
    if config.kind == "sharp":
        from refocusd_training.data.sharp import open_sharp

        return open_sharp(config, folder, size=size, batch=batch, seed=seed, ranges=ranges)
    if config.kind == "bbbc006":
        from refocusd_training.data.bbbc006 import open_bbbc006

        return open_bbbc006(config, folder, size=size, batch=batch, seed=seed)
    from refocusd_training.data.stacks import open_stacks

    return open_stacks(config, folder, size=size, batch=batch, seed=seed)
