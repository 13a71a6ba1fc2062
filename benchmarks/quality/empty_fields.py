"""Simulated camera frames of fields without a specimen."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import Pixels

Empty = Literal["flat", "gradient", "dust", "hot pixels", "dim blobs"]
#: Kinds of empty fields.
EMPTY: tuple[Empty, ...] = get_args(Empty)
SHAPE = (520, 696)


def empty_field(kind: Empty, rng: np.random.Generator, shape: tuple[int, int] = SHAPE) -> Pixels:
    """A frame of a field without a specimen, in camera counts.

    Dust and blobs are no brighter than 1.5 standard deviations of a pixel's noise.

    Parameters
    ----------
    kind : str
        One of `EMPTY`.
    rng : numpy.random.Generator
    shape : (int, int)
    """
    electrons = math.exp(rng.uniform(math.log(5), math.log(2000)))
    read_noise, gain = rng.uniform(1, 8), math.exp(rng.uniform(math.log(0.3), math.log(3)))
    noise = math.sqrt(electrons + read_noise**2)
    light = np.full(shape, electrons)
    if kind == "gradient":
        y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
        tilt = rng.uniform(-0.3, 0.3) * x + rng.uniform(-0.3, 0.3) * y
        light *= 1 + tilt - rng.uniform(0, 0.2) * (x**2 + y**2)
    if kind in ("dust", "dim blobs"):
        dust = kind == "dust"
        spots = np.zeros(shape)
        for _ in range(rng.integers(1, 12)):
            radius = rng.uniform(2, 20) if dust else rng.uniform(8, 50)
            height = rng.uniform(-1.5, 1.5) if dust else rng.uniform(0.2, 1.5)
            spots += height * _spot(shape, radius, 4 if dust else 2, rng)
        light += noise * spots * min(1.0, 1.5 / float(np.abs(spots).max()))
    seen = rng.poisson(np.maximum(light, 0)) + rng.normal(0, read_noise, shape)
    counts = seen / gain + 100
    if kind == "hot pixels" or rng.random() < 0.2:
        hot = rng.integers(5, 300)
        counts.flat[rng.integers(0, counts.size, hot)] += np.exp(rng.uniform(2, 9, hot))
    return np.asarray(np.clip(np.rint(counts), 0, 65535), dtype=np.uint16)


def _spot(
    shape: tuple[int, int], radius: float, power: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    apart = np.hypot(y - rng.uniform(0, shape[0]), x - rng.uniform(0, shape[1]))
    return np.asarray(np.exp(-((apart / radius) ** power) / 2))
