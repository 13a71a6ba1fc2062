"""Measures the blur without beads: spectra of defocused planes relative to the in-focus plane.

For one field, the spectrum of a defocused plane is that of the in-focus plane times the ratio of
their transfer functions.  The ratio is estimated as cross spectrum divided by power spectrum, each summed
over rings of equal frequency.  This is a least-squares estimate in which each mode is weighted by the
specimen's power.

A window keeps the frame's edges out of the spectra but biases the ratio, because light that left the
window is missing.  Here the numerator's window (Hann, in the middle of the frame) is well within the
denominator's (flat almost to the edges), so that all light that reached the middle of a defocused
plane is contained in the in-focus plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.signal import windows

from refocusd.errors import InputError
from refocusd.imaging.quality import register
from refocusd_calibration.psf.laws import BlurLaw, Floats
from refocusd_calibration.psf.observed import Observed
from refocusd_calibration.psf.stack import PlaneStack

#: Margin of the inner window along each edge, as a share of the side: kernels must not reach
#: further.
MARGIN_SHARE = 0.17
#: Smallest side of a field, px; a smaller one has too few modes.
_SMALLEST = 96
#: Sectors of the half plane of frequencies, which are assumed to be independent.
_SECTORS = 8
#: The window makes neighbouring modes alike, so the spread between sectors is too small by about this
#: factor (found on simulated specimens of known blur).
_ALIKE = 1.35
#: Least coherence at low frequency of planes of the same field.
_COHERENT = 0.6
#: Share of the Nyquist frequency that is used; higher frequencies are aliased.
_HIGHEST = 0.85
#: Smallest error of a ratio.
_MODEL_ERROR = 0.004


class SpectraRatios:
    """Ratios of the spectra of a field's planes to that of the in-focus plane.

    Planes that are shifted sideways relative to the in-focus plane are shifted back.

    Parameters
    ----------
    stack : PlaneStack
    in_focus : ndarray of float32, shape (height, width)
        In-focus plane of the same field, counts.
    reference_um : float or None
        Stage position of the in-focus plane, which is left out of the series; None if
        it was taken separately, at focus.
    cut_off : float, optional
        Highest frequency that the objective passes, cycles per um.

    Raises
    ------
    InputError
        If the frame is too small, shapes differ, the in-focus plane shows nothing, or
        planes show another field.
    """

    def __init__(
        self,
        stack: PlaneStack,
        in_focus: NDArray[np.float32],
        *,
        reference_um: float | None,
        cut_off: float | None = None,
    ) -> None:
        _check_shapes(stack, in_focus)
        keep = np.ones(len(stack.z_um), bool)
        if reference_um is not None:
            keep = np.abs(stack.z_um - reference_um) > 1e-6
        self._reference_um = reference_um
        self._z_um = stack.z_um[keep]
        self._planes = stack.pixels[keep]
        self._pixel_um = stack.pixel_um
        self._field = _Field(in_focus, stack.pixel_um, cut_off)
        self._field.take_noise(self._planes)
        self._shifts = []
        for z, plane in zip(self._z_um, self._planes, strict=True):
            if np.array_equal(plane, in_focus):
                raise InputError(
                    f"the plane at {z:g} um is identical to the in-focus plane: the stage did not move, or "
                    "the recording holds one frame twice"
                )
            shift = register(plane, in_focus)
            coherence = self._field.coherence(plane, shift)
            if coherence < _COHERENT:
                raise InputError(
                    f"the plane at {z:g} um does not show the field of the in-focus plane "
                    f"(coherence {coherence:.2f}): give planes of one field, with nothing moving "
                    "between them, or a larger field if the blur is wide against this one"
                )
            self._shifts.append(shift)

    def observed(self, law: BlurLaw | None = None, values: Floats | None = None) -> Observed:
        """The ratios; the replicates are sectors of the spectrum.

        The window is small and the specimen is not the same everywhere, which together bias the
        ratio.  The same estimate for the in-focus plane, blurred by a fitted law, has the same
        bias, so with a law and its values the ratios are corrected for it.
        """
        rows = []
        ratios: Floats | None = None
        if law is not None and values is not None:
            reference = values[-1] if self._reference_um is None else self._reference_um
            nodes = np.linspace(0, 0.75 / self._pixel_um, 400)
            transfer = law.transfer(values, np.append(self._z_um, reference), nodes)
            # Nothing is known where the in-focus plane has no power.
            ratios = np.clip(transfer[:-1] / np.maximum(transfer[-1], 0.02), -1.5, 1.5)
        for index, (plane, shift) in enumerate(zip(self._planes, self._shifts, strict=True)):
            expected = None if ratios is None else (nodes, ratios[index])
            rows.append(self._field.ratio(plane, shift, expected))
        values_, variances, deviations = zip(*rows, strict=True)
        return Observed(
            method="planes",
            z_um=self._z_um,
            bins=self._field.frequency,
            values=np.stack(values_),
            variances=np.stack(variances),
            deviations=np.stack(deviations, axis=1),
            pixel_um=self._pixel_um,
            reference_um=self._reference_um,
            spread_factor=_ALIKE,
        )


def _check_shapes(stack: PlaneStack, in_focus: NDArray[np.float32]) -> None:
    height, width = in_focus.shape
    if stack.pixels.shape[1:] != in_focus.shape:
        raise InputError(
            f"the in-focus frame is {width}×{height} px, the planes are "
            f"{stack.pixels.shape[2]}×{stack.pixels.shape[1]}: give frames of one field and camera"
        )
    if min(height, width) < _SMALLEST:
        raise InputError(
            f"a field of {width}×{height} px is too small for spectra; give at least {_SMALLEST} px"
        )


class _Field:
    """The in-focus plane's spectrum, its modes sorted into rings and sectors."""

    def __init__(
        self, in_focus: NDArray[np.float32], pixel_um: float, cut_off: float | None
    ) -> None:
        height, width = in_focus.shape
        self._inner = np.outer(*(_inner_window(side) for side in (height, width)))
        outer = np.outer(*(windows.tukey(side, 0.06) for side in (height, width)))
        self._shape = in_focus.shape
        rows = scipy.fft.fftfreq(height, pixel_um)[:, None]
        columns = scipy.fft.rfftfreq(width, pixel_um)[None, :]
        self._rows, self._columns = rows * pixel_um, columns * pixel_um
        length = np.hypot(rows, columns)
        self._length = length
        # The first column contains both halves; one is enough.
        half = (columns > 0) | (rows > 0)
        highest = _HIGHEST * 0.5 / pixel_um
        if cut_off is not None:
            highest = min(highest, cut_off)
        edges = _ring_edges(2.0 / (min(height, width) * pixel_um), highest)
        rings = np.searchsorted(edges, length, side="right") - 1
        self._used = half & (rings >= 0) & (rings < len(edges) - 1)
        self._rings = rings[self._used]
        angle = np.arctan2(rows + 0 * columns, columns + 0 * rows)[self._used]
        sector = np.floor((angle + np.pi / 2) / np.pi * _SECTORS).astype(int) % _SECTORS
        self._cells = sector * (len(edges) - 1) + self._rings
        self._count = len(edges) - 1
        self._high = half & (length > 0.8 * highest) & (length <= highest)
        self.mean = float(np.average(in_focus, weights=self._inner))
        centred = in_focus.astype(np.float64) - self.mean
        self._in_inner = scipy.fft.rfft2(centred * self._inner)
        self._in_outer = scipy.fft.rfft2(centred * outer)
        self._overlap = float((self._inner * outer).sum())
        self._inner_power = float((self._inner**2).sum())
        self._denominator = (self._in_inner * self._in_outer.conj()).real[self._used]
        # Specimens have most of their power at low frequencies, even within a ring.
        power = np.abs(self._in_inner[self._used]) ** 2
        self.frequency = self._summed(length[self._used] * power) / self._summed(power)

    def take_noise(self, planes: NDArray[np.float32]) -> None:
        """Subtract the in-focus plane's own noise from its power, because no other plane shares it.

        In the far planes, high frequencies contain only noise.
        """
        least = min(
            float(np.mean(np.abs(self._windowed(plane)[self._high]) ** 2)) for plane in planes
        )
        density = (
            min(least, float(np.mean(np.abs(self._in_inner[self._high]) ** 2))) / self._inner_power
        )
        self._noise = density * self._overlap
        self._denominator = self._denominator - density * self._overlap
        total = self._summed(self._denominator)
        noise = density * self._overlap * np.bincount(self._rings, minlength=self._count)
        good = total > 0.5 * noise
        if not good[:3].any():
            raise InputError(
                "the in-focus plane shows only noise: expose longer, or give a field with more "
                "structure"
            )
        # Rings without signal stay in the table, with no weight.
        self._total = np.where(good, total, np.inf)

    def coherence(self, plane: NDArray[np.float32], shift: tuple[float, float]) -> float:
        """Coherence of a plane with the in-focus plane at the lowest frequencies; 1 if they agree."""
        low = self._rings < 4
        mine, other = self._spectrum(plane, shift)[low], self._in_inner[self._used][low]
        powers = float(np.sum(np.abs(mine) ** 2)) * float(np.sum(np.abs(other) ** 2))
        return float(np.sum((mine * other.conj()).real)) / float(np.sqrt(max(powers, 1e-300)))

    def ratio(
        self,
        plane: NDArray[np.float32],
        shift: tuple[float, float],
        expected: tuple[Floats, Floats] | None,
    ) -> tuple[Floats, Floats, Floats]:
        """Values, variances, and deviations of each sector.

        `expected` is the ratio of a law: frequencies in cycles per um, and its values there.
        """
        cross = self._spectrum(plane, shift) * self._in_outer[self._used].conj()
        if expected is None:
            value = self._summed(cross.real) / self._total
            rest = cross - value[self._rings] * self._denominator
        else:
            ratio = np.interp(self._length, *expected)
            blurred = scipy.fft.irfft2(self._in_outer * ratio, s=self._shape)
            model = self._windowed(blurred)[self._used] * self._in_outer[self._used].conj()
            rest = cross - model
            # The in-focus plane's noise is in the model's cross spectrum, not in the plane's.
            rest += self._noise * np.interp(self._length[self._used], *expected)
            change = self._summed(rest.real) / self._total
            value = np.interp(self.frequency, *expected) + change
            rest = rest - change[self._rings] * self._denominator
        variance = 0.5 * self._summed(np.abs(rest) ** 2) / self._total**2
        cells = np.bincount(self._cells, rest.real, _SECTORS * self._count)
        deviation = cells.reshape(_SECTORS, self._count) / self._total
        bad = np.isinf(self._total)
        value[bad], deviation[:, bad] = 0.0, 0.0
        return value, np.where(bad, 1e12, variance + _MODEL_ERROR**2), deviation

    def _spectrum(
        self, plane: NDArray[np.float32], shift: tuple[float, float]
    ) -> NDArray[np.complex128]:
        # `shift` brings the plane onto the in-focus one, down and right.
        turn = np.exp(-2j * np.pi * (shift[0] * self._rows + shift[1] * self._columns))
        return np.asarray((self._windowed(plane) * turn)[self._used], np.complex128)

    def _windowed(self, plane: NDArray[Any]) -> NDArray[np.complex128]:
        centred = plane.astype(np.float64)
        centred -= float(np.average(centred, weights=self._inner))
        spectrum: NDArray[np.complex128] = scipy.fft.rfft2(centred * self._inner)
        return spectrum

    def _summed(self, modes: Floats) -> Floats:
        return np.bincount(self._rings, modes, self._count).astype(np.float64)


def _inner_window(side: int) -> Floats:
    margin = round(MARGIN_SHARE * side)
    window = np.zeros(side)
    window[margin : side - margin] = windows.hann(side - 2 * margin, sym=True)
    return window


def _ring_edges(step: float, highest: float) -> Floats:
    """Edges of rings as narrow as the window resolves; at high frequency, a tenth of the frequency wide."""
    edges = [0.75 * step]
    while edges[-1] < highest:
        edges.append(edges[-1] + max(0.75 * step, 0.1 * edges[-1]))
    return np.array(edges)
