"""The blur of frames out of focus, estimated by comparison with other fields in focus.

A blur multiplies the power spectrum of the specimen by the square of its transfer function.  Fields of
one kind of specimen have the same spectrum on average.  The ratio of the two mean spectra, after the noise
is subtracted, is therefore that square, even if no field was imaged both in and out of focus.  The
brightness of the two sets does not matter: the ratio is scaled by the Gaussian that fits its fall.

The ratio does not give the sign of the transfer function.  It is assumed to be positive up to the first
zero and to change at each zero: at a minimum that is less than half of the maximum after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import NDArray

from benchmarks.simulator.frame_statistics import radial_spectrum
from refocusd.errors import InputError

Floats = NDArray[np.float64]

#: Lowest frequency used, cycles per frame side; below it, fields differ by their clusters of cells.
LOWEST = 4
#: The fall is fitted down to this share of the squared transfer function's maximum.
FITTED_DOWN_TO = 0.03
#: Above this frequency, in cycles per pixel, a frame out of focus contains only noise.
NOISE_FROM = 0.3
#: A spectrum is used as long as it exceeds the noise by this share of the noise.
OVER_NOISE = 0.1
#: Transfer functions are compared up to the last frequency at which one exceeds the first value.  The second
#: is added to both, so that differences far below it, which noise can cause, have little effect.
COMPARED_TO, FLOOR = 0.03, 0.01
#: Blurs count as the same up to this distance, in decades; sets of fields with one PSF are 0.03 to 0.06 apart.
SAME_DECADES = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class ImpliedBlur:
    """A radially symmetric blur.

    Parameters
    ----------
    frequency : ndarray of float, shape (bands,)
        Evenly spaced, cycles per pixel.
    transfer : ndarray of float, shape (bands,)
        Transfer function with its sign; 0 where noise dominates.
    width_px : float
        See `transfer_width`.
    uncertainty : float
        Standard uncertainty of the width's logarithm, by jackknife over the fields.
    """

    frequency: Floats
    transfer: Floats
    width_px: float
    uncertainty: float

    def profile(self, radii_px: Floats) -> Floats:
        """Light per pixel at each radius: the Hankel transform of order 0."""
        kernel = scipy.special.j0(2 * np.pi * self._grid() * radii_px[:, None])
        light = (kernel * self._filled() * self._grid()).sum(axis=1) * self._step()
        return np.asarray(2 * np.pi * light, np.float64)

    def encircled(self, radii_px: Floats) -> Floats:
        """Share of the light within each radius."""
        kernel = scipy.special.j1(2 * np.pi * self._grid() * radii_px[:, None])
        light = (kernel * self._filled()).sum(axis=1) * self._step()
        return np.asarray(2 * np.pi * radii_px * light, np.float64)

    def _step(self) -> float:
        return float(self.frequency[1] - self.frequency[0]) / 4

    def _grid(self) -> Floats:
        """Frequencies finer than the bands, as Bessel functions oscillate fast at large radii."""
        count = int(self.frequency[-1] / self._step())
        return np.asarray((np.arange(count) + 0.5) * self._step(), np.float64)

    def _filled(self) -> Floats:
        """The transfer function on the fine grid; below the first band, that of the Gaussian of its width."""
        grid = self._grid()
        measured = np.interp(grid, self.frequency, self.transfer)
        return np.where(grid < self.frequency[0], _gaussian(grid, self.width_px), measured)


def implied_blur(
    unfocused: Sequence[NDArray[np.generic]], sharp: Sequence[NDArray[np.generic]]
) -> ImpliedBlur:
    """The blur between two sets of fields of one kind of specimen.

    Parameters
    ----------
    unfocused, sharp : sequence of ndarray, shape (height, width)
        Camera counts; the fields may differ, but have the same size.

    Raises
    ------
    InputError
        If a set has fewer than three fields, or the frames out of focus contain too little above their noise.
    """
    if min(len(unfocused), len(sharp)) < 3:
        raise InputError("the blur needs at least three fields out of focus and three in focus")
    side = min(unfocused[0].shape)
    edges = (np.arange(LOWEST, side // 2) - 0.5) / side
    frequency = (edges[1:] + edges[:-1]) / 2
    blurred, clear = (
        np.array([radial_spectrum(image, edges) for image in images])
        for images in (unfocused, sharp)
    )
    square, last = _ratio(blurred, clear, frequency)
    width, scale = _fall(square[:last], frequency[:last])
    widths = []
    for sets in _left_out(blurred, clear):
        part, end = _ratio(*sets, frequency)
        widths.append(_fall(part[:end], frequency[:end])[0])
    # Jackknife: (n - 1) / n times the sum of squares (B. Efron, SIAM 1982).
    logs = np.log(widths)
    spread = float(np.sqrt((len(logs) - 1) / len(logs) * np.sum((logs - logs.mean()) ** 2)))
    transfer = np.sqrt(np.maximum(square / scale, 0))
    transfer[last:] = 0
    return ImpliedBlur(frequency, transfer * _signs(transfer[:last], len(transfer)), width, spread)


def transfer_width(transfer: Floats, frequency: Floats) -> float:
    """Standard deviation, in px, of the Gaussian whose transfer function falls as fast as this one.

    Found by a least-squares fit of the logarithm against the squared frequency, down to 0.17 (0.03 of its
    square).  For a disc it is about half of the radius.
    """
    return _fall(np.asarray(transfer) ** 2, np.asarray(frequency))[0]


def transfer_distance(one: ImpliedBlur, two: ImpliedBlur) -> float:
    """Root mean square of the difference of two transfer functions' logarithms, in decades.

    Only magnitudes are compared, as the signs are assumptions.
    """
    size = np.maximum(np.abs(one.transfer), np.abs(two.transfer))
    last = int(np.flatnonzero(size > COMPARED_TO)[-1]) + 1
    logs = [np.log10(np.abs(blur.transfer[:last]) + FLOOR) for blur in (one, two)]
    return float(np.sqrt(np.mean((logs[0] - logs[1]) ** 2)))


def same_blur(one: ImpliedBlur, two: ImpliedBlur) -> bool:
    """Whether two blurs, estimated from fields of one size, are the same within `SAME_DECADES`."""
    return transfer_distance(one, two) <= SAME_DECADES


def _ratio(blurred: Floats, clear: Floats, frequency: Floats) -> tuple[Floats, int]:
    """The squared transfer function times an unknown factor, and the first band at which noise dominates."""
    noise = blurred[:, frequency > NOISE_FROM].mean()
    power = blurred.mean(axis=0) - noise
    hidden = np.flatnonzero(power < OVER_NOISE * noise)
    last = int(hidden[0]) if hidden.size else len(power)
    if last < 8:
        raise InputError("frames out of focus hold no structure above their noise: give others")
    return power / clear.mean(axis=0), last


def _fall(square: Floats, frequency: Floats) -> tuple[float, float]:
    """Width in px of the Gaussian that falls as fast, and the fit's value at frequency 0."""
    highest = float(square[:6].max())
    low = np.flatnonzero(square < FITTED_DOWN_TO * highest)
    end = max(int(low[0]) if low.size else len(square), 4)
    weight = np.sqrt(frequency[:end])
    terms = np.stack([np.ones(end), -4 * np.pi**2 * frequency[:end] ** 2], axis=1)
    logs = np.log(np.maximum(square[:end], 1e-12 * highest))
    (level, variance), *_ = np.linalg.lstsq(terms * weight[:, None], logs * weight, rcond=None)
    return float(np.sqrt(max(variance, 1e-6))), float(np.exp(level))


def _left_out(blurred: Floats, clear: Floats) -> list[tuple[Floats, Floats]]:
    without = [(np.delete(blurred, i, axis=0), clear) for i in range(len(blurred))]
    return without + [(blurred, np.delete(clear, i, axis=0)) for i in range(len(clear))]


def _signs(transfer: Floats, length: int) -> Floats:
    signs = np.ones(length)
    for i in range(1, len(transfer) - 1):
        if transfer[i] <= min(transfer[i - 1], transfer[i + 1]):
            behind = transfer[i + 1 :]
            # To the next minimum.
            rising = np.flatnonzero(np.diff(behind) < 0)
            top = float(behind[: int(rising[0]) + 1].max()) if rising.size else float(behind.max())
            if transfer[i] < 0.5 * top:
                signs[i + 1 :] *= -1
    return signs


def _gaussian(frequency: Floats, width_px: float) -> Floats:
    return np.asarray(np.exp(-2 * (np.pi * width_px * frequency) ** 2))
