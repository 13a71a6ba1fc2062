"""Richardson-Lucy deconvolution at the scale of the blur.

What a blur has removed at high frequencies is not there, so a frame is reduced until the blur's
standard deviation is `SCALE_PX`, deconvolved there with a Gaussian PSF, and enlarged again: as
good as at full size, in a fraction of the time.  All convolutions are products of cosine transforms,
which reflect the frame at its borders.

The number of iterations follows from the noise (the discrepancy principle of V. A. Morozov, 1966):
it ends when what the estimate leaves unexplained, at frequencies that the blur passes, is no more
than noise.  The noise is that of the reduced frame where the blur passes nothing.

References
----------
W. H. Richardson, J. Opt. Soc. Am. 62, 55 (1972); L. B. Lucy, Astron. J. 79, 745 (1974).
M. Bertero et al., Inverse Problems 26, 105004 (2010) (the discrepancy principle for counts).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.sparse
from numpy.typing import NDArray

__all__ = ["MOST_ITERATIONS", "Deconvolved", "deconvolve"]

Floats = NDArray[np.float32]

#: Standard deviation of the blur in the frame that is deconvolved, px.
SCALE_PX = 3.0
#: A wrong PSF is never explained away: RL would go on to rings and beads.
MOST_ITERATIONS = 60
#: The discrepancy is looked at every so many iterations.
_LOOK_EVERY = 3
#: What a blur passes: to this gain of its transfer function.
_PASSED_GAIN = 0.1
#: From this frequency on, cycles a pixel, the reduced frame holds noise alone.
_NOISE_FROM = 0.38
#: Noise alone spans six standard deviations or so of a reduced frame.
_STRUCTURE = 8.0
#: Reduced frames have at least this side, px; smaller ones come back as they are.
_LEAST_PX = 8


@dataclass(frozen=True, slots=True)
class Deconvolved:
    """A deconvolved frame.

    Parameters
    ----------
    light : ndarray of float32, shape (height, width)
        In counts; never under the frame's background by more than its noise.
    background : float
        The frame's lowest counts (1st percentile, reduced).
    iterations : int
    """

    light: Floats
    background: float
    iterations: int


def deconvolve(
    frame: Floats, sigma_px: float, *, most_iterations: int = MOST_ITERATIONS
) -> Deconvolved:
    """Undo a blur.

    Parameters
    ----------
    frame : ndarray of float32, shape (height, width)
        Finite counts.
    sigma_px : float
        Standard deviation of the blur, above 0.
    most_iterations : int

    Returns
    -------
    Deconvolved
        With the sum of the frame's counts.  A frame without structure comes back as it is.
    """
    shape = (frame.shape[0], frame.shape[1])
    if min(shape) < _LEAST_PX:
        return Deconvolved(frame.copy(), float(frame.min()), 0)
    small = tuple(_reduced_side(side, sigma_px) for side in shape)
    reduced = frame if small == shape else _resampled(frame, small, _averaging)
    background = float(np.percentile(reduced, 1))
    sigmas = [sigma_px * side / whole for side, whole in zip(small, shape, strict=True)]
    spectrum = _transformed(reduced)
    grid = _frequencies(reduced.shape)
    noise = _noise(spectrum, grid)
    if float(reduced.max()) - background <= max(_STRUCTURE * noise, 0.5):
        return Deconvolved(frame.copy(), background, 0)
    gain = np.multiply.outer(
        *(
            np.exp(-2 * (np.pi * sigma * frequency) ** 2).astype(np.float32)
            for sigma, frequency in zip(sigmas, grid, strict=True)
        )
    )
    # RL keeps light positive: noise about the background must not be cut by that.
    pedestal = np.float32(2 * noise + 1e-3 * (float(reduced.max()) - background) + 0.05)
    observed = np.maximum(reduced - (np.float32(background) - pedestal), pedestal / 4)
    estimate, iterations = _richardson_lucy(observed, gain, noise, most_iterations)
    estimate += np.float32(background) - pedestal
    if small != shape:
        coefficients = scipy.ndimage.spline_filter(estimate, 3, np.float32, mode="reflect")
        estimate = _resampled(coefficients, shape, _cubic)
    np.maximum(estimate, np.float32(background) - pedestal, out=estimate)
    light = _same_sum(estimate, frame, background - float(pedestal))
    return Deconvolved(light, background, iterations)


def _richardson_lucy(
    observed: Floats, gain: Floats, noise: float, most_iterations: int
) -> tuple[Floats, int]:
    """RL from a flat frame until only noise is left to explain."""
    passed = gain > _PASSED_GAIN
    floor = np.float32(1e-3 * float(observed.mean()))
    estimate = np.full_like(observed, observed.mean())
    done = 0
    for done in range(1, most_iterations + 1):
        explained = np.maximum(_filtered(estimate, gain), floor)
        if done % _LOOK_EVERY == 0:
            left = _transformed(observed - explained)[passed]
            if float(np.mean(left**2)) <= noise**2:
                return estimate, done - 1
        estimate *= np.maximum(
            _filtered(np.divide(observed, explained, dtype=np.float32), gain), np.float32(0)
        )
    return estimate, done


def _same_sum(estimate: Floats, frame: Floats, base: float) -> Floats:
    """The estimate with the frame's light over `base`, as blur neither makes nor takes any."""
    wanted = float(frame.mean(dtype=np.float64)) - base
    have = float(estimate.mean(dtype=np.float64)) - base
    if have > 0 and wanted > 0:
        factor = np.float32(wanted / have)
        estimate *= factor
        estimate += np.float32(base) * (1 - factor)
    return estimate


