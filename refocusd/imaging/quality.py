"""Measures how sharp a frame is, and how close a refocused frame comes to the truth.

| question | answered by |
|---|---|
| how sharp is this frame, without a reference? | `focus_score` |
| which plane of a stack is in focus? | `best_focus` of the planes' scores |
| how close is this frame to the in-focus one? | `compare`: PSNR, SSIM, Pearson |

May import `refocusd.errors` and `refocusd.frame` only.  SciPy and scikit-image
are imported where they are used: a worker scores every frame, needs only numpy for
that, and should not spend a second on importing the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.frame import Pixels

Image = NDArray[Any]

#: Pixels left out along each side before comparing: refocusing lacks the surroundings
#: there, and a registered frame has interpolated pixels.
BORDER = 16
#: Largest shift, px, by which a frame is registered to the in-focus one: beyond the
#: stage's drift between two planes, it would be a mismatch.
MAX_SHIFT = 8.0
#: Shifts below this (px) are ignored: interpolation would smooth the noise of
#: the frame and so change the figures that are compared.
MIN_SHIFT = 0.1
#: At most this many pixels of a frame are used for its focus score.
SCORED_PIXELS = 1 << 19
#: Rows of the bands in which a larger frame is sampled.
BAND_ROWS = 32
#: Side of the window of SSIM, px: a Gaussian of 1.5 px, cut at 3.5 sigma.
SSIM_SIDE = 11


@dataclass(frozen=True, slots=True)
class Quality:
    """How close a frame comes to the in-focus frame of the same field.

    Parameters
    ----------
    psnr_db : float
        Peak signal-to-noise ratio without rescaling, dB; infinite for equal frames.
    psnr_affine_db : float
        The same after the best offset and gain, dB.
    ssim : float
        Structural similarity, at most 1.
    pearson : float
        Correlation coefficient, -1 to 1.
    """

    psnr_db: float
    psnr_affine_db: float
    ssim: float
    pearson: float


def compare(image: Image, truth: Image, register: bool = True) -> Quality:
    """Compare one frame with the in-focus frame of the same field.

    Parameters
    ----------
    image, truth : ndarray of real numbers, shape (height, width)
        Camera counts, same shape.
    register : bool
        Shift `image` onto `truth` first (see `register`).

    Raises
    ------
    InputError
        If the shapes differ, or are too small to compare.
    """
    if register:
        image = shifted(image, _register(image, truth))
    return Quality(
        psnr_db=psnr(image, truth),
        psnr_affine_db=psnr(image, truth, affine=True),
        ssim=ssim(image, truth),
        pearson=pearson(image, truth),
    )


def psnr(image: Image, truth: Image, *, border: int = BORDER, affine: bool = False) -> float:
    """Peak signal-to-noise ratio in dB: 20 log10(range / RMS difference).

    The range is that between the 0.1st and the 99.9th percentile of the truth. It is
    not the largest possible count: a 12-bit camera would then gain 24 dB in a 16-bit file.

    Parameters
    ----------
    image, truth : ndarray of real numbers, shape (height, width)
    border : int
        Pixels left out along each side.
    affine : bool
        Compare ``a * image + b`` with the least-squares a and b, as CARE does
        (Weigert et al. 2018, Nat. Methods 15:1090), so that a wrong gain or offset
        does not count.

    Returns
    -------
    float
        dB; infinite if the frames are equal.

    Raises
    ------
    InputError
        If the shapes differ, or nothing is left within the border.
    """
    x, y = _cropped(image, truth, border, 1)
    if affine:
        centred = x - x.mean()
        power = float(np.vdot(centred, centred))
        gain = float(np.vdot(centred, y)) / power if power > 0 else 0.0
        x = gain * centred + y.mean()
    error = float(np.mean((x - y) ** 2))
    scale = _range(y)
    # If the frames are equal, the fit leaves rounding errors.
    if error <= (1e-9 * scale) ** 2:
        return math.inf
    return 20 * math.log10(scale) - 10 * math.log10(error)


def ssim(image: Image, truth: Image, *, border: int = BORDER) -> float:
    """Mean structural similarity (Wang et al. 2004, IEEE T-IP 13:600).

    With the paper's Gaussian window of 1.5 px and the range of `psnr`.

    Parameters
    ----------
    image, truth : ndarray of real numbers, shape (height, width)
    border : int
        Pixels left out along each side.

    Raises
    ------
    InputError
        If the shapes differ, or less than 11 px is left within the border.
    """
    from skimage import metrics

    x, y = _cropped(image, truth, border, SSIM_SIDE)
    similarity: Any = metrics.structural_similarity
    return float(
        similarity(
            x,
            y,
            data_range=_range(y),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def pearson(image: Image, truth: Image, *, border: int = BORDER) -> float:
    """Pearson's correlation coefficient; 0 if either frame is constant.

    Parameters
    ----------
    image, truth : ndarray of real numbers, shape (height, width)
    border : int
        Pixels left out along each side.

    Raises
    ------
    InputError
        If the shapes differ, or nothing is left within the border.
    """
    x, y = _cropped(image, truth, border, 1)
    return _correlation(x, y)


def register(image: Image, truth: Image, *, max_shift: float = MAX_SHIFT) -> tuple[float, float]:
    """Shift, in px, that moves `image` onto `truth`; (0, 0) if none is plausible.

    The peak of the cross-correlation, to 1/20 px (Guizar-Sicairos et al. 2008,
    Opt. Lett. 33:156).  Correlation is not whitened, as it is in phase
    correlation proper: whitening would amplify frequencies at which a defocused
    frame has nothing but noise.

    A shift is implausible, and (0, 0) is returned, if it is above `max_shift`,
    below 0.1 px, or does not make the frames more alike.

    Parameters
    ----------
    image, truth : ndarray of real numbers, shape (height, width)
    max_shift : float
        Largest shift along either axis, px.

    Returns
    -------
    (float, float)
        Down and right, px; the argument of `shifted`.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    from scipy.signal import windows
    from skimage import registration

    x, y = _cropped(image, truth, 0, 1)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0, 0.0
    # The transform treats a frame as periodic: without a window its edges,
    # which do not move, would keep the peak at zero.
    window = np.outer(*(windows.tukey(side, 0.25) for side in x.shape))
    correlate: Any = registration.phase_cross_correlation
    shift, _, _ = correlate(
        (y - y.mean()) * window, (x - x.mean()) * window, upsample_factor=20, normalization=None
    )
    dy, dx = (float(value) for value in shift)
    if max(abs(dy), abs(dx)) > max_shift or max(abs(dy), abs(dx)) < MIN_SHIFT:
        return 0.0, 0.0
    margin = math.ceil(max_shift)
    if min(x.shape) <= 2 * margin:
        return 0.0, 0.0
    inner = (slice(margin, -margin), slice(margin, -margin))
    moved = shifted(x, (dy, dx))
    if _correlation(moved[inner], y[inner]) <= _correlation(x[inner], y[inner]):
        return 0.0, 0.0
    return dy, dx


