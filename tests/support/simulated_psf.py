"""Through-focus series with known optics, to test the measurement of the PSF.

Kernels come from `refocusd.imaging.optics` on a grid finer than the camera's, and camera pixels
are sums over it, so that beads can be anywhere within a pixel.  No code is shared with the
radial laws that are fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from refocusd_calibration.psf.stack import PlaneStack

from refocusd.imaging.optics import Optics, defocus_otf, defocus_psf, geometric_radius_um

#: Fine samples along a camera pixel.
_FINE = 5
#: The same for a specimen, which is more expensive.
_SUB = 3
_OFFSET = 100.0


def scattered(
    count: int, side: int, distance: float, margin: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Random places (y, x) in px, at least `distance` apart; fewer if no more fit."""
    places: list[NDArray[np.float64]] = []
    for _ in range(200 * count):
        place = rng.uniform(margin, side - margin, 2)
        if all(math.dist(place, other) >= distance for other in places):
            places.append(place)
            if len(places) == count:
                break
    return np.array(places).reshape(-1, 2)


def simulate_beads(
    optics: Optics,
    z_um: Sequence[float],
    places: NDArray[np.float64],
    side: int,
    *,
    focus_um: float = 0.0,
    electrons: float = 20000.0,
    read_noise: float = 2.0,
    brightness_spread: float = 0.2,
    seed: int = 0,
    bits: int = 16,
) -> NDArray[np.uint16]:
    """Frames of point-like beads, shape (planes, side, side).

    Parameters
    ----------
    optics : Optics
    z_um : sequence of float
        Stage positions; defocus is the position minus `focus_um`.
    places : ndarray, shape (beads, 2)
        Centres, in px.
    side : int
    focus_um : float
    electrons : float
        Electrons of one bead in one plane; one electron is one count, above an offset of 100.
        0 leaves out all noise.
    read_noise : float
        Electrons.
    brightness_spread : float
        Relative spread from bead to bead.
    seed : int
    bits : int
        Bit depth at which counts are clipped.
    """
    rng = np.random.default_rng(seed)
    flux = electrons or 1e4
    bright = flux * np.exp(brightness_spread * rng.standard_normal(len(places)))
    fine = replace(optics, pixel_um=optics.pixel_um / _FINE)
    frames = np.empty((len(z_um), side, side), np.uint16)
    for index, z in enumerate(z_um):
        psf = defocus_psf(fine, z - focus_um).astype(np.float64)
        half = psf.shape[0] // 2
        light = np.zeros((side, side))
        for place, flux_of in zip(places, bright, strict=True):
            _add(light, flux_of * psf, place, half)
        if electrons:
            light = rng.poisson(light) + rng.normal(0, read_noise, light.shape)
        frames[index] = np.clip(np.rint(light + _OFFSET), 0, 2**bits - 1)
    return frames


def _add(
    light: NDArray[np.float64], psf: NDArray[np.float64], place: NDArray[np.float64], half: int
) -> None:
    """Add one bead: camera pixel p sums the fine samples 5p to 5p + 4 of the plane."""
    side = light.shape[0]
    # The centre of pixel p is fine sample 5p + 2.
    centre = np.rint(place * _FINE + _FINE // 2).astype(int)
    first = (centre - half) // _FINE
    offset = centre - half - first * _FINE
    size = math.ceil((psf.shape[0] + _FINE) / _FINE)
    grid = np.zeros((size * _FINE, size * _FINE))
    grid[offset[0] : offset[0] + psf.shape[0], offset[1] : offset[1] + psf.shape[1]] = psf
    pixels = grid.reshape(size, _FINE, size, _FINE).sum((1, 3))
    low = np.maximum(first, 0)
    high = np.minimum(first + size, side)
    if (low < high).all():
        light[low[0] : high[0], low[1] : high[1]] += pixels[
            low[0] - first[0] : high[0] - first[0], low[1] - first[1] : high[1] - first[1]
        ]


def random_specimen(side: int, seed: int = 0, *, blobs: int = 0) -> NDArray[np.float64]:
    """A specimen with structure of all sizes and mean 1: rods, spots and some large bodies."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((side, side), dtype=np.float64)
    picture = np.zeros((side, side))
    for _ in range(blobs or side * side // 5000):
        y, x = rng.uniform(0, side, 2)
        size = _SUB * float(np.exp(rng.uniform(np.log(0.4), np.log(9.0))))
        ratio, angle = rng.uniform(1, 3), rng.uniform(0, np.pi)
        reach = int(3 * size * ratio) + 2
        y0, y1 = max(0, int(y) - reach), min(side, int(y) + reach + 1)
        x0, x1 = max(0, int(x) - reach), min(side, int(x) + reach + 1)
        dy, dx = rows[y0:y1, x0:x1] - y, columns[y0:y1, x0:x1] - x
        along = (dy * np.sin(angle) + dx * np.cos(angle)) / (size * ratio)
        across = (dy * np.cos(angle) - dx * np.sin(angle)) / size
        picture[y0:y1, x0:x1] += (
            rng.uniform(0.3, 1.0) / size * np.exp(-0.5 * (along**2 + across**2))
        )
    return np.asarray(picture / picture.mean(), np.float64)


def simulate_planes(
    optics: Optics,
    z_um: Sequence[float],
    side: int,
    *,
    focus_um: float = 0.0,
    electrons: float = 500.0,
    read_noise: float = 2.0,
    seed: int = 0,
    specimen_seed: int = 0,
) -> NDArray[np.uint16]:
    """Frames of one specimen at several planes, shape (planes, side, side).

    The field is cut from a larger one: light enters and leaves at its edges.

    Parameters
    ----------
    optics : Optics
    z_um : sequence of float
    side : int
    focus_um : float
    electrons : float
        Mean electrons of a pixel; 0 leaves out all noise.
    read_noise : float
    seed, specimen_seed : int
    """
    rng = np.random.default_rng(seed)
    margin = math.ceil(1.3 * max(geometric_radius_um(optics, z - focus_um) for z in z_um))
    border = math.ceil(margin / optics.pixel_um) + 12
    whole = side + 2 * border
    flux = (electrons or 500.0) * random_specimen(_SUB * whole, specimen_seed)
    spectrum = scipy.fft.rfft2(flux)
    fine = replace(optics, pixel_um=optics.pixel_um / _SUB)
    frames = np.empty((len(z_um), side, side), np.uint16)
    for index, z in enumerate(z_um):
        otf = defocus_otf(fine, z - focus_um, flux.shape)
        light = scipy.fft.irfft2(spectrum * otf, s=flux.shape)
        light = light.reshape(whole, _SUB, whole, _SUB).mean((1, 3))
        light = np.maximum(light[border:-border, border:-border], 0)
        if electrons:
            light = rng.poisson(light) + rng.normal(0, read_noise, light.shape)
        frames[index] = np.clip(np.rint(light + _OFFSET), 0, 65535)
    return frames


def in_order(
    z_um: Sequence[float],
    planes: NDArray[Any],
    pixel_um: float,
    *,
    saturation: float | None = None,
) -> PlaneStack:
    """A stack of planes in memory, shape (planes, height, width), in any order."""
    if saturation is None:
        whole = planes.dtype.kind == "u"
        saturation = float(np.iinfo(planes.dtype).max) if whole else math.inf
    order = np.argsort(z_um)
    z = np.asarray(z_um, np.float64)[order]
    return PlaneStack(z, planes[order].astype(np.float32), pixel_um, saturation)