def _transformed(frame: Floats) -> Floats:
    return np.asarray(scipy.fft.dctn(frame, norm="ortho"), dtype=np.float32)


def _filtered(frame: Floats, gain: Floats) -> Floats:
    return np.asarray(scipy.fft.idctn(_transformed(frame) * gain, norm="ortho"), dtype=np.float32)


def _frequencies(shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cycles a pixel of each cosine, by axis."""
    rows, columns = (np.arange(side) / (2 * side) for side in shape)
    return rows, columns


def _noise(spectrum: Floats, grid: tuple[NDArray[np.float64], NDArray[np.float64]]) -> float:
    """Standard deviation of a pixel's noise, by the highest frequencies."""
    rows, columns = (int(np.searchsorted(axis, _NOISE_FROM)) for axis in grid)
    return float(np.sqrt(np.mean(spectrum[rows:, columns:] ** 2)))


def _reduced_side(side: int, sigma_px: float) -> int:
    factor = max(1.0, sigma_px / SCALE_PX)
    wanted = round(side / factor)
    if factor == 1 or wanted >= side:
        return side
    return min(side, max(int(scipy.fft.next_fast_len(wanted, real=True)), _LEAST_PX))


def _resampled(
    frame: Floats, shape: tuple[int, ...], matrix: Callable[[int, int], scipy.sparse.csr_array]
) -> Floats:
    """A frame of another size, one axis after the other."""
    across = matrix(frame.shape[0], shape[0]) @ frame
    return np.ascontiguousarray((matrix(frame.shape[1], shape[1]) @ across.T).T, dtype=np.float32)


@lru_cache(maxsize=16)
def _averaging(have: int, want: int) -> scipy.sparse.csr_array:
    """Means over the pixels, and parts of pixels, that each of the fewer pixels covers."""
    edges = np.linspace(0, have, want + 1)
    rows, columns, weights = [], [], []
    for row in range(want):
        first, last = math.floor(edges[row] + 1e-9), math.ceil(edges[row + 1] - 1e-9)
        covered = np.arange(first, min(last, have))
        share = np.minimum(edges[row + 1], covered + 1) - np.maximum(edges[row], covered)
        rows.append(np.full(len(covered), row))
        columns.append(covered)
        weights.append(share / share.sum())
    return _sparse(
        np.concatenate(rows), np.concatenate(columns), np.concatenate(weights), want, have
    )


@lru_cache(maxsize=16)
def _cubic(have: int, want: int) -> scipy.sparse.csr_array:
    """Values of a cubic spline at the middles of the more pixels, from its coefficients."""
    places = (np.arange(want) + 0.5) * have / want - 0.5
    left = np.floor(places).astype(int)
    part = places - left
    weights = np.stack(
        [
            (1 - part) ** 3 / 6,
            2 / 3 - part**2 * (2 - part) / 2,
            2 / 3 - (1 - part) ** 2 * (1 + part) / 2,
            part**3 / 6,
        ]
    )
    columns = left + np.arange(-1, 3)[:, None]
    columns = np.where(columns < 0, -1 - columns, columns)
    columns = np.where(columns >= have, 2 * have - 1 - columns, columns)
    rows = np.broadcast_to(np.arange(want), columns.shape)
    return _sparse(rows.ravel(), columns.ravel(), weights.ravel(), want, have)


def _sparse(
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    weights: NDArray[np.float64],
    want: int,
    have: int,
) -> scipy.sparse.csr_array:
    entries = (weights.astype(np.float32), (rows, columns))
    return scipy.sparse.csr_array(entries, shape=(want, have))