_register = register


def shifted(image: Image, shift: tuple[float, float]) -> Image:
    """Move an image down and right by `shift` px, by cubic splines.

    Parameters
    ----------
    image : ndarray of real numbers, shape (height, width)
    shift : (float, float)
        Down and right, px.  For (0, 0) the image itself is returned.

    Returns
    -------
    ndarray, shape (height, width)
        float64; pixels moved in from outside repeat the edge.
    """
    from scipy import ndimage

    if shift == (0.0, 0.0):
        return image
    return np.asarray(ndimage.shift(image.astype(np.float64), shift, order=3, mode="nearest"))


def focus_score(pixels: Pixels) -> float:
    """How sharp a frame is: larger is sharper, 0 for a constant frame.

    Vollath's F4, the autocorrelation at one pixel minus that at two (D. Vollath
    1987, J. Microsc. 147:279), of the 2x2 binned frame, over the
    autocovariance at one pixel.  The noise of a pixel is independent of its
    neighbour's, so it adds to the autocorrelation at lag zero only: shot
    noise, read noise, hot pixels and camera rows all cancel (D. Vollath 1988,
    J. Microsc. 151:133), and need not be estimated. Three standard errors of
    their random remainder are subtracted.  The ratio depends on neither
    the offset nor the gain of the camera counts.

    Frames above half a megapixel are sampled in evenly spaced bands of 32 rows,
    so that a score takes about 1 ms at any size.

    Parameters
    ----------
    pixels : ndarray of uint8 or uint16, shape (height, width)

    Returns
    -------
    float
        Dimensionless; roughly 0.05-0.2 for sharp fluorescence at 0.65 um per pixel,
        below 0.015 at 30 um of defocus.  Comparable between frames of one
        field and one microscope, not between microscopes.
    """
    bands = _bands(pixels)
    rows, columns = bands.shape[1] // 2 * 2, bands.shape[2] // 2 * 2
    bands = bands[:, :rows, :columns]
    binned = bands[:, 0::2, 0::2].astype(np.float32)
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        binned += bands[:, dy::2, dx::2]
    binned -= binned.mean(dtype=np.float64)
    variance = _mean_square(binned)
    # E[(b(x+k) - b(x))^2] / 2 = R(0) - R(k): the differences give R(1) - R(2)
    # without the cancellation of two large sums.
    lag_1, lag_2 = (
        (
            _mean_square(binned[:, lag:] - binned[:, :-lag])
            + _mean_square(binned[:, :, lag:] - binned[:, :, :-lag])
        )
        / 4
        for lag in (1, 2)
    )
    if lag_1 <= 0 or variance <= 0:
        return 0.0
    # R(0) - R(1) holds the noise, and in a sharp frame some signal: it is an upper bound.
    by_chance = 3 * lag_1 / math.sqrt(binned.size)
    sharp = lag_2 - lag_1 - by_chance
    # A frame of noise alone has R(1) near zero: adding a fraction of the noise keeps
    # the ratio bounded there.
    return max(0.0, sharp) / (max(0.0, variance - lag_1) + 0.1 * lag_1)


