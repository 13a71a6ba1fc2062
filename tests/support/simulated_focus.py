"""Simulated through-focus stacks of a specimen on a tilted slide, with known truth.

The specimen is thin.  Each pixel is blurred by the wave optics of `refocusd.imaging.optics` at its
own defocus, the distance of the specimen from the focal plane there (interpolated between planes
an eighth of the depth of field apart).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from refocusd_calibration.stage.z_sweeps import Plane, ZSeries, sweeps_of
from scipy import ndimage

from refocusd.imaging.optics import Optics, defocus_otf

Floats = NDArray[np.float64]


def depth_of_field_um(optics: Optics) -> float:
    """``wavelength · n / NA²``: the full range within which the peak keeps 81 %.

    Born and Wolf, Principles of Optics, section 8.8 (Rayleigh's quarter wave).
    """
    return optics.wavelength_um * optics.refractive_index / optics.na**2


@dataclass(frozen=True)
class FocusScene:
    """A field whose best focus is known at every pixel.

    Parameters
    ----------
    optics : Optics
    shape : (int, int)
        Height and width, px.
    seed : int
        Seed of the specimen.
    surface_um : (c, a, b, q)
        Stage z of best focus, ``c + a x + b y + q (x² + y²)``; x, y in um from the
        centre of the field.
    density : float
        Cells per 1000 px.
    light : float
        Brightness of bright structures, counts above the offset.
    haze : float
        Even background light, as a share of `light`.
    offset, gain, read_noise : float
        The camera's, in counts, electrons per count, and electrons.
    hot_share : float
        Share of pixels that are hot, the same in all planes.
    """

    optics: Optics
    shape: tuple[int, int] = (256, 256)
    seed: int = 0
    surface_um: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    density: float = 0.7
    light: float = 800.0
    haze: float = 0.05
    offset: float = 100.0
    gain: float = 1.0
    read_noise: float = 3.0
    hot_share: float = 0.0
    _flux: list[NDArray[np.float32]] = field(default_factory=list, repr=False, compare=False)

    def heights_um(self) -> Floats:
        """Stage z of best focus at each pixel, shape (height, width)."""
        height, width = self.shape
        y = (np.arange(height) + 0.5 - height / 2)[:, None] * self.optics.pixel_um
        x = (np.arange(width) + 0.5 - width / 2)[None, :] * self.optics.pixel_um
        c, a, b, q = self.surface_um
        return np.asarray(c + a * x + b * y + q * (x**2 + y**2))

    def flux(self) -> NDArray[np.float32]:
        """The specimen itself: cells with texture and grains, shape (height, width)."""
        if not self._flux:
            self._flux.append(self._grown())
        return self._flux[0]

    def expected(self, z_um: ArrayLike) -> NDArray[np.float32]:
        """Noise-free counts at each stage z, shape (planes, height, width)."""
        heights = self.heights_um()
        step = depth_of_field_um(self.optics) / 8
        flat = float(np.ptp(heights)) < 1e-9
        spectrum = scipy.fft.rfft2(self.flux())
        known: dict[float, NDArray[np.float32]] = {}

        def plane(defocus_um: float) -> NDArray[np.float32]:
            if defocus_um not in known:
                otf = defocus_otf(self.optics, defocus_um, self.shape)
                known[defocus_um] = scipy.fft.irfft2(spectrum * otf, s=self.shape)
            return known[defocus_um]

        frames = []
        for z in np.asarray(z_um, dtype=np.float64):
            if flat:
                image = plane(float(z - heights[0, 0]))
            else:
                place = (z - heights) / step
                image = np.zeros(self.shape, np.float32)
                for level in range(math.floor(place.min()), math.ceil(place.max()) + 1):
                    share = np.maximum(1 - np.abs(place - level), 0).astype(np.float32)
                    image += share * plane(level * step)
            frames.append(self.light * (np.maximum(image, 0) + self.haze))
        return np.asarray(frames, dtype=np.float32)

    def expose(self, expected: NDArray[np.float32], seed: int = 0) -> NDArray[np.uint16]:
        """The camera's counts of `expected`, with its noise; hot pixels stay in place."""
        rng = np.random.default_rng((seed, 1))
        electrons = rng.poisson(expected * self.gain).astype(np.float32)
        electrons += self.read_noise * rng.standard_normal(expected.shape, dtype=np.float32)
        counts = electrons / self.gain + self.offset
        if self.hot_share > 0:
            where = np.random.default_rng((self.seed, 2))
            hot = where.random(self.shape) < self.hot_share
            counts[:, hot] += where.exponential(self.light, int(hot.sum()))
        return np.asarray(np.clip(np.rint(counts), 0, 65535), dtype=np.uint16)

    def stack(self, z_um: ArrayLike, seed: int = 0) -> NDArray[np.uint16]:
        """Planes at each stage z, with noise, shape (planes, height, width)."""
        return self.expose(self.expected(z_um), seed)

    def _grown(self) -> NDArray[np.float32]:
        rng = np.random.default_rng(self.seed)
        height, width = self.shape
        image = np.zeros(self.shape, np.float64)
        rows, columns = np.mgrid[:height, :width]
        for _ in range(max(1, round(self.density * height * width / 1000))):
            y, x = rng.uniform(0, height), rng.uniform(0, width)
            radii = rng.uniform(4.0, 9.0, 2) * 0.645 / self.optics.pixel_um
            radii = np.clip(radii, 2.0, min(self.shape) / 6)
            turn = rng.uniform(0, math.pi)
            # The field is periodic, as the transfer functions assume.
            dy = (rows - y + height / 2) % height - height / 2
            dx = (columns - x + width / 2) % width - width / 2
            u = dx * math.cos(turn) + dy * math.sin(turn)
            v = dy * math.cos(turn) - dx * math.sin(turn)
            inside = 1 / (1 + np.exp(8 * (np.hypot(u / radii[0], v / radii[1]) - 1)))
            image += rng.uniform(0.4, 1.0) * inside
        texture = ndimage.gaussian_filter(rng.standard_normal(self.shape), 0.7, mode="wrap")
        grains = (rng.random(self.shape) < 0.004) * rng.uniform(0.5, 2.0, self.shape)
        image *= np.clip(1 + 0.9 * texture, 0.1, None) + grains
        return np.asarray(image / max(np.percentile(image, 99), 1e-6), dtype=np.float32)


def series_of_stack(
    stack: NDArray[np.uint16], z_um: ArrayLike, *, time_s: ArrayLike | None = None
) -> ZSeries:
    """Sweeps of planes in memory, shape (planes, height, width), in the order taken."""
    z = np.asarray(z_um, dtype=np.float64)
    times = [None] * len(z) if time_s is None else list(np.asarray(time_s, dtype=np.float64))
    planes = [
        Plane(float(place), (partial(np.ascontiguousarray, pixels),), time, f"plane {index}")
        for index, (place, pixels, time) in enumerate(zip(z, stack, times, strict=True))
    ]
    sweeps, notes = sweeps_of(planes)
    return ZSeries(sweeps, stack.shape[1:], None, {}, notes=notes)
