"""Evidence for and against a refocused frame: from raw alone, and from raw and refocused together.

================================  ==================================================================
question                          formula, and its source
================================  ==================================================================
noise of one pixel                differences of diagonal neighbours (J. Immerkær, Comput. Vis.
                                  Image Underst. 64, 300, 1996), by tile, so that the camera's gain
                                  need not be known
is there anything to refocus?     contrast above a smooth background (quadric and r⁴, fitted to what
                                  is not an object, after W. S. Cleveland's robust regression, 1979)
                                  over the noise of a pixel; hot pixels left out
is it fluorescence?               place of the background's mode in the histogram (half-sample mode,
                                  D. R. Bickel 2002), skewness of the frame and of differences of
                                  Gaussians, spectrum by octaves: a quadratic logistic score against
                                  other kinds of pictures (outlier exposure, D. Hendrycks et al.,
                                  ICLR 2019); `refocusd.engines.verdict` holds its weights
is it in focus already?           structure function of 2×2 binned pixels at lags of 1, 2 and 4, from
                                  which noise cancels (D. Vollath, J. Microsc. 151, 133, 1988), by
                                  tile
does it explain raw?              refocused, blurred again, against raw: width fitted, residual map
                                  and share that is not explained (S. Culley et al., Nat. Methods 15,
                                  263, 2018), normalised by the noise and by 10 % of the width (χ²)
is light where it was?            light of the refocused frame, blurred again, over that of raw, by
                                  tile
================================  ==================================================================

Everything but noise and focus is computed on means of four by four pixels.  A frame of 696×520
px takes about 5 ms on one core, both halves together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate

__all__ = [
    "CELL_PX",
    "LOOKS",
    "MIN_SIDE_PX",
    "FieldEvidence",
    "PairEvidence",
    "TileFocus",
    "examine_field",
    "examine_pair",
    "sharp_part",
    "weights_outside",
]

#: Expected error of engines that expect none, over the contrast: about what frames have.
UNTOLD = 0.05
Floats = NDArray[np.float32]

#: Frames with a shorter side are too small for any evidence, px.
MIN_SIDE_PX = 32
#: Cells of the maps of residuals, px.
CELL_PX = 16
#: Names of what `FieldEvidence.looks` holds.
LOOKS = (
    "mode", "p25", "median", "p75", "skewness", "kurtosis", "fine skewness", "coarse skewness",
    "contrast over level", "octave 1", "octave 2", "octave 3", "octave 4", "along axes",
    "contrast over noise",
)  # fmt: skip
#: Bounds of the octaves, cycles a pixel of the reduced frame.
_OCTAVES = (0.008, 0.03, 0.06, 0.12, 0.25, 0.5)
#: Frames with less noise than one part in so many of the contrast look like those that have it.
_CLEAN = 100.0
#: Median absolute value of a normal variable, in standard deviations.
_MEDIAN_ABSOLUTE = 0.6745
#: A blur is known to about this, relative: so much misfit of its width is not held against a picture.
_WIDTH = 0.1
#: Sharpness of tiles in focus is above the first, of tiles far from focus under the second.
_SHARP, _BLURRED = 0.32, 0.285
#: A part of a frame holds at least so many tiles with structure, and this share of them.
_PART_TILES, _PART_SHARE = 4, 0.1
#: Widths that are tried about the one that is stated, and where none is, px.
_ABOUT = tuple(2.0 ** (step / 3) for step in range(-3, 4))
_BLIND_PX = tuple(1.25**step for step in range(18))


@dataclass(frozen=True, slots=True, eq=False)
class TileFocus:
    """How sharp a frame is, by tile.

    Parameters
    ----------
    fine, coarse : ndarray of float32, shape (rows, columns)
        Growth of the structure function from 1 to 2 and from 2 to 4 binned pixels, counts².
    chance : ndarray of float32, same shape
        What noise makes of `fine` by chance (three standard errors).
    """

    fine: Floats
    coarse: Floats
    chance: Floats

    @property
    def structured(self) -> NDArray[np.bool_]:
        """Tiles that hold more than noise."""
        return np.asarray(self.coarse > 3 * self.chance)

    @property
    def sharpness(self) -> Floats:
        """Fine over coarse growth: 0.25 where the blur is wide, 0.35 to 1 where it is under 2 px."""
        return np.asarray(
            np.where(self.structured, self.fine / np.maximum(self.coarse, 1e-6), 0),
            dtype=np.float32,
        )


@dataclass(frozen=True, slots=True, eq=False)
class FieldEvidence:
    """What raw alone tells.

    Parameters
    ----------
    noise : float
        Standard deviation of one pixel's noise, counts.
    contrast : float
        Brightest structures over the smooth background, counts.
    clipped : float
        Share of the pixels at the end of the scale.
    looks : ndarray of float32, shape (len(LOOKS),)
        What kind of picture it is.
    focus : TileFocus
    tile_px : int
        Side of its tiles.
    small : ndarray of float32
        The frame in means of `factor` by `factor` pixels, without hot pixels.
    hot : ndarray of bool, same shape
        Means that a hot pixel was in.
    factor : int
    """

    noise: float
    contrast: float
    clipped: float
    looks: Floats
    focus: TileFocus
    tile_px: int
    small: Floats
    hot: NDArray[np.bool_]
    factor: int


@dataclass(frozen=True, slots=True, eq=False)
class PairEvidence:
    """What raw and refocused frame tell together.

    Parameters
    ----------
    blur_px : float
        Width of the Gaussian that makes raw of the refocused frame best, px.
    stated_px : float
        What the engine took it for; `blur_px` where it did not say.
    uncertainty : float
        Of what it took it for, relative; 1 where it did not say.
    unexplained : float
        Share of raw's structure that the refocused frame does not explain, 0 to 1 and more.
    unexplained_as_stated : float
        The same with the width that the engine took.
    chi2 : float
        Median over cells of the normalised squared residual; 1 for noise alone.
    worst_chi2 : float
        Its 98th percentile.
    residuals : ndarray of float32, shape (rows, columns)
        χ² by cell of `CELL_PX` pixels.
    flux : float
        Light of the frame, refocused over raw.
    worst_flux : float
        Largest relative change of light in a tile that holds its share of it.
    sharpened : float
        Natural logarithm of fine structure, refocused over raw.
    kept : float
        Median over tiles of the sharpness of raw over that of the refocused frame.
    undershoot : float
        Share of the refocused frame that is darker than anything in raw.
    expected_error : float
        Error that the engine expects of its result, over the frame's contrast; `UNTOLD` where it
        does not tell.
    """

    blur_px: float
    stated_px: float
    uncertainty: float
    unexplained: float
    unexplained_as_stated: float
    chi2: float
    worst_chi2: float
    residuals: Floats
    flux: float
    worst_flux: float
    sharpened: float
    kept: float
    undershoot: float
    expected_error: float


def examine_field(raw: Pixels) -> FieldEvidence | None:
    """Look at a raw frame.

    Parameters
    ----------
    raw : ndarray of uint8 or uint16, shape (height, width)

    Returns
    -------
    FieldEvidence or None
        None for frames under `MIN_SIDE_PX`.
    """
    if min(raw.shape) < MIN_SIDE_PX:
        return None
    factor = 4 if min(raw.shape) >= 128 else 2
    noise = _noise(raw)
    small, hot = _reduced(raw, factor, noise)
    flat = small - _background(small)
    half = _means(flat, 2)
    low, high = np.percentile(half, (2, 99.8))
    contrast = float(high - low)
    tile_px = _tile_px(raw.shape)
    return FieldEvidence(
        noise=noise,
        contrast=contrast,
        clipped=_clipped(raw),
        looks=_looks(small, flat, half, contrast, noise),
        focus=_tile_focus(raw, tile_px),
        tile_px=tile_px,
        small=small,
        hot=hot,
        factor=factor,
    )


def examine_pair(
    field: FieldEvidence,
    raw: Pixels,
    refocused: Pixels,
    blur: BlurEstimate | None,
    expected_error: float | None = None,
) -> PairEvidence:
    """Hold a refocused frame against raw.

    Parameters
    ----------
    field : FieldEvidence
        Of `raw`.
    raw, refocused : ndarray of uint8 or uint16, shape (height, width)
    blur : BlurEstimate or None
        What the engine took the blur to be.
    expected_error : float, optional
        `refocusd.engines.engine.Refocused.expected_error`, in counts.
    """
    factor, before = field.factor, field.small
    after = _means(refocused, factor)
    focus = _tile_focus(refocused, field.tile_px)
    spectra = _Spectra.of(before, after)
    stated = blur.sigma_px if blur is not None else None
    tried = _BLIND_PX if stated is None else tuple(stated * part for part in _ABOUT)
    left = [spectra.left(width / factor) for width in tried]
    best = int(np.argmin(left))
    known = max(spectra.power - spectra.noise(field.noise / factor), 1e-6)
    share = [max(each - spectra.noise(field.noise / factor), 0.0) / known for each in left]
    again, slope = spectra.blurred(tried[best] / factor)
    residual = np.where(field.hot, np.float32(0), before - again)
    variance = _variance(raw, field, before.shape) / factor**2 + (_WIDTH * slope) ** 2
    normalised = np.asarray(residual**2 / variance, dtype=np.float32)
    cells = _pooled(normalised, CELL_PX // factor)
    base = float(np.percentile(before, 1))
    changed, worst = _flux(before, again, base, field.tile_px // factor)
    floor = base - 3 * field.noise / factor - 0.02 * field.contrast
    return PairEvidence(
        blur_px=tried[best],
        stated_px=stated if stated is not None else tried[best],
        uncertainty=min(blur.uncertainty, 1.0) if blur is not None else 1.0,
        unexplained=share[best],
        unexplained_as_stated=share[len(_ABOUT) // 2] if stated is not None else share[best],
        chi2=float(np.median(cells)),
        worst_chi2=float(np.percentile(cells, 98)),
        residuals=cells,
        flux=changed,
        worst_flux=worst,
        sharpened=_sharpened(field.focus, focus),
        kept=_kept(field.focus, focus),
        undershoot=float(np.mean(after < floor)),
        expected_error=UNTOLD if expected_error is None else expected_error / field.contrast,
    )


# -- parts of a frame ---------------------------------------------------------------------------


def sharp_part(focus: TileFocus) -> NDArray[np.bool_] | None:
    """Tiles that are in focus, of a frame that is out of focus elsewhere.

    The median of the tiles around decides, so that debris decides nothing.

    Returns
    -------
    ndarray of bool, shape (rows, columns), or None
        None for a frame that is all in focus, or all out of focus, as far as it shows.
    """
    told = focus.structured
    if not told.any():
        return None
    around = _neighbours_median(focus.sharpness, told)
    part = around > (_SHARP + _BLURRED) / 2
    inside, outside = around[part & told], around[~part & told]
    least = max(_PART_TILES, _PART_SHARE * float(told.sum()))
    if min(len(inside), len(outside)) < least:
        return None
    if np.median(inside) < _SHARP or np.median(outside) > _BLURRED:
        return None
    return np.asarray(part)


def _neighbours_median(values: Floats, told: NDArray[np.bool_]) -> Floats:
    """Median of the three by three tiles about each, of those that tell; else of the whole frame."""
    rows, columns = values.shape
    known = np.pad(np.where(told, values, np.inf), 1, constant_values=np.inf)
    near = np.sort(
        [known[y : y + rows, x : x + columns] for y in range(3) for x in range(3)], axis=0
    )
    count = np.isfinite(near).sum(axis=0)
    middle = np.take_along_axis(near, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    return np.asarray(np.where(count > 0, middle, np.median(values[told])), dtype=np.float32)


def weights_outside(part: NDArray[np.bool_], tile_px: int, shape: tuple[int, ...]) -> Floats:
    """One by pixel outside of a part, 0 in its tiles, and a ramp of half a tile at its border.

    Parameters
    ----------
    part : ndarray of bool, shape (rows, columns)
    tile_px : int
    shape : (int, int)
        Of the frame.
    """
    weights = (~part).astype(np.float32)
    for axis, side in enumerate(shape):
        middles = (np.arange(part.shape[axis]) + 0.5) * tile_px
        places = np.interp(np.arange(side) + 0.5, middles, np.arange(len(middles)))
        first = np.minimum(places.astype(int), len(middles) - 1)
        last = np.minimum(first + 1, len(middles) - 1)
        share = (places - first).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        taken = (np.take(weights, index, axis=axis) for index in (first, last))
        weights = next(taken) * (1 - share) + next(taken) * share
    return np.asarray(np.clip(2 * weights - 1, 0, 1))


# -- raw alone ----------------------------------------------------------------------------------


def _noise(raw: Pixels) -> float:
    """Standard deviation of a pixel's noise, counts; at least what rounding makes."""
    differences = _diagonal_differences(raw, max(2, 2 * (raw.size >> 18)))
    return max(float(np.median(differences)) / (2 * _MEDIAN_ABSOLUTE), 1 / math.sqrt(12))


