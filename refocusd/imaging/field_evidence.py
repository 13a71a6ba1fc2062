"""Evidence from a raw frame alone: its noise, its contrast, and what kind of picture it is.

================================  ==================================================================
question                          formula, and its source
================================  ==================================================================
noise of one pixel                differences of diagonal neighbours (J. Immerkær, Comput. Vis.
                                  Image Underst. 64, 300, 1996), by tile, so that the camera's gain
                                  need not be known
do these pixels come from a       noise of means of two by two pixels, over that of single ones: half
camera?                           if noise is white, more if pixels were interpolated, smoothed or
                                  compressed
is there anything to refocus?     contrast above a smooth background (quadric and r⁴, fitted to the
                                  pixels outside objects, after W. S. Cleveland's robust regression,
                                  1979) over the noise of a pixel; hot pixels left out
is it fluorescence?               position of the background's mode in the histogram (half-sample mode,
                                  D. R. Bickel 2002), skewness of the frame and of differences of
                                  Gaussians, spectrum by octaves, rank correlation of light and
                                  detail (C. Spearman 1904): a quadratic logistic score against
                                  other kinds of pictures (outlier exposure, D. Hendrycks et al.,
                                  ICLR 2019); `refocusd.engines.verdict` holds its weights
================================  ==================================================================

Everything except noise and focus is computed on means of four by four pixels (two by two in small
frames).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray

from refocusd.frame import Pixels
from refocusd.imaging.tiles import TileFocus, folded, means, pooled, tile_focus, tile_side_px

Floats = NDArray[np.float32]

#: Frames with a shorter side are too small for any evidence, px.
MIN_SIDE_PX = 32
#: Names of what `FieldEvidence.looks` holds.
LOOKS = (
    "mode", "p25", "median", "p75", "skewness", "kurtosis", "fine skewness", "coarse skewness",
    "contrast over level", "octave 1", "octave 2", "octave 3", "octave 4", "along axes",
    "contrast over noise", "light and detail", "without structure", "detail of dark cells",
    "detail of bright cells", "spread of dark cells",
)  # fmt: skip
#: Bounds of the octaves, cycles per pixel of the reduced frame.
_OCTAVES = (0.008, 0.03, 0.06, 0.12, 0.25, 0.5)
#: Contrasts above this many times the noise are treated alike.
_CLEAN = 100.0
#: Median absolute value of a normal variable, in standard deviations.
_MEDIAN_ABSOLUTE = 0.6745
#: Noise of rounding to whole counts, counts.
_ROUNDING = 1 / math.sqrt(12)


@dataclass(frozen=True, slots=True, eq=False)
class FieldEvidence:
    """Evidence from the raw frame alone.

    Parameters
    ----------
    noise : float
        Standard deviation of one pixel's noise, counts.
    smoothness : float
        Noise of means of two by two pixels over half of `noise`: 1 for white noise.
    contrast : float
        Height of the brightest structures above the smooth background, counts.
    clipped : float
        Share of the pixels at the end of the scale.
    looks : ndarray of float32, shape (len(LOOKS),)
        Features that tell what kind of picture it is.
    focus : TileFocus
    tile_px : int
        Side of its tiles.
    small : ndarray of float32, shape (height // factor, width // factor)
        The frame in means of `factor` by `factor` pixels, without hot pixels.
    hot : ndarray of bool, same shape
        Means from which a hot pixel was left out.
    factor : int
        4, or 2 for frames with a side under 128 px.
    """

    noise: float
    smoothness: float
    contrast: float
    clipped: float
    looks: Floats
    focus: TileFocus
    tile_px: int
    small: Floats
    hot: NDArray[np.bool_]
    factor: int


def examine_field(raw: Pixels) -> FieldEvidence | None:
    """Collect the evidence of a raw frame.

    Parameters
    ----------
    raw : ndarray of uint8 or uint16, shape (height, width)

    Returns
    -------
    FieldEvidence or None
        None if a side is under `MIN_SIDE_PX`.
    """
    if min(raw.shape) < MIN_SIDE_PX:
        return None
    factor = 4 if min(raw.shape) >= 128 else 2
    noise = _noise(raw)
    small, hot = _reduced(raw, factor, noise)
    flat = small - _background(small)
    half = means(flat, 2)
    low, high = np.percentile(half, (2, 99.8))
    contrast = float(high - low)
    tile_px = tile_side_px(raw.shape)
    focus = tile_focus(raw, tile_px)
    return FieldEvidence(
        noise=noise,
        smoothness=2 * _noise(means(raw, 2)) / noise,
        contrast=contrast,
        clipped=_clipped(raw),
        looks=np.array(
            [
                *_looks(small, flat, half, contrast, noise),
                *_cells(small, focus, contrast, 32 // factor),
            ],
            np.float32,
        ),
        focus=focus,
        tile_px=tile_px,
        small=small,
        hot=hot,
        factor=factor,
    )


def noise_variance(raw: Pixels, field: FieldEvidence) -> Floats:
    """Variance of a pixel's noise, counts², at each mean of `field.small`, in the same shape."""
    differences = _diagonal_differences(raw, 2)
    tile = field.tile_px
    deviation = pooled(differences, tile // 2, tile) * np.float32(math.sqrt(math.pi) / 4)
    variance = np.maximum(deviation, np.float32(_ROUNDING)) ** 2
    rows, columns = (
        np.minimum(np.arange(side) * field.factor // tile, have - 1)
        for side, have in zip(field.small.shape, variance.shape, strict=True)
    )
    return np.asarray(variance[rows][:, columns])


def _noise(raw: Pixels | Floats) -> float:
    """Standard deviation of a pixel's noise, counts; at least that of rounding."""
    differences = _diagonal_differences(raw, max(2, 2 * (raw.size >> 18)))
    return max(float(np.median(differences)) / (2 * _MEDIAN_ABSOLUTE), _ROUNDING)


def _diagonal_differences(raw: Pixels | Floats, step: int) -> Floats:
    rows = raw[1::step].astype(np.float32)
    rows -= raw[:-1:step].astype(np.float32)[: len(rows)]
    return np.asarray(np.abs(rows[:, 1:] - rows[:, :-1]))


def _reduced(raw: Pixels, factor: int, noise: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Means of blocks, and the blocks from which a hot pixel was left out."""
    brightest = folded(raw, factor, np.maximum)
    sums = folded(raw, factor, np.add)
    averages = sums / np.float32(factor**2)
    others = (sums - brightest) / np.float32(factor**2 - 1)
    # Light that went through a lens never falls on a single pixel only.
    step = np.abs(np.diff(averages, axis=0, append=averages[-1:]))
    hot = brightest - others > np.maximum(8 * noise, np.float32(6) * step)
    return np.where(hot, others, averages), hot


def _background(small: Floats) -> Floats:
    """A smooth surface through the pixels outside objects."""
    coarse = means(small, max(1, min(small.shape) // 24))
    basis = _basis(coarse.shape)
    values = coarse.ravel()
    kept = np.ones(len(values), bool)
    weights = np.zeros(basis.shape[1], np.float32)
    for _ in range(3):
        weights = np.linalg.lstsq(basis[kept], values[kept], rcond=None)[0]
        off = values - basis @ weights
        middle = np.median(off[kept])
        spread = float(np.median(np.abs(off[kept] - middle))) / _MEDIAN_ABSOLUTE + 1e-6
        kept = np.abs(off - middle) < 2.5 * spread
    return np.asarray((_basis(small.shape) @ weights).reshape(small.shape), dtype=np.float32)


@lru_cache(maxsize=16)
def _basis(shape: tuple[int, ...]) -> Floats:
    y, x = np.meshgrid(
        *(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij"
    )
    squared = x * x + y * y
    terms = (np.ones_like(x), x, y, x * y, x * x, y * y, squared * squared)
    return np.stack([term.ravel() for term in terms], axis=-1)


def _clipped(raw: Pixels) -> float:
    """Share of the pixels at the largest count; 0 if too few for that count to be the scale's end."""
    share = float(np.count_nonzero(raw == raw.max())) / raw.size
    return share if share > max(16 / raw.size, 1e-4) else 0.0


def _looks(small: Floats, flat: Floats, half: Floats, contrast: float, noise: float) -> list[float]:
    """Features of the whole frame: histogram, skewness, spectrum."""
    ends = np.percentile(half, (0.2, 99.8))
    span = max(float(ends[1] - ends[0]), 1e-3)
    ordered = np.sort(half, axis=None)
    quarters = (ordered[len(ordered) * part // 4] for part in (1, 2, 3))
    return [
        *((value - ends[0]) / span for value in (_mode(ordered), *quarters)),
        np.arcsinh(2 * moment(half, 3)),
        math.log(moment(half, 4) + 1e-3),
        *(np.arcsinh(2 * moment(_band(small, scale), 3)) for scale in (1.0, 3.0)),
        math.log(contrast / max(float(np.median(small)), 1.0) + 1e-3),
        *_octaves(flat, contrast),
        math.log(min(contrast / noise, _CLEAN) + 1e-2),
    ]


def _cells(small: Floats, focus: TileFocus, contrast: float, side: int) -> list[float]:
    """Features of its cells: in fluorescence, dark cells are empty and detail is bright.

    A photograph has detail in its shadows, and bright areas without detail.
    """
    light = pooled(small, side)
    detail = np.sqrt(np.maximum(pooled(small * small, side) - light * light, 0)).ravel()
    contrast = max(contrast, 1e-3)
    order = np.argsort(light, axis=None)
    one, other = (np.argsort(np.argsort(each, axis=None)) for each in (light, detail))
    count = light.size
    together = 1 - 6 * float(np.sum((one - other) ** 2)) / max(count**3 - count, 1)
    quarter = max(1, count // 4)
    ends = (order[:quarter], order[-quarter:])
    low, dark = np.percentile(light, (2, 25))
    return [
        together,
        1 - float(focus.structured.mean()),
        *(math.log(float(np.median(detail[cells])) / contrast + 1e-3) for cells in ends),
        min(float(dark - low) / contrast, 10.0),
    ]


def _mode(ordered: Floats) -> float:
    """Middle of the shortest quarter."""
    quarter = max(2, len(ordered) // 4)
    first = int(np.argmin(ordered[quarter:] - ordered[:-quarter]))
    return float(ordered[first] + ordered[first + quarter]) / 2


def moment(values: Floats, order: int) -> float:
    """Standardised moment of order 3 or 4: skewness, or kurtosis."""
    centred = values - values.mean()
    deviation = math.sqrt(float(np.vdot(centred, centred)) / values.size) + 1e-6
    centred /= np.float32(deviation)
    squared = centred * centred
    return float(np.vdot(squared, centred if order == 3 else squared)) / values.size


def _band(small: Floats, scale: float) -> Floats:
    inner, outer = (
        scipy.ndimage.gaussian_filter(small, sigma, truncate=2.5) for sigma in (scale, 1.6 * scale)
    )
    return np.asarray(inner - outer)


def _octaves(flat: Floats, contrast: float) -> list[float]:
    """Decrease of the power from octave to octave, and the share of the power along the axes."""
    power = scipy.fft.dctn(flat, norm="ortho") ** 2
    index, counts, axial = _octave_index(flat.shape)
    sums = np.bincount(index, power.ravel(), len(_OCTAVES) + 1)[1:-1]
    # The level of very low noise says nothing about the specimen.
    least = (contrast / _CLEAN / 4) ** 2 + 1e-3
    logs = np.log(sums / np.maximum(counts, 1) + least)
    along = float(power.ravel()[axial].sum()) / max(float(sums[1:].sum()), 1e-6)
    return [*(float(value) for value in logs[:-1] - logs[1:]), math.log(along + 1e-3)]


@lru_cache(maxsize=4)
def _octave_index(
    shape: tuple[int, ...],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    rows, columns = (np.arange(side) / (2 * side) for side in shape)
    frequency = np.hypot(rows[:, None], columns)
    index = np.digitize(frequency.ravel(), _OCTAVES)
    angle = np.arctan2(rows[:, None], columns).ravel()
    axial = ((angle < 0.2) | (angle > math.pi / 2 - 0.2)) & (index >= 2) & (index < len(_OCTAVES))
    return index, np.bincount(index, minlength=len(_OCTAVES) + 1)[1:-1], axial
