"""Width of a frame's blur, in pixels, estimated from the frame alone.

The width is the standard deviation of the Gaussian whose transfer function falls to one half
at the same spatial frequency.  If the optics or a measured PSF are known, `BlurEstimate.shape` holds
the form of the transfer function.

A network of a few thousand weights estimates the width of a single frame from three kinds of
features: the power spectrum in 48 logarithmic rings, and the steepest edges and the kurtosis of
the gradients at seven scales, all relative to the frame's contrast.  Hot pixels are first replaced by
their neighbours' mean, and clipped pixels do not count as edges.  The network states its own
uncertainty.  ``PROVENANCE.md`` describes how it was trained and how accurate it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import ClassVar, Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from refocusd.frame import Pixels
from refocusd.imaging.hot_pixels import pixel_noise, without_hot_pixels
from refocusd.imaging.tiles import means

Floats = NDArray[np.float32]

#: Edges of the rings of the power spectrum, cycles per pixel.
_RINGS = np.exp(np.linspace(math.log(1 / 400), math.log(0.5), 49))
#: Number of scales at which gradients are taken, each half as fine as the one before.
_SCALES = 7
#: Length of what `blur_features` returns.
FEATURES = 48 + 2 * _SCALES + 2
#: Larger frames are judged by the two tiles of this side, px, that have the most structure.
_TILE_PX = 768
#: Frames with a shorter side are too small for an estimate, px.
MIN_SIDE_PX = 32
#: A Gaussian's transfer function is one half at this many cycles per standard deviation.
_HALF = math.sqrt(2 * math.log(2)) / (2 * math.pi)
#: Range of widths that the network was trained on, px.
TRAINED_PX = (0.7, 42.0)
#: Relative standard uncertainty of a width that the user stated.
KNOWN = 0.1
#: The same if the user stated the PSF.
KNOWN_FORM = 0.03
#: The form of an automatically measured PSF is used only if the width is known to this relative uncertainty
#: and is at least this wide, px: otherwise some frames become worse.
STACK_SURE, LEAST_STACK_PX = 0.1, 9.0
#: Where a width comes from; "optics" is a width that the user stated, which is always trusted.
BlurSource = Literal["frame", "frames", "optics", "profile", "stack", "nominal", "memory"]


@dataclass(frozen=True, slots=True)
class PsfShape:
    """The form of a PSF, independent of its width.

    Parameters
    ----------
    gains : tuple of float
        Its transfer function along a radius at the frequencies `CYCLES`; 0 beyond them.
    """

    #: Spatial frequency times `BlurEstimate.sigma_px`.
    CYCLES: ClassVar[NDArray[np.float64]] = np.linspace(0, 2, 65)

    gains: tuple[float, ...]

    def gain(self, cycles: NDArray[np.float64]) -> NDArray[np.float64]:
        """The transfer function at `cycles`, which are frequency times width."""
        return np.asarray(np.interp(cycles, self.CYCLES, self.gains, right=0.0))


@dataclass(frozen=True, slots=True)
class BlurEstimate:
    """The width of a frame's blur.

    Parameters
    ----------
    sigma_px : float
        Standard deviation of the Gaussian whose transfer function is one half at the same
        frequency, in pixels.
    uncertainty : float
        Standard uncertainty (k = 1) of its natural logarithm: 0.2 means about 20 %.
    source : str
        Its main source: ``frame``; ``frames`` (with the widths of earlier frames); ``profile`` (the
        PSF that a calibration measured); ``stack`` (a PSF measured automatically on a z-stack of
        the microscope); ``nominal`` (aperture and distance from focus); ``memory``
        (other positions, or an earlier session); or ``optics`` (the user stated the width).
    shape : PsfShape or None
        The form of the PSF; None means a Gaussian.
    """

    sigma_px: float
    uncertainty: float
    source: BlurSource
    shape: PsfShape | None = None


def estimate_blur(raw: Pixels) -> BlurEstimate | None:
    """Estimate the blur from the frame alone; about 15 ms for 696×520 px on one core.

    Parameters
    ----------
    raw : ndarray of uint8 or uint16, shape (height, width)

    Returns
    -------
    BlurEstimate or None
        None if the frame shows no structure above its noise, or one of its sides is under 32 px.
    """
    if min(raw.shape) < MIN_SIDE_PX or not _has_structure(raw):
        return None
    features = blur_features(raw)
    if features is None:
        return None
    values = features
    layers = _layers()
    for index, (weight, bias) in enumerate(layers):
        values = weight @ values + bias
        if index < len(layers) - 1:
            values = values / (1 + np.exp(-values))
    log_sigma = float(np.clip(values[0], *np.log(TRAINED_PX)))
    return BlurEstimate(math.exp(log_sigma), math.exp(float(np.clip(values[1], -4, 2))), "frame")


def fused(known: BlurEstimate, alone: BlurEstimate) -> BlurEstimate:
    """Combine a prior with the estimate from one frame, weighted by their uncertainties.

    If they contradict each other, the focus has changed, or it is a different microscope, and
    only the frame counts.
    """
    if contradict(known, alone):
        return alone
    apart = math.log(alone.sigma_px / known.sigma_px)
    weights = known.uncertainty**-2, alone.uncertainty**-2
    sigma = known.sigma_px * math.exp(apart * weights[1] / sum(weights))
    leads = known.source == "frames" or weights[0] > weights[1]
    source = known.source if leads else alone.source
    return BlurEstimate(sigma, sum(weights) ** -0.5, source, known.shape)


def contradict(one: BlurEstimate, other: BlurEstimate) -> bool:
    """Whether two widths differ by more than three standard uncertainties.

    Two are enough if `one` does not come from a frame of the stream: it may belong to another focus.
    """
    apart = math.log(other.sigma_px / one.sigma_px)
    limit = 3 if one.source in ("frame", "frames") else 2
    return abs(apart) > limit * math.hypot(one.uncertainty, other.uncertainty)


def _has_structure(raw: Pixels) -> bool:
    """Whether means of four by four pixels differ by more than noise explains."""
    step = 4 * max(1, raw.size >> 20)
    rows = np.concatenate([raw[at : at + 4] for at in range(0, raw.shape[0] - 3, step)])
    frame = rows[:, : rows.shape[1] // 4 * 4].astype(np.float32)
    low, high = np.percentile(means(means(frame, 2), 2), (2, 99.8))
    return bool(high - low > max(2 * pixel_noise(frame), 1.0))


def half_width_sigma(psf: NDArray[np.floating]) -> float | None:
    """Width of a radially symmetric PSF as `BlurEstimate.sigma_px`.

    Parameters
    ----------
    psf : ndarray, shape (size, size)
        Odd square, centred, sum 1.

    Returns
    -------
    float or None
        None if its transfer function is above one half up to the Nyquist frequency.
    """
    frequencies = np.linspace(0, 0.5, 1025)
    transfer = radial_transfer(psf, frequencies)
    below = np.flatnonzero(transfer < 0.5)
    if not len(below):
        return None
    at = int(below[0])
    crossing = np.interp(0.5, transfer[[at, at - 1]], frequencies[[at, at - 1]])
    return _HALF / float(crossing)


def radial_transfer(
    psf: NDArray[np.floating], frequencies: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Transfer function of a radially symmetric PSF, 1 at frequency 0.

    Parameters
    ----------
    psf : ndarray, shape (size, size)
        Odd square, centred.
    frequencies : ndarray, shape (n,)
        Cycles per pixel.

    Returns
    -------
    ndarray of float64, shape (n,)
        0 above the Nyquist frequency, 0.5 cycles per pixel.
    """
    # Projection-slice theorem: the transform of the projection is that of the PSF along one axis.
    line = psf.sum(axis=0, dtype=np.float64)
    half = len(line) // 2
    transfer = np.cos(2 * np.pi * frequencies[:, None] * np.arange(-half, half + 1)) @ line
    return np.where(frequencies <= 0.5, transfer / line.sum(), 0.0)


