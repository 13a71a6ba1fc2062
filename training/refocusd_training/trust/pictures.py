"""Draws pictures that an engine should pass through: transmitted light, photographs, noise.

Each picture is a frame and the counts of its camera without blur and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from refocusd.frame import Pixels
from refocusd_training.blur.frames import cut

Light = NDArray[np.floating]
Picture = tuple[Pixels, NDArray[np.float32]]
SHAPE = (520, 696)
#: Photographs that scikit-image ships.
PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel",
    "immunohistochemistry", "page", "rocket", "text",
)  # fmt: skip


def photograph(rng: np.random.Generator) -> Picture:
    """A photograph of something other than a fluorescent specimen, blurred."""
    from skimage import data

    chosen: Callable[[], Any] = getattr(data, PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
    image = np.asarray(chosen(), dtype=np.float32)
    grey = image[..., :3].mean(axis=-1) if image.ndim == 3 else image
    return _pictured(cut(grey, SHAPE, rng), rng)


def checkerboard(rng: np.random.Generator) -> Picture:
    """A checkerboard, or bars, blurred."""
    pitch = rng.integers(6, 80)
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    squares = (y // pitch * (rng.random() < 0.7) + x // pitch) % 2 + rng.uniform(0, 1)
    return _pictured(squares, rng)


def clouds(rng: np.random.Generator) -> Picture:
    """Noise, white or smoothed."""
    noise = rng.normal(0, 1, SHAPE)
    smooth = scipy.ndimage.gaussian_filter(noise, math.exp(rng.uniform(-2, 3)))
    light = smooth / smooth.std() + 4
    return through_camera(light, light, rng)


def transmitted(images: Sequence[Light], rng: np.random.Generator) -> Picture:
    """A part of a real picture in transmitted light, at another magnification and blur."""
    image = np.asarray(images[int(rng.integers(len(images)))], dtype=np.float32)
    zoom = math.exp(rng.uniform(math.log(0.6), math.log(2.5)))
    side = [math.ceil(length / zoom) for length in SHAPE]
    part = scipy.ndimage.zoom(cut(image, (side[0], side[1]), rng), zoom, order=1)
    return _pictured(cut(part, SHAPE, rng), rng)


def brightfield(rng: np.random.Generator) -> Picture:
    """Transparent cells that bend light at their edges, and absorb a little of it.

    By the transport-of-intensity equation, defocus adds the Laplacian of the phase (M. R. Teague,
    J. Opt. Soc. Am. 73, 1434, 1983).
    """
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    thick = np.zeros(SHAPE)
    for _ in range(rng.integers(5, 60)):
        radius, long = rng.uniform(8, 40), rng.uniform(0.6, 1.6)
        down, across = y - rng.uniform(0, SHAPE[0]), x - rng.uniform(0, SHAPE[1])
        squared = (down / radius * long) ** 2 + (across / radius / long) ** 2
        thick = np.maximum(thick, np.sqrt(np.maximum(1 - squared, 0)))
    grains = scipy.ndimage.gaussian_filter(rng.normal(0, 1, SHAPE), 2) * 0.6
    thick = scipy.ndimage.gaussian_filter(thick + grains * (thick > 0), 1)
    bent = scipy.ndimage.laplace(scipy.ndimage.gaussian_filter(thick, 1.5))
    light = 1 - rng.uniform(-3, 3) * bent - rng.uniform(0, 0.25) * thick
    fall = ((y / SHAPE[0] - 0.5) ** 2 + (x / SHAPE[1] - 0.5) ** 2) * rng.uniform(0, 0.3)
    return _pictured(light * (1 - fall), rng)


def through_camera(light: Light, sharp: Light, rng: np.random.Generator) -> Picture:
    """Record a picture with 300 to 6000 electrons in its brightest pixel."""
    scale = rng.uniform(300, 6000) / float(light.max())
    electrons, true = (np.maximum(each, 0) * scale for each in (light, sharp))
    seen = rng.poisson(electrons) + rng.normal(0, 3, light.shape)
    gain = rng.uniform(0.5, 2)
    counts = np.clip(np.rint(seen / gain + 100), 0, 65535).astype(np.uint16)
    return counts, np.asarray(true / gain + 100, dtype=np.float32)


def _pictured(light: Light, rng: np.random.Generator) -> Picture:
    """Blur a picture and record it."""
    sigma = math.exp(rng.uniform(math.log(0.5), math.log(12)))
    blurred = scipy.ndimage.gaussian_filter(np.asarray(light, np.float64), sigma)
    return through_camera(blurred, light, rng)