def best_focus(scores: Sequence[float]) -> int:
    """Index of the sharpest plane; the first one if several are equal.

    Raises
    ------
    InputError
        If there is no plane.
    """
    if not scores:
        raise InputError(
            "no plane to find the focus in: the stack is empty; give one with at least one plane"
        )
    return max(range(len(scores)), key=lambda index: scores[index])


def _bands(pixels: Pixels) -> NDArray[Any]:
    """View of evenly spaced bands of rows, shape (bands, rows, columns)."""
    height, width = pixels.shape
    if pixels.size <= SCORED_PIXELS:
        return pixels[np.newaxis]
    # At least eight, so that a very wide frame is still sampled in more than one place.
    count = max(8, SCORED_PIXELS // (BAND_ROWS * width))
    pitch = height // count
    if pitch < BAND_ROWS:
        return pixels[np.newaxis]
    return pixels[: count * pitch].reshape(count, pitch, width)[:, :BAND_ROWS]


def _mean_square(values: NDArray[np.float32]) -> float:
    flat = values.ravel()
    return float(np.vdot(flat, flat)) / flat.size


def _cropped(
    image: Image, truth: Image, border: int, smallest: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both frames as float64 without their border."""
    if image.shape != truth.shape or image.ndim != 2:
        raise InputError(
            f"cannot compare a frame of shape {image.shape} with one of shape {truth.shape}: "
            "compare frames of the same field, camera region and binning"
        )
    if min(image.shape) < 2 * border + smallest:
        raise InputError(
            f"a frame of {image.shape[1]}×{image.shape[0]} px is too small to compare without its "
            f"border of {border} px: at least {2 * border + smallest} px a side are needed"
        )
    inner = slice(border, -border or None)
    return image[inner, inner].astype(np.float64), truth[inner, inner].astype(np.float64)


def _range(truth: NDArray[np.float64]) -> float:
    low, high = np.percentile(truth, (0.1, 99.9))
    # A constant truth has no range; a range of one count keeps the figures finite.
    return float(high - low) or 1.0


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    a, b = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(np.vdot(a, a)) * float(np.vdot(b, b)))
    return float(np.vdot(a, b)) / norm if norm > 0 else 0.0


#: Figures of the comparison: heading in the table, key in JSON, digits in both.
QUALITIES = (
    ("PSNR dB", "psnr_db", ".1f", ".3f"),
    ("affine dB", "psnr_affine_db", ".1f", ".3f"),
    ("SSIM", "ssim", ".2f", ".4f"),
    ("Pearson", "pearson", ".2f", ".4f"),
    ("focus score", "focus_score", ".2g", ".4g"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Raw and refocused frames compared with the in-focus plane: one frame, or the mean of a level.

    Parameters
    ----------
    level : float
        Distance from focus, in the unit given to `as_json`.
    before, after : ndarray of float64, shape (5,)
        Of the raw and of the refocused frame, in the order of the table: PSNR and affine PSNR (dB),
        SSIM, Pearson correlation, focus score.
    frames : int
        How many the figures are the mean of.
    """

    level: float
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    frames: int = 1

    def as_json(self, unit: str) -> dict[str, Any]:
        """The figures with their units in the keys."""
        figures: dict[str, Any] = {f"defocus_{unit}": self.level, "frames": self.frames}
        for index, (_, key, _, digits) in enumerate(QUALITIES):
            for when, values in (("before", self.before), ("after", self.after)):
                figures[f"{key}_{when}"] = float(format(values[index], digits))
        return figures


def by_level(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Means for each level, in order of the level."""
    levels = []
    for level in sorted({c.level for c in comparisons}):
        own = [c for c in comparisons if c.level == level]
        before, after = _mean([c.before for c in own]), _mean([c.after for c in own])
        levels.append(Comparison(level, before, after, len(own)))
    return levels


def compare_frames(
    level: float, raw: Pixels, refocused: Pixels, truth: NDArray[Any], *, register: bool
) -> Comparison:
    """Compare one frame before and after with the in-focus plane.

    Parameters
    ----------
    level : float
        Distance of the frame from the in-focus plane.
    raw, refocused : ndarray of uint8 or uint16
    truth : ndarray
        The in-focus plane, same shape.
    register : bool
        Shift both onto the truth first, because a real stage drifts between planes.
    """

    def figures(pixels: Pixels) -> NDArray[np.float64]:
        q = compare(pixels, truth, register=register)
        return np.array([q.psnr_db, q.psnr_affine_db, q.ssim, q.pearson, focus_score(pixels)])

    return Comparison(level, figures(raw), figures(refocused))


def _mean(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Column means without infinite values: a frame equal to the truth would hide the others' PSNR."""
    values = np.array(rows)
    finite = np.isfinite(values)
    means: NDArray[np.float64] = values.mean(0, where=finite | ~finite.any(0))
    return means
