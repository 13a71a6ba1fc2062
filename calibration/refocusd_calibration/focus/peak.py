"""Fits the peak of a focus curve between its planes, with its uncertainty.

Around its peak a focus curve y(z), less its base B, follows one of a family of
symmetric models: some power of it is a parabola,

    (y - B)^p = c0 + c1 z + c2 z²        (the logarithm for p = 0),

a parabola for p = 1, a Gaussian for p = 0, a Lorentzian for p = -1.  Which member fits
depends on metric, specimen and optics (gradient metrics of fine structure are close to the
Lorentzian, entropy to the parabola), so p is chosen by the smallest residual among `POWERS`, and the results of the
others contribute to the uncertainty.  Each fit is one weighted linear least-squares fit, whose
weights compensate for the transformation (delta method), so that noise counts as in y.  Nothing
can fail to converge, and a jackknife costs microseconds per fit.

Only planes above `WINDOW` of the peak are fitted, because the wings of a thick specimen follow
no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import signal, stats

from refocusd_calibration.estimates import LinearFit, robust_sigma, weighted_fit
from refocusd_calibration.stage.z_sweeps import MIN_PLANES

Floats = NDArray[np.float64]

#: Members of the family that are tried.
POWERS = (-1.0, -0.5, 0.0, 0.5, 1.0)
#: Planes below this share of the peak's height are not fitted.
WINDOW = 0.2
#: The depth of field ends where the metric has lost a fifth, as much as a quarter wave of defocus
#: removes from the peak of a point's image.
DEPTH_LEVEL = 0.8
#: A maximum counts if it is at least this share of the range of the curve.
PROMINENT = 0.15
#: Models whose residual is above this multiple of the best one's are not alternatives.
ALTERNATIVE = 1.5


@dataclass(frozen=True, slots=True)
class Peak:
    """A fitted peak.

    Parameters
    ----------
    z_um : float
        Position of the maximum.
    uncertainty_um : float
        Standard uncertainty of `z_um`, from the scatter of the planes about the fit; with few planes
        widened by Student's t.
    model_um : float
        Standard deviation of the position over the models that fit about as well.
    height, base : float
        Height of the maximum above the base, and the base, in units of the metric.
    half_depth_um : float
        Distance from the maximum at which a fifth of the height is lost; twice that is the depth of field.
    power : float
        Power p of the model.
    residual : float
        Root mean square deviation from the fit, in units of the metric.
    low_um, high_um : float
        First and last plane fitted.
    planes : int
        Planes fitted.
    """

    z_um: float
    uncertainty_um: float
    model_um: float
    height: float
    base: float
    half_depth_um: float
    power: float
    residual: float
    low_um: float
    high_um: float
    planes: int

    def at(self, z_um: Floats) -> Floats:
        """The model's curve, in units of the metric; the base beyond a parabola's feet."""
        square = ((z_um - self.z_um) / self.half_depth_um) ** 2
        if self.power == 0:
            shape = DEPTH_LEVEL**square
        else:
            parabola = 1 + (DEPTH_LEVEL**self.power - 1) * square
            shape = np.maximum(parabola, 1e-12) ** (1 / self.power)
        return np.asarray(self.base + self.height * shape)


def base_of(y: ArrayLike) -> float:
    """Base of the curve: the mean of the lowest fifth of its planes."""
    values = np.sort(np.asarray(y, dtype=np.float64))
    return float(values[: max(1, len(values) // 5)].mean())


def noise_of(y: ArrayLike) -> float:
    """Standard deviation of the noise of equally spaced planes, from third differences.

    Those of a smooth curve are small (zero for a parabola), and those of independent noise have 20
    times its variance.  The median keeps the peak itself from counting.
    """
    values = np.asarray(y, dtype=np.float64)
    if len(values) < 6:
        return 0.0
    return robust_sigma(np.diff(values, 3)) / math.sqrt(20)


def count_peaks(y: ArrayLike, noise: float) -> int:
    """Maxima that stand out of their surroundings, those at the ends included.

    Parameters
    ----------
    y : array_like of float, shape (planes,)
        In the order of z.
    noise : float
        Standard deviation; a maximum must stand out by five times this, and by `PROMINENT`.
    """
    values = np.asarray(y, dtype=np.float64)
    span = float(np.ptp(values))
    if span <= 0:
        return 0
    # The ends may be maxima as well.
    padded = np.concatenate(([values.min()], values, [values.min()]))
    found, _ = signal.find_peaks(padded, prominence=max(PROMINENT * span, 5 * noise))
    return len(found)


def fit_peak(
    z_um: ArrayLike,
    y: ArrayLike,
    *,
    power: float | None = None,
    window: tuple[float, float] | None = None,
) -> Peak | None:
    """Fit the highest peak of a curve; None if it has no maximum within its planes.

    Parameters
    ----------
    z_um, y : array_like of float, shape (planes,)
        In any order; planes of several series may be mixed.
    power : float, optional
        Power of the model; by default the one that fits best.
    window : (float, float), optional
        First and last z to fit, um; by default all above `WINDOW` of the peak.
    """
    z, values = np.asarray(z_um, dtype=np.float64), np.asarray(y, dtype=np.float64)
    order = np.argsort(z, kind="stable")
    z, values = z[order], values[order]
    base = base_of(values)
    above = values - base
    height = _smoothed_maximum(above)
    if not math.isfinite(height) or height <= 0:
        return None
    if window is None:
        window = _window(z, above, height)
        first = _best(_fits(z, above, height, window, power))
        if first is None:
            return None
        # Centred on the peak, so that asymmetry far out has less influence.
        half = min(first.z_um - window[0], window[1] - first.z_um)
        half = max(half, _least_half(z, first.z_um))
        window = (first.z_um - half, first.z_um + half)
    fits = _fits(z, above, height, window, power)
    best = _best(fits)
    if best is None or not z[0] <= best.z_um <= z[-1]:
        return None
    equal = [fit.z_um for fit in fits if fit.residual <= ALTERNATIVE * best.residual]
    return replace(best, model_um=float(np.std(equal)), base=base)


def _smoothed_maximum(above: Floats) -> float:
    """Height of the peak: the highest mean of neighbours, which one noisy plane does not determine."""
    if len(above) < MIN_PLANES:
        return float(above.max())
    return float(np.convolve(above, (0.25, 0.5, 0.25), mode="valid").max())


def _window(z: Floats, above: Floats, height: float) -> tuple[float, float]:
    """From the peak outward to the first plane below `WINDOW` of it, on each side."""
    smooth = np.convolve(np.pad(above, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
    peak = int(np.argmax(smooth))
    low = high = peak
    while low > 0 and above[low - 1] > WINDOW * height:
        low -= 1
    while high < len(z) - 1 and above[high + 1] > WINDOW * height:
        high += 1
    # For narrow peaks, the nearest planes are added.
    while high - low + 1 < MIN_PLANES and (low > 0 or high < len(z) - 1):
        if high == len(z) - 1 or (low > 0 and above[low - 1] > above[high + 1]):
            low -= 1
        else:
            high += 1
    return float(z[low]), float(z[high])


def _least_half(z: Floats, centre: float) -> float:
    """Half-width of the smallest window that holds enough planes for a fit."""
    distance = np.sort(np.abs(z - centre))
    return float(distance[min(MIN_PLANES, len(z)) - 1]) * (1 + 1e-9)


def _fits(
    z: Floats, above: Floats, height: float, window: tuple[float, float], power: float | None
) -> list[Peak]:
    powers = POWERS if power is None else (power,)
    return [fit for p in powers if (fit := _fit(z, above, height, window, p)) is not None]


def _best(fits: list[Peak]) -> Peak | None:
    return min(fits, key=lambda fit: fit.residual, default=None)


def _fit_transformed(u: Floats, y: Floats, power: float) -> tuple[LinearFit, Floats, Floats] | None:
    """Fit a parabola to a power of the curve; None if the planes do not determine it.

    Returns the fit, its weighted design matrix of shape (planes, 3), and the fitted curve in units of `y`.
    """
    design = np.stack([np.ones_like(u), u, u * u], axis=1)
    # The transformation amplifies noise near the base, so values are limited there.
    floored = np.maximum(y, 0.05)
    fitted = floored
    for _ in range(3):
        # Linearised at the previous fit, so that a plane that is high by chance gets no more
        # weight than one that is low.
        slope = power * fitted ** (power - 1) if power else 1 / fitted
        target = (fitted**power if power else np.log(fitted)) + slope * (y - fitted)
        weight = 1 / np.abs(slope)
        weighted = design * weight[:, None]
        if np.linalg.cond(weighted) > 1e6:
            return None
        found = weighted_fit(design, target, weight**2)
        line = design @ found.coefficients
        if power == 0:
            fitted = np.exp(np.minimum(line, 1.0))
        else:
            fitted = np.maximum(line, 0.05 if power > 0 else 0.5) ** (1 / power)
        fitted = np.clip(fitted, 0.05, 2.0)
    return found, weighted, fitted


def _fit(
    z: Floats, above: Floats, height: float, window: tuple[float, float], power: float
) -> Peak | None:
    inside = (z >= window[0] - 1e-9) & (z <= window[1] + 1e-9)
    count = int(inside.sum())
    if count < 4:
        return None
    x, y = z[inside], above[inside] / height
    centre, scale = float(x.mean()), float(np.ptp(x)) or 1.0
    linear = _fit_transformed((x - centre) / scale, y, power)
    if linear is None:
        return None
    found, weighted, fitted = linear
    c0, c1, c2 = found.coefficients
    # Negative powers turn the peak into a valley.
    if c2 * (-1 if power < 0 else 1) >= 0:
        return None
    top = -c1 / (2 * c2)
    if not -1.0 <= top <= 1.0:
        return None
    at_top = c0 + c1 * top + c2 * top**2
    if power and at_top <= 0:
        return None
    peak = at_top ** (1 / power) if power else math.exp(at_top)
    if power:
        depth = math.sqrt((DEPTH_LEVEL**power - 1) * at_top / c2)
    else:
        depth = math.sqrt(math.log(DEPTH_LEVEL) / c2)
    free = count - 3
    squares = float(((y - fitted) ** 2).sum())
    variance = squares / free
    gradient = np.array([0.0, -1 / (2 * c2), c1 / (2 * c2**2)])
    even = float(gradient @ found.covariance @ gradient) * variance
    # A wrong stage position matters on the flanks and hardly at the top, which the uniform
    # scatter above ignores. White's estimate uses each plane's own residual, corrected for its
    # leverage as HC3 (MacKinnon and White 1985, J. Econometrics 29:305).
    leverage = np.einsum("ij,jk,ik->i", weighted, found.covariance, weighted)
    own = (weighted @ found.covariance @ gradient) * (y - fitted) / np.maximum(1 - leverage, 0.3)
    uncertainty = math.sqrt(max(0.0, even, float((own**2).sum())))
    # The scatter of few planes is itself uncertain: 68 % of Student's t.
    uncertainty *= float(stats.t.ppf(0.8413, free))
    return Peak(
        centre + scale * float(top),
        scale * uncertainty,
        0.0,
        float(peak) * height,
        0.0,
        scale * depth,
        power,
        math.sqrt(squares / count) * height,
        float(x[0]),
        float(x[-1]),
        count,
    )
