"""The form of a PSF, apart from its width, from optics or from a measured PSF.

A PSF of unknown form is assumed to be a Gaussian.  Deconvolution with a known form recovers more:
simulated nuclei gain 0.8 dB more on average, and up to 2 dB
(``docs/decisions/0044-form-of-the-psf.md``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
import tifffile
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.imaging.blur import PsfShape, half_width_sigma, radial_transfer
from refocusd.imaging.deconvolve import AROUND, noise_of, richardson_lucy
from refocusd.imaging.optics import Optics, defocus_psf

Floats = NDArray[np.float32]

#: The form is used if the width is known to this relative uncertainty; with a wrong width it gains nothing.
SURE = 0.15
#: Fraction of the width that is left for the network, at these widths (px): enough to hide the rings that
#: the deconvolution of narrow PSFs leaves.
KEPT_AT_PX = (3.0, 6.0)
KEPT = (0.7, 0.5)
_ITERATIONS = 50
#: Largest side of a PSF in a file, px, and the width of its border over its shorter side.
_MOST_PX, _BORDER = 2049, 0.04


@dataclass(frozen=True, slots=True)
class StatedPsf:
    """Form and width (`BlurEstimate.sigma_px`) of a PSF."""

    shape: PsfShape
    sigma_px: float


def shape_of(psf: NDArray[np.floating]) -> StatedPsf | None:
    """Form and width of a radially symmetric PSF; None if it is narrower than pixels can show.

    Parameters
    ----------
    psf : ndarray, shape (size, size)
        Odd square, centred, sum 1.
    """
    if (sigma_px := half_width_sigma(psf)) is None:
        return None
    gains = radial_transfer(psf, PsfShape.CYCLES / sigma_px)
    return StatedPsf(PsfShape(tuple(round(float(gain), 4) for gain in gains)), sigma_px)


def shape_of_optics(optics: Optics, defocus_um: float) -> StatedPsf | None:
    """Form and width of the PSF of wave optics, see `defocus_psf`; None if it is too narrow."""
    return shape_of(defocus_psf(optics, defocus_um))


def read_psf(path: Path) -> StatedPsf:
    """Read a PSF from an image of a point: one plane, at the frames' pixel size and defocus.

    The median of its border is subtracted as background, and it is averaged around its centre of light.

    Parameters
    ----------
    path : Path
        TIFF.

    Raises
    ------
    InputError
        If it is not such an image.
    """
    try:
        with tifffile.TiffFile(path) as file:
            shape = file.series[0].shape
            small = len(shape) == 2 and min(shape) >= 7 and max(shape) <= _MOST_PX
            image = file.series[0].asarray() if small else None
    except (OSError, ValueError, IndexError, tifffile.TiffFileError) as error:
        raise InputError(f"psf {path} cannot be read: {error}") from error
    if image is None or image.dtype.kind not in "uif":
        raise InputError(
            f"psf {path} holds {'×'.join(map(str, shape))} values: give one grey plane of 7 to {_MOST_PX} "
            "px, the image of a point at the frames' pixel size and distance from focus"
        )
    stated = shape_of(_centred(image.astype(np.float64), path))
    if stated is None:
        raise InputError(f"psf {path} is narrower than a pixel: such frames need no refocusing")
    return stated


def _centred(image: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """An odd square with sum 1: the image averaged around its centre of light."""
    edge = max(1, round(_BORDER * min(image.shape)))
    sides = image[:edge], image[-edge:], image[:, :edge], image[:, -edge:]
    border = np.concatenate([side.ravel() for side in sides])
    light = image - np.median(border)
    if not (np.isfinite(light).all() and light.max() > 0):
        raise InputError(f"psf {path} shows no point of light above its border")
    bright = np.where(light > 0.05 * light.max(), light, 0)
    y, x = (np.arange(side) for side in light.shape)
    at_y, at_x = (bright.sum(1) @ y / bright.sum(), bright.sum(0) @ x / bright.sum())
    away = np.hypot((y - at_y)[:, None], x - at_x)
    half = math.floor(min(at_y, at_x, light.shape[0] - 1 - at_y, light.shape[1] - 1 - at_x))
    if half < 3:
        raise InputError(
            f"psf {path}: its point of light lies at the border; cut it out about its centre"
        )
    rings = np.arange(half + 2)
    near = away < half + 1.5
    below = away[near].astype(int)
    part = away[near] - below
    counts = np.bincount(below, 1 - part, half + 3) + np.bincount(below + 1, part, half + 3)
    sums = np.bincount(below, light[near] * (1 - part), half + 3) + np.bincount(
        below + 1, light[near] * part, half + 3
    )
    profile = (sums / np.maximum(counts, 1e-9))[: half + 2]
    offsets = np.arange(-half, half + 1)
    found = np.interp(np.hypot(offsets[:, None], offsets), rings, profile, right=0)
    if found.sum() <= 0:
        raise InputError(f"psf {path}: the light about its centre is less than at its border")
    return np.asarray(found / found.sum())


def equalised(
    frame: Floats, sigma_px: float, shape: PsfShape, kept: float, noise: float = 0.0
) -> Floats:
    """Replace the blur of a frame, whose form is known, by a Gaussian of `kept` times its width.

    The frame is deconvolved (`richardson_lucy`) and blurred again, because networks are trained on
    Gaussian blurs.

    Parameters
    ----------
    frame : ndarray of float32, shape (height, width)
        In counts.
    sigma_px : float
        Width of its blur, px.
    shape : PsfShape
    kept : float
        0 to 1.
    noise : float
        Lower limit of the standard deviation of a pixel's noise, counts: a slightly reduced frame
        has less noise at its highest frequencies, where it is measured, than elsewhere.

    Returns
    -------
    ndarray of float32, same shape
    """
    rows, columns = (np.arange(side) / (2 * side) for side in frame.shape)
    noise = max(noise, noise_of(scipy.fft.dctn(frame, norm="ortho"), (rows, columns)))
    base = np.float32(np.percentile(frame, 0.5))
    unit = np.float32(max(float(np.percentile(frame, 99.9)) - float(base), 1e-6) * 5e-3)
    margin = math.ceil(AROUND * sigma_px)
    seen = np.pad(np.maximum(frame - (base - unit), unit / 4), margin, mode="edge")
    rows, columns = (np.arange(side) / (2 * side) for side in seen.shape)
    cycles = np.hypot(rows[:, None], columns) * sigma_px
    light, _ = richardson_lucy(
        seen,
        shape.gain(cycles).astype(np.float32),
        _ITERATIONS,
        noise=noise,
        hastened=True,
        margin=margin,
    )
    again = np.exp(-2 * (np.pi * kept * cycles) ** 2)
    spectrum = scipy.fft.dctn(light, norm="ortho") * again
    inner = (slice(margin, -margin),) * 2
    left = scipy.fft.idctn(spectrum, norm="ortho")[inner]
    return np.asarray(left + (base - unit), dtype=np.float32)
