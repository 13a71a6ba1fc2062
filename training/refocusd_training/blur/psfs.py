"""Transfer functions of many kinds of PSF, all scaled to one width."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from refocusd.imaging.blur import half_width_sigma, radial_transfer
from refocusd.imaging.optics import Optics, defocus_psf

Family = Literal["wave", "strong wave", "gaussian", "soft disc", "paraboloid", "skirt", "ring"]
FAMILIES: tuple[Family, ...] = (
    "wave", "strong wave", "gaussian", "soft disc", "paraboloid", "skirt", "ring",
)  # fmt: skip
#: Families that are kept for measuring the network's errors on unknown kinds of PSF.
HELD_OUT: tuple[Family, ...] = ("strong wave", "skirt")
#: Frequencies times width (`half_width_sigma`) at which transfer functions are stored.
CYCLES = np.linspace(0, 4, 801)
#: Half the side of drawn PSFs, and their approximate standard deviation, px.
_HALF, _SIGMA = 40, 6.0
#: Largest side of PSFs of wave optics, px; larger ones are drawn again.
_MOST_PX = 401


def transfer_functions(family: Family, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw radial transfer functions at the frequencies `CYCLES`, one per row.

    ``wave`` are PSFs of wave optics, NA 0.2 to 1.3, 4 to 24 px of geometric radius.  ``strong
    wave`` are those that are both strongly apodised (1.2 to 2.2) and strongly aberrated (0.3 to
    0.6 waves of the Zernike polynomial), which ``wave`` never are.

    Parameters
    ----------
    family : str
        One of `FAMILIES`.
    count : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float32, shape (count, len(CYCLES))
    """
    found: list[NDArray[np.float32]] = []
    while len(found) < count:
        psf = _wave(family == "strong wave", rng) if "wave" in family else _drawn(family, rng)
        if psf.shape[0] <= _MOST_PX and (sigma := half_width_sigma(psf)) is not None:
            found.append(radial_transfer(psf, CYCLES / sigma).astype(np.float32))
    return np.stack(found)


def _wave(strong: bool, rng: np.random.Generator) -> NDArray[np.float32]:
    na = math.exp(rng.uniform(math.log(0.2), math.log(1.3)))
    index = 1.0 if na < 0.95 else 1.515
    wavelength = rng.uniform(0.42, 0.70)
    apodisation = rng.uniform(1.2, 2.2) if strong else rng.uniform(0, 2.2) * (rng.random() < 0.7)
    zernike = rng.uniform(0.3, 0.6) if strong else rng.uniform(0, 0.6) * (rng.random() < 0.7)
    if not strong and apodisation > 1.2:
        zernike = min(zernike, 0.3)
    zernike *= rng.choice((-1, 1))
    pixel = wavelength / (4 * na) * rng.uniform(0.8, 1.6)
    radius = math.exp(rng.uniform(math.log(4), math.log(24)))
    defocus = radius * pixel / math.tan(math.asin(na / index)) * rng.choice((-1, 1))
    # a (6 r^4 - 6 r^2 + 1) is 6 a waves of r^4, with a defocus that balances them.
    balance = 12 * zernike * index * wavelength / na**2
    optics = Optics(na, wavelength, index, pixel, 6 * zernike, apodisation)
    return defocus_psf(optics, defocus + balance)


def _drawn(family: Family, rng: np.random.Generator) -> NDArray[np.float64]:
    """A PSF that is drawn at random, with an edge anywhere between hard and soft."""
    offsets = np.arange(-_HALF, _HALF + 1)
    radius = np.hypot(offsets[:, None], offsets)
    disc = 2 * _SIGMA
    if family == "gaussian":
        psf = np.exp(-(radius**2) / 2 / _SIGMA**2)
    elif family == "soft disc":
        soft = rng.uniform(0.05, 0.9)
        hard = np.clip(disc * math.sqrt(1 - soft) + 0.5 - radius, 0, 1)
        psf = gaussian_filter(hard, _SIGMA * math.sqrt(soft))
    elif family == "paraboloid":
        psf = np.clip(1 - (radius / disc / 1.25) ** 2, 0, None) ** rng.uniform(0.4, 2)
    elif family == "skirt":
        share = rng.uniform(0.1, 0.6)
        peak = np.exp(-(radius**2) / 2 / (_SIGMA * rng.uniform(0.3, 0.6)) ** 2)
        skirt = np.clip(1 - (radius / disc / 1.3) ** 2, 0, None) ** rng.uniform(0.2, 1)
        psf = share * peak / peak.sum() + (1 - share) * skirt / skirt.sum()
    else:
        ring = 1 + rng.uniform(0, 1.2) * (radius / disc) ** 2
        psf = gaussian_filter(
            np.clip(disc * 1.02 + 0.5 - radius, 0, 1) * ring, rng.uniform(0.8, 2.0)
        )
    return np.asarray(psf / psf.sum())
