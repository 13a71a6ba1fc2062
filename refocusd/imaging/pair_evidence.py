"""Evidence from a raw frame and its refocused frame together: whether the refocused frame explains raw.

================================  ==================================================================
question                          formula, and its source
================================  ==================================================================
is it in focus already?           structure function of 2×2 binned pixels at lags of 1, 2 and 4, by
                                  tile, see `refocusd.imaging.tiles`
does it explain raw?              refocused frame, blurred again, against raw: width fitted, residual
                                  map and share that is not explained (S. Culley et al., Nat. Methods
                                  15, 263, 2018), normalised by the noise and by 10 % of the width (χ²)
is the light still where it was?  light of the refocused frame, blurred again, over that of raw, by
                                  tile
how much of it is a guess?        power of the refocused frame at frequencies that the blur hardly
                                  passes; width of the engine's own intervals, over the frame's range
================================  ==================================================================

With `refocusd.imaging.field_evidence`, this takes about 10 ms on one core for a frame of 696×520 px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate
from refocusd.imaging.field_evidence import FieldEvidence, moment, noise_variance
from refocusd.imaging.tiles import TileFocus, means, pooled, tile_focus

Floats = NDArray[np.float32]

#: Side of the cells of the residual maps, px.
CELL_PX = 16
#: Expected error, over the contrast, of engines that state none: about the usual error.
UNTOLD = 0.05
#: Bands that a Gaussian blur attenuates to 2 % to 0.01 %, and to nothing, in cycles per standard deviation.
_FINE = ((0.45, 0.7), (1.2, 3.0))
#: For fine structure, the frame is reduced as far as the blur stays this wide, and cut to at most this side, px.
_FINE_AT_PX, _FINE_SIDE_PX = 3.0, 512
#: Half-width of an interval, over the range, for an expected error of 10 %: it holds 90 % of a normal variable.
_WIDE_SHARE = 0.1645
#: A change of light in a tile is relative to its light, or to this fraction of the brightest tile's light.
_OF_BRIGHTEST = 0.4
#: Relative misfit of the width that does not count against a frame, because the width is hardly known better.
_WIDTH = 0.1
#: Widths that are tried: relative to the stated one, and, if none is stated, in px.
_ABOUT = tuple(2.0 ** (step / 3) for step in range(-3, 4))
_BLIND_PX = tuple(1.25**step for step in range(18))


@dataclass(frozen=True, slots=True, eq=False)
class PairEvidence:
    """Evidence from a raw and a refocused frame together.

    Parameters
    ----------
    blur_px : float
        Width of the Gaussian blur of the refocused frame that explains raw best, px.
    stated_px : float
        Width of the blur that the engine assumed, px; `blur_px` if it stated none.
    uncertainty : float
        Relative uncertainty of that width, at most 1; 1 if the engine stated none.
    unexplained : float
        Share of raw's structure that the refocused frame does not explain; 0 or more, possibly above 1.
    unexplained_as_stated : float
        The same with the width that the engine assumed.
    chi2 : float
        Median over cells of the normalised squared residual; 1 for noise alone.
    worst_chi2 : float
        Its 98th percentile.
    residuals : ndarray of float32, shape (rows, columns)
        χ² by cell of `CELL_PX` pixels.
    light : ndarray of float32, same shape
        Mean of the refocused frame above its background, over raw's contrast.
    flux : float
        Light of the refocused frame over that of raw.
    worst_flux : float
        Largest relative change of light in a tile with at least half of the mean light.
    sharpened : float
        Natural logarithm of the fine structure of the refocused frame over that of raw.
    kept : float
        Median over tiles of the sharpness of raw over that of the refocused frame.
    undershoot : float
        Share of the refocused frame that is darker than anything in raw.
    expected_error : float
        Error that the engine expects in its result, over the frame's contrast; `UNTOLD` if it
        states none.
    range : float
        Range of the refocused frame (percentiles 0.1 to 99.9 of its means), over the frame's contrast.
    lit : float
        Share of the refocused frame that is above a quarter of its range.
    kurtosis : float
        Kurtosis of the refocused frame's counts.
    fine, finest : float
        Structure of the refocused frame at frequencies that the blur hardly passes, and that it does not
        pass (`_FINE`): root mean square over the range of its pixels.
    width : float
        Median half-width of the engine's intervals, over the same range; `UNTOLD` if it states none.
    wide : float
        Share of pixels whose interval is wider than that of an expected error of 10 % of the range.
    lopsided : float
        How much further intervals reach up than down, over their half-width, -2 to 2.
    """

    blur_px: float
    stated_px: float
    uncertainty: float
    unexplained: float
    unexplained_as_stated: float
    chi2: float
    worst_chi2: float
    residuals: Floats
    light: Floats
    flux: float
    worst_flux: float
    sharpened: float
    kept: float
    undershoot: float
    expected_error: float
    range: float
    lit: float
    kurtosis: float
    fine: float
    finest: float
    width: float
    wide: float
    lopsided: float


def examine_pair(
    field: FieldEvidence,
    raw: Pixels,
    refocused: Pixels,
    blur: BlurEstimate | None,
    expected_error: float | None = None,
    interval: Floats | None = None,
) -> PairEvidence:
    """Compare a refocused frame with raw.

    Parameters
    ----------
    field : FieldEvidence
        Evidence from `raw`.
    raw, refocused : ndarray of uint8 or uint16, shape (height, width)
    blur : BlurEstimate or None
        The blur that the engine assumed.
    expected_error : float, optional
        `refocusd.engines.engine.Refocused.expected_error`, in counts.
    interval : ndarray of float32, shape (2, rows, columns), optional
        `refocusd.engines.engine.Refocused.interval`, in counts.
    """
    factor, before = field.factor, field.small
    after = means(refocused, factor)
    focus = tile_focus(refocused, field.tile_px)
    spectra = _Spectra.of(before, after)
    stated = blur.sigma_px if blur is not None else None
    blur_px, unexplained, as_stated = _least_unexplained(spectra, field, stated)
    again, cells = _blurred_again(spectra, field, raw, blur_px)
    base = float(np.percentile(before, 1))
    light = pooled(after, CELL_PX // factor) - np.percentile(after, 1)
    changed, worst = _flux(before, again, base, field.tile_px // factor)
    floor = base - 3 * field.noise / factor - 0.02 * field.contrast
    low, high = np.percentile(after, (0.1, 99.9))
    range_, contrast = max(float(high - low), 1e-3), max(field.contrast, 1e-3)
    ends = np.percentile(refocused[::2, ::2], (0.1, 99.9))
    full_range = max(float(ends[1] - ends[0]), 1.0)
    fine, finest = (part / full_range for part in _fine(refocused, stated or blur_px))
    width, wide, lopsided = _widths(interval, full_range)
    return PairEvidence(
        blur_px=blur_px,
        stated_px=blur_px if stated is None else stated,
        uncertainty=min(blur.uncertainty, 1.0) if blur is not None else 1.0,
        unexplained=unexplained,
        unexplained_as_stated=as_stated,
        chi2=float(np.median(cells)),
        worst_chi2=float(np.percentile(cells, 98)),
        residuals=cells,
        light=np.asarray(light / contrast, dtype=np.float32),
        flux=changed,
        worst_flux=worst,
        sharpened=_sharpened(field.focus, focus),
        kept=_kept(field.focus, focus),
        undershoot=float(np.mean(after < floor)),
        expected_error=UNTOLD if expected_error is None else expected_error / contrast,
        range=range_ / contrast,
        lit=float(np.mean(after > low + 0.25 * range_)),
        kurtosis=moment(after, 4),
        fine=fine,
        finest=finest,
        width=width,
        wide=wide,
        lopsided=lopsided,
    )


def _blurred_again(
    spectra: _Spectra, field: FieldEvidence, raw: Pixels, blur_px: float
) -> tuple[Floats, Floats]:
    """The reduced refocused frame, blurred again, and χ² of raw against it, by cell."""
    again, slope = spectra.blurred(blur_px / field.factor)
    residual = np.where(field.hot, np.float32(0), field.small - again)
    variance = noise_variance(raw, field) / field.factor**2 + (_WIDTH * slope) ** 2
    far = np.asarray(residual**2 / variance, dtype=np.float32)
    return again, pooled(far, CELL_PX // field.factor)


def _least_unexplained(
    spectra: _Spectra, field: FieldEvidence, stated: float | None
) -> tuple[float, float, float]:
    """The width that explains most of raw, px, and the shares that it and `stated` leave unexplained.

    Without a stated width, the shares are the same.
    """
    tried = _BLIND_PX if stated is None else tuple(stated * part for part in _ABOUT)
    left = [spectra.left(width / field.factor) for width in tried]
    best = int(np.argmin(left))
    noise = spectra.noise(field.noise / field.factor)
    known = max(spectra.power - noise, 1e-6)
    share = [max(each - noise, 0.0) / known for each in left]
    as_stated = share[best] if stated is None else share[len(_ABOUT) // 2]
    return tried[best], share[best], as_stated


def _fine(refocused: Pixels, sigma_px: float) -> list[float]:
    """Root mean square of the middle of a frame in each band of `_FINE`, counts."""
    step = max(1, int(sigma_px / _FINE_AT_PX))
    most = _FINE_SIDE_PX * step
    rows, columns = (slice(max(0, side - most) // 2, None) for side in refocused.shape)
    part = means(refocused[rows, columns][:most, :most], step)
    power = scipy.fft.dctn(part, norm="ortho") ** 2
    down, across = (np.arange(side) / (2 * side) for side in part.shape)
    cycles = np.hypot(down[:, None], across) * (sigma_px / step)
    return [
        math.sqrt(float(np.sum(power[(cycles >= low) & (cycles < high)])) / power.size)
        for low, high in _FINE
    ]


def _widths(interval: Floats | None, full_range: float) -> tuple[float, float, float]:
    """`width`, `wide` and `lopsided` of a frame, see `PairEvidence`."""
    if interval is None:
        return UNTOLD, 0.0, 0.0
    under, over = interval
    half = (under + over) * np.float32(0.5 / full_range)
    further = float(over.mean() - under.mean()) / (full_range * float(half.mean()) + 1e-6)
    width = float(np.median(half))
    return width, float(np.mean(half > _WIDE_SHARE)), min(max(further, -2.0), 2.0)


def _sharpened(before: TileFocus, after: TileFocus) -> float:
    fine = (float(np.sum(np.maximum(each.fine - each.chance, 0))) for each in (before, after))
    raw, refocused = fine
    return math.log((refocused + 1e-3 * raw + 1e-6) / (raw + 1e-6))


def _kept(before: TileFocus, after: TileFocus) -> float:
    """`PairEvidence.kept`; in a median, one piece of debris or one bright object is one tile of many."""
    # Haze around few objects is structure that a good result removes.
    told = after.structured if after.structured.any() else before.structured
    if not told.any():
        return 1.0
    # Far from focus, there is hardly any fine structure in either frame, so coarse structure counts, too.
    sharp = [np.maximum(each.fine[told] + each.coarse[told], 1e-6) for each in (before, after)]
    return float(np.median(sharp[0] / sharp[1]))


@dataclass(frozen=True, slots=True, eq=False)
class _Spectra:
    """Cosine transforms of the reduced raw and refocused frames."""

    before: Floats
    after: Floats
    #: Power of raw without its mean.
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
        """Power of raw minus the blurred refocused frame, without means."""
        off = self.before - self.gain(sigma) * self.after
        return float(np.vdot(off, off)) - float(off[0, 0]) ** 2

    def noise(self, deviation: float) -> float:
        """Power of noise of this standard deviation."""
        return deviation**2 * (self.before.size - 1)

    def blurred(self, sigma: float) -> tuple[Floats, Floats]:
        """The refocused frame, blurred, and its derivative by the logarithm of the width."""
        gain = self.gain(sigma)
        rows, columns = ((np.pi * np.arange(side) / side) ** 2 for side in self.before.shape)
        slope = -(sigma**2) * (rows[:, None] + columns[None, :]).astype(np.float32)
        blurred = gain * self.after
        again, by_width = (
            scipy.fft.idctn(spectrum, norm="ortho") for spectrum in (blurred, blurred * slope)
        )
        return np.asarray(again, dtype=np.float32), np.asarray(by_width, dtype=np.float32)


def _flux(before: Floats, again: Floats, base: float, tile: int) -> tuple[float, float]:
    """Light above the background, refocused over raw, and its largest relative change in a tile.

    Changes in dim tiles are relative to a fraction of the brightest tile's light, because the tail of a
    PSF throws light there that a Gaussian does not.
    """
    raw, refocused = (pooled(frame, tile) - np.float32(base) for frame in (before, again))
    whole = float(raw.mean())
    if whole <= 1e-3:
        return 1.0, 0.0
    lit = raw > 0.5 * whole
    against = np.maximum(raw, np.float32(_OF_BRIGHTEST * raw.max()))
    worst = float(np.max((np.abs(refocused - raw) / against)[lit])) if lit.any() else 0.0
    return float(refocused.mean()) / whole, worst