def blur_features(raw: Pixels) -> Floats | None:
    """Features that the width is estimated from; they do not depend on the camera's gain and offset.

    Parameters
    ----------
    raw : ndarray of uint8 or uint16, shape (height, width)

    Returns
    -------
    ndarray of float32, shape (FEATURES,), or None
        None if the frame is too small or shows no structure, see `estimate_blur`.
    """
    if raw.ndim != 2 or min(raw.shape) < MIN_SIDE_PX:
        return None
    tiles = [_tile_features(tile) for tile in _tiles(raw)]
    found = [tile for tile in tiles if tile is not None]
    return np.asarray(np.mean(found, axis=0), dtype=np.float32) if found else None


def _tiles(raw: Pixels) -> list[Pixels]:
    height, width = (min(side, _TILE_PX) for side in raw.shape)
    if (height, width) == raw.shape:
        return [raw]
    tiles = [
        raw[top : top + height, left : left + width]
        for top in range(0, raw.shape[0] - height + 1, height)
        for left in range(0, raw.shape[1] - width + 1, width)
    ]
    return sorted(tiles, key=lambda tile: -float(np.std(tile[::4, ::4])))[:2]


def _tile_features(raw: Pixels) -> Floats | None:
    frame = without_hot_pixels(raw)
    noise = pixel_noise(frame)
    clipped = _clipped(raw)
    share = float(clipped.mean()) if clipped is not None else 0.0
    pooled = means(frame, 2)
    low, high = np.percentile(pooled[:: 1 + pooled.shape[0] // 300], (2, 99.8))
    contrast = float(high - low)
    if contrast <= max(noise, 1e-3):
        return None
    edges, kurtosis = _gradients(frame, clipped, contrast)
    return np.concatenate(
        [
            _spectrum(frame),
            edges,
            kurtosis,
            np.array([math.log(max(noise, 1e-3) / contrast) / 3 + 1, min(20 * share, 3.0)]),
        ]
    ).astype(np.float32)


def _clipped(raw: Pixels) -> NDArray[np.bool_] | None:
    """Pixels at the end of the camera's scale; None if there are none.

    The largest count of a frame counts as that end if more than a few pixels have it.
    """
    top = raw.max()
    clipped = np.asarray(raw == top)
    return clipped if np.count_nonzero(clipped) > max(16, 1e-4 * raw.size) else None


def _gradients(
    frame: Floats, clipped: NDArray[np.bool_] | None, contrast: float
) -> tuple[Floats, Floats]:
    """Steepest edges relative to the contrast, and kurtosis of gradients, at each scale."""
    edges, kurtosis = np.zeros(_SCALES, np.float32), np.zeros(_SCALES, np.float32)
    usable = np.ones(frame.shape, np.float32) if clipped is None else 1 - clipped.astype(np.float32)
    for scale in range(_SCALES):
        if scale:
            if min(frame.shape) < 12:
                edges[scale], kurtosis[scale] = edges[scale - 1], kurtosis[scale - 1]
                continue
            frame = means(frame, 2)
            usable = (
                means(usable, 2)
                if clipped is not None
                else usable[: frame.shape[0], : frame.shape[1]]
            )
        step = 2 if frame.size > 1 << 16 else 1
        across = frame[:-1:step, 1:] - frame[:-1:step, :-1]
        down = frame[1::step, :-1] - frame[:-1:step, :-1]
        squares = across**2
        mean = float(squares.mean()) + 1e-12
        kurtosis[scale] = math.log(float((squares**2).mean()) / mean**2 + 1e-3) / 2 - 1
        squares += down**2
        if clipped is not None:
            squares *= usable[:-1:step, :-1] > 0.99
        place = int(0.995 * (squares.size - 1))
        steep = float(np.partition(squares, place, axis=None)[place])
        edges[scale] = math.log(math.sqrt(steep) / contrast + 1e-4) / 2 + 1
    return edges, kurtosis


def _spectrum(frame: Floats) -> Floats:
    """Logarithm of the power in each ring, relative to the strongest ring."""
    rings = _Rings.of(frame.shape)
    values = frame - np.float32(np.average(frame[::2, ::2]))
    values *= rings.window
    values -= rings.window * np.float32(values.sum() / rings.window.sum())
    transformed = scipy.fft.rfft2(values).ravel()
    power = transformed.real**2 + transformed.imag**2
    sums = np.bincount(rings.index, power, len(_RINGS))[: len(_RINGS) - 1]
    known = rings.counts > 0
    logs = np.log(np.maximum(sums[known] / rings.counts[known], 1e-12))
    places = np.arange(len(known))
    filled = np.interp(places, places[known], logs)
    return np.asarray(np.clip(filled - filled.max(), -16, 0) / 5 + 1.5, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Rings:
    """Rings of a frame's half-spectrum."""

    window: Floats
    index: NDArray[np.intp]
    counts: NDArray[np.intp]

    @staticmethod
    @lru_cache(maxsize=4)
    def of(shape: tuple[int, int]) -> _Rings:
        """The rings of frames of this shape."""
        height, width = shape
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
        last = len(_RINGS) - 1
        index = np.digitize(frequency.ravel(), _RINGS) - 1
        index[(index < 0) | (index >= last)] = last
        counts = np.bincount(index, minlength=last + 1)[:last]
        window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
        return _Rings(window.astype(np.float32), index, counts)


@lru_cache(maxsize=1)
def _layers() -> tuple[tuple[Floats, Floats], ...]:
    """Weights and biases of the shipped network."""
    with (
        resources.files("refocusd.imaging").joinpath("blur_weights.npz").open("rb") as stream,
        np.load(stream, allow_pickle=False) as stored,
    ):
        count = len(stored.files) // 2
        return tuple((stored[f"weight{index}"], stored[f"bias{index}"]) for index in range(count))
