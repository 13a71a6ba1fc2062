"""The observed blur, in a form that any law can be fitted to.

Beads give kernels as radial profiles; planes give ratios of spectra.  Either is a table of values by
plane and radial bin, which a law describes except for an amplitude (and, for beads, a background) of
each plane.  Each value is a mean over replicates: beads, or sectors of the spectrum.  The differences
between replicates give the uncertainty of whatever is fitted, including model errors that vary from
bead to bead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from refocusd_calibration.psf.laws import BlurLaw, Floats

#: Relative standard deviation assumed for the brightness of matched planes, because lamps drift.
AMPLITUDE_SPREAD = 0.05


@dataclass(frozen=True, slots=True)
class Weighted:
    """A law's values with fitted amplitudes, and their difference from the observed values.

    Parameters
    ----------
    shape : ndarray of float64, shape (planes, bins)
        The law's values.
    amplitude, background : ndarray of float64, shape (planes,)
        Least-squares scale and offset of `shape`; the background is 0 for planes.
    residual : ndarray of float64, shape (planes, bins)
        Observed minus fitted.
    """

    shape: Floats
    amplitude: Floats
    background: Floats
    residual: Floats


@dataclass(frozen=True, slots=True)
class Observed:
    """A table of values by plane and radial bin.

    Parameters
    ----------
    method : {"beads", "planes"}
    z_um : ndarray of float64, shape (planes,)
        Stage positions.
    bins : ndarray of float64, shape (bins,)
        Mean radius in um (beads), or frequency in cycles per um (planes).
    values, variances : ndarray of float64, shape (planes, bins)
        Counts (beads) or ratios (planes).
    deviations : ndarray of float64, shape (replicates, planes, bins)
        Contribution of each replicate to the error of the values; the sum over replicates is zero.
    radius_um : ndarray of float64, shape (radii,)
        Radii at which a law's kernels are evaluated; empty for planes.
    operator : ndarray of float64, shape (planes or 1, bins, radii)
        Averages a kernel over the pixels of each bin, at their true radii; empty for planes.
    area_um2 : ndarray of float64, shape (bins,)
        Area of each bin; empty for planes.
    reference_um : float or None
        Stage position of the plane in the denominator; None if it is in focus.
    spread_factor : float
        Factor for the replicates' spread, because they are not quite independent.
    pixel_um : float
    """

    method: Literal["beads", "planes"]
    z_um: Floats
    bins: Floats
    values: Floats
    variances: Floats
    deviations: Floats
    pixel_um: float
    radius_um: Floats = field(default_factory=lambda: np.empty(0))
    operator: Floats = field(default_factory=lambda: np.empty(0))
    area_um2: Floats = field(default_factory=lambda: np.empty(0))
    reference_um: float | None = None
    spread_factor: float = 1.0

    def shape_of(self, law: BlurLaw, values: Floats) -> Floats:
        """The law's values for unit amplitude, shape (planes, bins)."""
        if self.method == "beads":
            kernel = law.kernel(values, self.z_um, self.radius_um)
            # One operator may serve all planes.
            return np.asarray((self.operator @ kernel[:, :, None])[..., 0], np.float64)
        transfer = law.transfer(values, np.append(self.z_um, self.reference(values)), self.bins)
        below = transfer[-1]
        # The in-focus spectrum may vanish beyond the cut-off, where the ratio is unknown.
        safe = np.where(np.abs(below) < 1e-3, np.copysign(1e-3, below), below)
        return np.asarray(transfer[:-1] / safe, np.float64)

    def reference(self, values: Floats) -> float:
        """Stage position of the in-focus plane: the last parameter of every law, unless it is known."""
        return float(values[-1]) if self.reference_um is None else self.reference_um

    def fitted(self, shape: Floats) -> Weighted:
        """Fit the amplitude and background of each plane to a law's values, shape (planes, bins)."""
        centred, mean_shape = self._centred(shape)
        about, mean_value = self._centred(self.values)
        amplitude = self._amplitude(about, centred, wanted=1.0)
        background = mean_value - amplitude * mean_shape
        fit = amplitude[:, None] * shape + background[:, None]
        return Weighted(shape, amplitude, background, self.values - fit)

    def unexplained(self, shape: Floats, errors: Floats) -> Floats:
        """The errors of the values that remain after each plane's amplitude is refitted.

        Parameters
        ----------
        shape : ndarray, shape (planes, bins)
        errors : ndarray, shape (replicates, planes, bins)
        """
        centred, _ = self._centred(shape)
        about, _ = self._centred(errors)
        return np.asarray(about - self._amplitude(about, centred)[..., None] * centred, np.float64)

    def _centred(self, values: Floats) -> tuple[Floats, Floats]:
        """Values minus the weighted mean of each plane, and this mean, which is 0 for matched planes."""
        if self.method == "planes":
            return values, np.zeros(values.shape[:-1])
        weight = 1 / self.variances
        mean = (weight * values).sum(-1) / weight.sum(1)
        return values - mean[..., None], mean

    def _amplitude(self, values: Floats, shape: Floats, wanted: float = 0.0) -> Floats:
        """Least-squares scale of `shape` at each plane; for matched planes it is held near `wanted`."""
        weight = 1 / self.variances
        prior = 1 / AMPLITUDE_SPREAD**2 if self.method == "planes" else 0.0
        top = (weight * shape * values).sum(-1) + prior * wanted
        return np.asarray(top / ((weight * shape**2).sum(1) + prior), np.float64)
