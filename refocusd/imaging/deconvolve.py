"""Richardson-Lucy deconvolution at the scale of the blur.

A blurred frame holds nothing at high frequencies.  It is therefore reduced until the blur's
standard deviation is `SCALE_PX`, deconvolved with a Gaussian PSF or with one of known form,
and enlarged again.  The result is as good as at full size, in a fraction of the time.  All convolutions
are products of cosine transforms, which reflect the frame at its borders.

The number of iterations follows from the noise (the discrepancy principle of V. A. Morozov, 1966):
the iterations end when the residual, at frequencies that the blur passes, is no larger than the
noise.  The noise is measured in the reduced frame at frequencies that the blur does not pass.

References
----------
W. H. Richardson, J. Opt. Soc. Am. 62, 55 (1972); L. B. Lucy, Astron. J. 79, 745 (1974).
M. Bertero et al., Inverse Problems 26, 105004 (2010) (the discrepancy principle for counts).
A. Beck and M. Teboulle, SIAM J. Imaging Sci. 2, 183 (2009) (Nesterov's momentum).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from refocusd.imaging.blur import PsfShape
from refocusd.imaging.reduction import LEAST_SIDE_PX, Reduction

Floats = NDArray[np.float32]

#: Standard deviation of the blur in the frame that is deconvolved, px.
SCALE_PX = 3.0
#: The same if the form of the PSF is known, because such a PSF passes more than a Gaussian.
FORMED_SCALE_PX = 5.0
#: Light beyond the border is estimated out to this many standard deviations of the blur.
AROUND = 2.5
#: With a wrong PSF the residual never falls to the noise, and RL would go on to make rings and beads.
MOST_ITERATIONS = 60
#: The discrepancy is checked once in this many iterations.
_LOOK_EVERY = 3
#: A blur passes the frequencies at which its transfer function is above this.
_PASSED_GAIN = 0.1
#: From this frequency on, cycles per pixel, the reduced frame holds only noise.
_NOISE_FROM = 0.38
#: Least share of a pixel's light that is assumed to reach observed pixels; it limits the correction.
_LEAST_HEARD = 0.05
#: Noise alone spans about six standard deviations of a reduced frame; structure spans more than this many.
_STRUCTURE = 8.0


@dataclass(frozen=True, slots=True)
class WholeImage:
    """Values shared by the parts of an image that are deconvolved one by one.

    Parameters
    ----------
    background : float
        As in `Deconvolved`, counts.
    pedestal : float
        Counts added to the light so that noise around the background stays positive.
    iterations : int
        At least 1.
    """

    background: float
    pedestal: float
    iterations: int


@dataclass(frozen=True, slots=True)
class Deconvolved:
    """A deconvolved frame.

    Parameters
    ----------
    light : ndarray of float32, shape (height, width)
        In counts; never lower than `background` by more than `pedestal`.
    background : float
        1st percentile of the reduced frame, counts.
    iterations : int
        0 if nothing was deconvolved.
    pedestal : float
        See `WholeImage`.
    """

    light: Floats
    background: float
    iterations: int
    pedestal: float = 0.0


def deconvolve(
    frame: Floats,
    sigma_px: float,
    *,
    shape: PsfShape | None = None,
    whole: WholeImage | None = None,
) -> Deconvolved:
    """Undo a blur.

    Parameters
    ----------
    frame : ndarray of float32, shape (height, width)
        Finite counts.
    sigma_px : float
        Standard deviation of the blur, above 0.
    shape : PsfShape, optional
        The form of the PSF if it is known; otherwise it is assumed to be a Gaussian.
    whole : WholeImage, optional
        Values of the image that `frame` is a part of, so that its parts have no seams.

    Returns
    -------
    Deconvolved
        With the frame's sum of counts, unless it is a part of an image.  A frame without structure
        is returned unchanged.
    """
    size = (frame.shape[0], frame.shape[1])
    if min(size) < LEAST_SIDE_PX:
        return Deconvolved(frame.copy(), float(frame.min()), 0)
    scale = Reduction.to_blur(size, sigma_px, SCALE_PX if shape is None else FORMED_SCALE_PX)
    reduced = scale.reduced(frame)
    background = float(np.percentile(reduced, 1))
    sigmas = [sigma_px * side / whole for side, whole in zip(scale.small, size, strict=True)]
    noise = noise_of(_transformed(reduced), _frequencies(reduced.shape))
    # RL keeps light positive, which must not cut off the noise around the background.
    pedestal = np.float32(2 * noise + 1e-3 * (float(reduced.max()) - background) + 0.05)
    most_iterations = MOST_ITERATIONS
    if whole is not None:
        background, pedestal = whole.background, np.float32(whole.pedestal)
        most_iterations, noise = whole.iterations, 0.0  # with no noise, all iterations are done
    elif float(reduced.max()) - background <= max(_STRUCTURE * noise, 0.5):
        return Deconvolved(frame.copy(), background, 0)
    floor = np.float32(background) - pedestal
    margin = 0 if shape is None else math.ceil(AROUND * FORMED_SCALE_PX)
    observed = np.pad(np.maximum(reduced - floor, pedestal / 4), margin, mode="edge")
    estimate, iterations = richardson_lucy(
        observed,
        _gain(shape, sigmas, observed.shape),
        most_iterations,
        noise=noise,
        hastened=shape is not None,
        margin=margin,
    )
    if margin:
        estimate = np.ascontiguousarray(estimate[margin:-margin, margin:-margin])
    estimate = scale.enlarged(estimate + floor)
    np.maximum(estimate, floor, out=estimate)
    if whole is None:
        estimate = _same_sum(estimate, frame, background - float(pedestal))
    return Deconvolved(estimate, background, iterations, float(pedestal))


def _gain(shape: PsfShape | None, sigmas: Sequence[float], size: tuple[int, ...]) -> Floats:
    """Transfer function of a blur whose widths down and across are `sigmas`, px."""
    rows, columns = (
        sigma * frequency for sigma, frequency in zip(sigmas, _frequencies(size), strict=True)
    )
    cycles = np.hypot(rows[:, None], columns)
    passed = np.exp(-2 * (np.pi * cycles) ** 2) if shape is None else shape.gain(cycles)
    return passed.astype(np.float32)


def richardson_lucy(
    observed: Floats,
    gain: Floats,
    most_iterations: int,
    *,
    noise: float,
    hastened: bool = False,
    margin: int = 0,
) -> tuple[Floats, int]:
    """Richardson-Lucy from a flat frame, until the residual is noise.

    Parameters
    ----------
    observed : ndarray of float32, shape (height, width)
        Positive counts.
    gain : ndarray of float32, same shape
        The blur's transfer function, which multiplies a cosine transform.
    most_iterations : int
    noise : float
        Standard deviation of a pixel's noise, counts.
    hastened : bool
        Use Nesterov's momentum: 50 iterations then go as far as 400 without it.
    margin : int
        Number of pixels along each border of `observed` that were not observed, and where any
        light may lie (M. Bertero and P. Boccacci, Astron. Astrophys. 437, 369, 2005).

    Returns
    -------
    estimate : ndarray of float32, shape (height, width)
        In counts.
    iterations : int
        Number of iterations done.
    """
    passed = np.abs(gain) > _PASSED_GAIN
    floor = np.float32(1e-3 * float(observed.mean()))
    inner = (slice(margin, -margin),) * 2 if margin else (slice(None),) * 2
    seen = heard = np.ones_like(observed)
    if margin:
        seen = np.zeros_like(observed)
        seen[inner] = 1
        heard = np.maximum(_filtered(seen, gain), np.float32(_LEAST_HEARD))
    part = observed[inner].size / observed.size
    estimate = before = np.full_like(observed, observed.mean())
    for done in range(1, most_iterations + 1):
        ahead = estimate
        if hastened:
            ahead = estimate + np.float32(max(0, done - 2) / (done + 1)) * (estimate - before)
            ahead = np.maximum(ahead, floor / 8)
        explained = np.maximum(_filtered(ahead, gain), floor)
        if done % _LOOK_EVERY == 0:
            left = _transformed(seen * (observed - explained))[passed]
            if float(np.mean(left**2)) <= noise**2 * part:
                return estimate, done - 1
        ratio = _filtered(seen * np.divide(observed, explained, dtype=np.float32), gain) / heard
        before, estimate = estimate, ahead * np.maximum(ratio, np.float32(0))
    return estimate, most_iterations


def _same_sum(estimate: Floats, frame: Floats, base: float) -> Floats:
    """Scale the estimate in place to the frame's light above `base`, because blur preserves flux."""
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
    """Frequencies of the cosines along each axis, cycles per pixel."""
    rows, columns = (np.arange(side) / (2 * side) for side in shape)
    return rows, columns


def noise_of(spectrum: Floats, grid: tuple[NDArray[np.float64], NDArray[np.float64]]) -> float:
    """Standard deviation of a pixel's noise, from the highest frequencies.

    Parameters
    ----------
    spectrum : ndarray of float32, shape (height, width)
        Orthonormal cosine transform of a frame.
    grid : (ndarray, ndarray), shapes (height,) and (width,)
        Frequencies of its rows and columns, cycles per pixel.
    """
    rows, columns = (int(np.searchsorted(axis, _NOISE_FROM)) for axis in grid)
    return float(np.sqrt(np.mean(spectrum[rows:, columns:] ** 2)))