def _diagonal_differences(raw: Pixels, step: int) -> Floats:
    rows = raw[1::step].astype(np.float32)
    rows -= raw[:-1:step].astype(np.float32)[: len(rows)]
    return np.asarray(np.abs(rows[:, 1:] - rows[:, :-1]))


def _variance(raw: Pixels, field: FieldEvidence, shape: tuple[int, ...]) -> Floats:
    """Variance of a pixel's noise where each mean of the reduced frame is, counts²."""
    differences = _diagonal_differences(raw, 2)
    tile = field.tile_px
    deviation = _pooled(differences, tile // 2, tile) * np.float32(math.sqrt(math.pi) / 4)
    variance = np.maximum(deviation, np.float32(1 / math.sqrt(12))) ** 2
    rows, columns = (
        np.minimum(np.arange(side) * field.factor // tile, have - 1)
        for side, have in zip(shape, variance.shape, strict=True)
    )
    return np.asarray(variance[rows][:, columns])


def _means(pixels: NDArray[np.generic], factor: int) -> Floats:
    """Means of blocks; what does not fill a block at the ends is left out."""
    return np.asarray(_folded(pixels, factor, np.add) / np.float32(factor**2))


def _folded(pixels: NDArray[np.generic], factor: int, fold: np.ufunc) -> Floats:
    height, width = (side // factor * factor for side in pixels.shape)
    rows = pixels[0:height:factor, :width].astype(np.float32)
    for step in range(1, factor):
        fold(rows, pixels[step:height:factor, :width], out=rows, casting="unsafe")
    blocks = rows[:, 0::factor].copy()
    for step in range(1, factor):
        fold(blocks, rows[:, step::factor], out=blocks)
    return np.asarray(blocks)


def _reduced(raw: Pixels, factor: int, noise: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Means of blocks, and which of them a hot pixel was left out of."""
    brightest = _folded(raw, factor, np.maximum)
    sums = _folded(raw, factor, np.add)
    means = sums / np.float32(factor**2)
    others = (sums - brightest) / np.float32(factor**2 - 1)
    # Light that went through a lens never stands in one pixel alone.
    step = np.abs(np.diff(means, axis=0, append=means[-1:]))
    hot = brightest - others > np.maximum(8 * noise, np.float32(6) * step)
    return np.where(hot, others, means), hot


def _background(small: Floats) -> Floats:
    """A smooth surface through what is not an object."""
    coarse = _means(small, max(1, min(small.shape) // 24))
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
    """Share of the pixels at the largest count, if so many share it that it must be the scale's end."""
    share = float(np.count_nonzero(raw == raw.max())) / raw.size
    return share if share > max(16 / raw.size, 1e-4) else 0.0


def _looks(small: Floats, flat: Floats, half: Floats, contrast: float, noise: float) -> Floats:
    ends = np.percentile(half, (0.2, 99.8))
    span = max(float(ends[1] - ends[0]), 1e-3)
    ordered = np.sort(half, axis=None)
    quarters = (ordered[len(ordered) * part // 4] for part in (1, 2, 3))
    return np.array(
        [
            *((value - ends[0]) / span for value in (_mode(ordered), *quarters)),
            np.arcsinh(2 * _moment(half, 3)),
            math.log(_moment(half, 4) + 1e-3),
            *(np.arcsinh(2 * _moment(_band(small, scale), 3)) for scale in (1.0, 3.0)),
            math.log(contrast / max(float(np.median(small)), 1.0) + 1e-3),
            *_octaves(flat, contrast),
            math.log(min(contrast / noise, _CLEAN) + 1e-2),
        ],
        np.float32,
    )


def _mode(ordered: Floats) -> float:
    """Middle of the shortest quarter."""
    quarter = max(2, len(ordered) // 4)
    first = int(np.argmin(ordered[quarter:] - ordered[:-quarter]))
    return float(ordered[first] + ordered[first + quarter]) / 2


def _moment(values: Floats, order: int) -> float:
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
    """Fall of the power from octave to octave, and the share along the axes."""
    power = scipy.fft.dctn(flat, norm="ortho") ** 2
    index, counts, axial = _octave_index(flat.shape)
    sums = np.bincount(index, power.ravel(), len(_OCTAVES) + 1)[1:-1]
    # How little noise there is says nothing of the specimen.
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


# -- focus, by tile -----------------------------------------------------------------------------


def _tile_px(shape: tuple[int, ...]) -> int:
    side = min(shape)
    return 32 if side < 256 else 64 if side < 1500 else 128


def _tile_focus(pixels: Pixels, tile_px: int) -> TileFocus:
    binned = _means(pixels, 2)
    tile = tile_px // 2
    growth = []
    for lag in (1, 2, 4):
        across = np.square(binned[:, lag:] - binned[:, :-lag])
        down = np.square(binned[lag:] - binned[:-lag])
        both = _pooled(across, tile, like=binned) + _pooled(down, tile, like=binned)
        growth.append(both * np.float32(0.25))
    one, two, four = growth
    by_chance = one * np.float32(3 / math.sqrt(2 * tile**2))
    return TileFocus(*(np.asarray(part) for part in (two - one, four - two, by_chance)))


def _sharpened(before: TileFocus, after: TileFocus) -> float:
    fine = (float(np.sum(np.maximum(each.fine - each.chance, 0))) for each in (before, after))
    raw, refocused = fine
    return math.log((refocused + 1e-3 * raw + 1e-6) / (raw + 1e-6))


def _kept(before: TileFocus, after: TileFocus) -> float:
    """One piece of debris, or one bright object, is a tile among many."""
    # Haze around few objects is structure that a good result takes away.
    told = after.structured if after.structured.any() else before.structured
    if not told.any():
        return 1.0
    # Far from focus, fine structure alone is next to nothing in raw and in the result.
    sharp = [np.maximum(each.fine[told] + each.coarse[told], 1e-6) for each in (before, after)]
    return float(np.median(sharp[0] / sharp[1]))


def _pooled(
    values: Floats, rows: int, columns: int | None = None, *, like: Floats | None = None
) -> Floats:
    """Means of tiles; those at the ends may be smaller.  `like` has the shape that tiles are cut from."""
    columns = columns or rows
    height, width = (like if like is not None else values).shape
    down = _starts(height, rows, values.shape[0])
    across = _starts(width, columns, values.shape[1])
    sums = np.add.reduceat(np.add.reduceat(values, down, axis=0), across, axis=1)
    counts = np.outer(
        np.diff(down, append=values.shape[0]), np.diff(across, append=values.shape[1])
    )
    return np.asarray(sums / counts, dtype=np.float32)


def _starts(side: int, step: int, have: int) -> NDArray[np.intp]:
    """Where tiles begin; a rest under half a tile goes to the one before it."""
    starts = np.arange(0, max(side - step // 2, 1), step)
    return starts[starts < have]


# -- raw and refocused --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Spectra:
    """Cosine transforms of a reduced frame before and after."""

    before: Floats
    after: Floats
    #: Of raw's structure, without its mean.
    power: float

    @classmethod
    def of(cls, before: Floats, after: Floats) -> _Spectra:
        one, two = (
            np.asarray(scipy.fft.dctn(frame, norm="ortho"), dtype=np.float32)
            for frame in (before, after)
        )
        return cls(one, two, float(np.vdot(one, one)) - float(one[0, 0]) ** 2)

    def gain(self, sigma: float) -> Floats:
        """Transfer function of a Gaussian."""
        rows, columns = (
            np.exp(-2 * (np.pi * sigma * np.arange(side) / (2 * side)) ** 2).astype(np.float32)
            for side in self.before.shape
        )
        return np.asarray(np.multiply.outer(rows, columns))

    def left(self, sigma: float) -> float:
        """Power that is left of raw when the other, blurred, is taken off; means aside."""
        off = self.before - self.gain(sigma) * self.after
        return float(np.vdot(off, off)) - float(off[0, 0]) ** 2

    def noise(self, deviation: float) -> float:
        """Power of noise of this standard deviation."""
        return deviation**2 * (self.before.size - 1)

    def blurred(self, sigma: float) -> tuple[Floats, Floats]:
        """The other, blurred, and its derivative by the logarithm of the width."""
        gain = self.gain(sigma)
        rows, columns = ((np.pi * np.arange(side) / side) ** 2 for side in self.before.shape)
        slope = -(sigma**2) * (rows[:, None] + columns[None, :]).astype(np.float32)
        blurred = gain * self.after
        again, by_width = (
            scipy.fft.idctn(spectrum, norm="ortho") for spectrum in (blurred, blurred * slope)
        )
        return np.asarray(again, dtype=np.float32), np.asarray(by_width, dtype=np.float32)


def _flux(before: Floats, again: Floats, base: float, tile: int) -> tuple[float, float]:
    """Light over the background, refocused over raw: of the frame, and its worst tile's change."""
    raw, refocused = (_pooled(frame, tile) - np.float32(base) for frame in (before, again))
    whole = float(raw.mean())
    if whole <= 1e-3:
        return 1.0, 0.0
    lit = raw > 0.5 * whole
    worst = float(np.max(np.abs(refocused[lit] / raw[lit] - 1))) if lit.any() else 0.0
    return float(refocused.mean()) / whole, worst
