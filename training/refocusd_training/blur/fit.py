"""Fits the network that estimates a frame's blur from its features, and measures its errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refocusd.imaging.blur import FEATURES, blur_features
from refocusd_training.blur.frames import SharpImage, blurred_frame
from refocusd_training.blur.psfs import FAMILIES, HELD_OUT, transfer_functions

#: Bounds of the widths in the table of errors, px.
BINS = (0.7, 1.5, 3.0, 6.0, 12.0, 24.0, 42.0)
HIDDEN = 48
STEPS = 4000
BATCH = 256
#: Standard deviation of noise added to the features while fitting, so that no single ring decides.
JITTER = 0.04
#: One frame in this many shows an image that is kept for testing.
TEST_EVERY = 6


@dataclass(frozen=True, slots=True)
class Samples:
    """Features of simulated frames.

    Parameters
    ----------
    features : ndarray of float32, shape (count, FEATURES)
    log_sigma : ndarray of float32, shape (count,)
        Natural logarithm of the width, px.
    family : ndarray of int, shape (count,)
        Index of the PSF's family in `FAMILIES`.
    test : ndarray of bool, shape (count,)
        Whether the image is kept for testing.
    """

    features: NDArray[np.float32]
    log_sigma: NDArray[np.float32]
    family: NDArray[np.intp]
    test: NDArray[np.bool_]

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """Samples whose family of PSFs is kept for testing; bool, shape (count,)."""
        return np.isin(self.family, [FAMILIES.index(name) for name in HELD_OUT])

    def of(self, chosen: NDArray[np.bool_]) -> Samples:
        """The chosen samples."""
        return Samples(
            self.features[chosen], self.log_sigma[chosen], self.family[chosen], self.test[chosen]
        )


def simulate(
    images: Sequence[SharpImage], count: int, seed: int = 0, pool: int = 80
) -> Iterator[Samples]:
    """Yield samples one at a time; the first ones do not depend on `count`.

    Parameters
    ----------
    images : sequence of SharpImage
    count : int
    seed : int
    pool : int
        Number of transfer functions of each family (three times as many of wave optics).
    """
    rng = np.random.default_rng(seed)
    transfers = [
        transfer_functions(family, pool * (3 if "wave" in family else 1), rng)
        for family in FAMILIES
    ]
    # Half of the frames through wave optics.
    shares = np.array([3.0 if "wave" in family else 1.2 for family in FAMILIES])
    sides = [[image for image in images if image.test is side] or images for side in (False, True)]
    chances = [np.array([image.weight for image in side]) for side in sides]
    made = 0
    while made < count:
        test = made % TEST_EVERY == 0
        one, other = rng.choice(len(sides[test]), 2, p=chances[test] / chances[test].sum())
        family = int(rng.choice(len(FAMILIES), p=shares / shares.sum()))
        frame = blurred_frame(sides[test][one], sides[test][other], transfers[family], rng)
        features = blur_features(frame[0]) if frame is not None else None
        if frame is None or features is None:
            continue
        made += 1
        yield Samples(
            features[None],
            np.array([np.log(frame[1])], np.float32),
            np.array([family]),
            np.array([test]),
        )


def collect(images: Sequence[SharpImage], count: int, seed: int = 0) -> Samples:
    """Collect a number of samples of `simulate`."""
    made = list(simulate(images, count, seed))
    return Samples(
        np.concatenate([one.features for one in made]),
        np.concatenate([one.log_sigma for one in made]),
        np.concatenate([one.family for one in made]),
        np.concatenate([one.test for one in made]),
    )


def fit(samples: Samples, seed: int = 0) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Fit weights and biases of a three-layer network that predicts mean and log-deviation of log sigma."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    features, wanted = torch.from_numpy(samples.features), torch.from_numpy(samples.log_sigma)
    network = nn.Sequential(
        nn.Linear(FEATURES, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 2)
    )  # fmt: skip
    last = network[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.copy_(torch.tensor([float(wanted.mean()), 0.0]))
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / (STEPS + 1))
    for _ in range(STEPS):
        chosen = torch.randint(len(wanted), (BATCH,))
        seen = features[chosen]
        mean, deviation = network(seen + JITTER * torch.randn_like(seen)).T
        deviation = deviation.clamp(-4, 2)
        misfit = (mean - wanted[chosen]) ** 2
        loss = (misfit * torch.exp(-2 * deviation) / 2 + deviation).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers]


@dataclass(frozen=True, slots=True)
class Error:
    """Errors for one range of widths.

    Parameters
    ----------
    low_px, high_px : float
    frames : int
    median, p80 : float
        Median and 80th percentile of the absolute relative error.
    bias : float
        Median of the logarithm of estimate over truth.
    stated : float
        Median of the uncertainty that the network states.
    """

    low_px: float
    high_px: float
    frames: int
    median: float
    p80: float
    bias: float
    stated: float


def errors(
    layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], samples: Samples
) -> list[Error]:
    """Errors of the network for each range of true widths."""
    values = samples.features
    for index, (weight, bias) in enumerate(layers):
        values = values @ weight.T + bias
        if index < len(layers) - 1:
            values = values / (1 + np.exp(-values))
    apart = values[:, 0] - samples.log_sigma
    sigma = np.exp(samples.log_sigma)
    found = []
    for low, high in pairwise(BINS):
        within = (sigma >= low) & (sigma < high)
        if not within.any():
            continue
        relative = np.abs(np.exp(apart[within]) - 1)
        found.append(
            Error(
                low,
                high,
                int(within.sum()),
                float(np.median(relative)),
                float(np.percentile(relative, 80)),
                float(np.median(apart[within])),
                float(np.median(np.exp(np.clip(values[within, 1], -4, 2)))),
            )
        )
    return found


def write_weights(
    layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], path: Path
) -> None:
    """Write the weights in the format that `refocusd.imaging.blur` reads."""
    arrays = {}
    for index, (weight, bias) in enumerate(layers):
        arrays[f"weight{index}"], arrays[f"bias{index}"] = weight, bias
    np.savez(path, **arrays)  # type: ignore[arg-type]
