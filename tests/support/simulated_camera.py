"""A simulated camera of known gain, noise and faults, to test the calibration with.

The linear model of EMVA 1288 (release 4.0, section 2): light makes Poisson electrons,
the sensor adds dark current and read noise, the well saturates, and counts are
``offset + electrons / gain``, rounded and clipped.  Fixed patterns are drawn once, from
the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from refocusd_calibration.camera.series import Level, Series, series_of_frames

from refocusd.frame import Pixels

#: Additional dark current of a hot pixel, relative to the mean dark current.
_HOT_E_PER_S = 2000.0


def level_of(exposure_ms: float, frames: Sequence[Pixels]) -> Level:
    """Frames in memory as one exposure level."""
    return Level(exposure_ms, [partial(np.asarray, frame) for frame in frames])


@dataclass(frozen=True)
class SimulatedCamera:
    """A camera whose parameters are all known.

    Parameters
    ----------
    shape : (int, int)
        Height and width.
    offset : float
        Counts of a dark pixel at zero exposure.
    gain : float
        Electrons per count.
    read_noise : float
        Electrons, standard deviation.
    bits : int
        Bit depth of the counts; 8 gives uint8.
    full_well_e : float
        Electrons at which a pixel is full.
    dark_current : float
        Electrons per pixel and second.
    prnu, dsnu_e : float
        Standard deviations of the pixels' response (relative) and offset (electrons).
    hot_fraction : float
        Share of hot pixels.
    read_noise_spread : float
        Standard deviation of the logarithm of the pixels' read noise (sCMOS).
    shading : float
        Relative loss of light in the corners, 0 to 1.
    bend : float
        Nonlinearity: at full scale this share of the signal is lost.
    seed : int
        Seed of the fixed patterns.
    """

    shape: tuple[int, int] = (64, 64)
    offset: float = 100.0
    gain: float = 1.0
    read_noise: float = 3.0
    bits: int = 12
    full_well_e: float = np.inf
    dark_current: float = 0.0
    prnu: float = 0.0
    dsnu_e: float = 0.0
    hot_fraction: float = 0.0
    read_noise_spread: float = 0.0
    shading: float = 0.0
    bend: float = 0.0
    seed: int = 0

    @property
    def full_scale(self) -> int:
        """The largest count."""
        return int(2**self.bits - 1)

    @cached_property
    def light(self) -> NDArray[np.float64]:
        """Relative light at each pixel, 1 at the centre; float64 of `shape`."""
        y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in self.shape), indexing="ij")
        return np.asarray(1 - self.shading * (x**2 + y**2) / 2)

    @cached_property
    def response(self) -> NDArray[np.float64]:
        """Relative response of each pixel, mean 1; float64 of `shape`."""
        return np.asarray(1 + self.prnu * self._draws(1).standard_normal(self.shape))

    @cached_property
    def hot(self) -> NDArray[np.bool_]:
        """Which pixels are hot; bool of `shape`."""
        return np.asarray(self._draws(2).random(self.shape) < self.hot_fraction)

    @cached_property
    def noise(self) -> NDArray[np.float64]:
        """Read noise of each pixel, electrons; their root mean square is `read_noise`."""
        spread = np.exp(self.read_noise_spread * self._draws(3).standard_normal(self.shape))
        return np.asarray(self.read_noise * spread / np.sqrt(np.mean(spread**2)))

    @cached_property
    def dark_offset(self) -> NDArray[np.float64]:
        """Offset of each pixel, counts."""
        pattern = self.dsnu_e * self._draws(4).standard_normal(self.shape)
        return np.asarray(self.offset + pattern / self.gain)

    def _draws(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream))

    def expose(
        self,
        exposure_ms: float,
        light_e_per_ms: float | NDArray[np.float64],
        rng: np.random.Generator,
    ) -> Pixels:
        """One frame.

        Parameters
        ----------
        exposure_ms : float
        light_e_per_ms : float or ndarray of shape `shape`
            Electrons per millisecond from the light at the centre; 0 is dark.
        rng : numpy.random.Generator

        Returns
        -------
        ndarray of uint8 or uint16, shape `shape`
        """
        dark = np.where(self.hot, self.dark_current + _HOT_E_PER_S, self.dark_current)
        expected = (self.light * self.response * light_e_per_ms + dark / 1000) * exposure_ms
        electrons = np.minimum(rng.poisson(expected), self.full_well_e).astype(np.float64)
        if self.bend:
            scale = (self.full_scale - self.offset) * self.gain
            electrons *= 1 - self.bend * electrons / scale
        electrons += self.noise * rng.standard_normal(self.shape)
        counts = np.rint(self.dark_offset + electrons / self.gain)
        clipped = np.clip(counts, 0, self.full_scale)
        if self.bits == 8:
            return np.asarray(clipped, np.uint8)
        return np.asarray(clipped, np.uint16)

    def series(
        self,
        exposures_ms: Sequence[float],
        frames: int,
        *,
        light_e_per_ms: float = 0.0,
        drift: float = 0.0,
        flicker: float = 0.0,
        seed: int = 0,
    ) -> Series:
        """Frames at each exposure.

        Parameters
        ----------
        exposures_ms : sequence of float
        frames : int
            Number of frames at each exposure.
        light_e_per_ms : float
            Electrons per millisecond at the centre; 0 is a dark series.
        drift : float
            Relative change of the light from the first frame to the last.
        flicker : float
            Relative standard deviation of the light of each frame.
        seed : int
            Seed of the noise.
        """
        rng = np.random.default_rng((self.seed, seed, 99))
        total, taken = max(1, len(exposures_ms) * frames - 1), 0
        levels: list[Level] = []
        for exposure in exposures_ms:
            stack = []
            for _ in range(frames):
                light = 1 + drift * taken / total + flicker * rng.standard_normal()
                stack.append(self.expose(exposure, light_e_per_ms * max(light, 0.0), rng))
                taken += 1
            levels.append(level_of(exposure, stack))
        return series_of_frames(levels)
