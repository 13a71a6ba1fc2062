"""Three laws of how a point blurs with defocus, as radial functions that can be fitted.

| law | parameters | used for |
|---|---|---|
| `WaveLaw` | NA, spherical aberration, apodisation | a widefield microscope: `refocusd.imaging.optics` in radial form |
| `GaussianLaw` | blur in focus, blur per um | simulators, strongly aberrated or scattering specimens |
| `DiscLaw` | blur in focus, disc radius per um | coarse pixels, broad spectrum: rays without diffraction |

`refocusd.imaging.optics` gives the same kernels on the camera's grid.  A fit evaluates them a
hundred times at all planes, so the wave law is computed here with Hankel transforms by
Gauss-Legendre quadrature.  This takes milliseconds for a whole series, is smooth in every parameter
and has no periodic borders.

The refractive index is held, not fitted.  Except for the largest apertures, defocus depends on
``NA^2 / n`` and the focused spot only on NA, so n could not be separated from the pixel size
and the scale of the stage, which a user can check.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import j0, j1

Floats = NDArray[np.float64]

#: Transfer at the frequency that defines a kernel's width (see `kernel_sigma_um`).
WIDTH_LEVEL = math.exp(-0.5)
#: Nodes per cycle of the integrand; Gauss-Legendre quadrature converges from pi on.
_NODES_PER_CYCLE = 3.2
#: Nodes per panel, which covers ten cycles.
_PANEL = 32
#: Parameters that the wave law fits only on request.
_OPTIONAL = ("apodisation", "bead_um", "pixel_scale")


class BlurLaw(ABC):
    """A kernel for each stage position, as a function of a few parameters.

    The last parameter is the stage position of focus; `transfer` and `kernel` take
    stage positions, not defocus.

    Parameters
    ----------
    start : mapping of str to float
        Value of each parameter: where a fit starts, or where a parameter that is not free is held.
    bounds : mapping of str to (float, float)
        Lowest and highest value of each parameter.
    free : sequence of str
        Names of the parameters that are fitted.
    """

    name: str

    def __init__(
        self,
        start: Mapping[str, float],
        bounds: Mapping[str, tuple[float, float]],
        free: Sequence[str],
    ) -> None:
        self._start, self._bounds = start, bounds
        self.parameters = tuple(free)

    def start(self) -> Floats:
        """Parameters at which a fit starts, shape (parameters,)."""
        return np.array([self._start[name] for name in self.parameters])

    def bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest values, each of shape (parameters,)."""
        low, high = np.transpose([self._bounds[name] for name in self.parameters])
        return low, high

    def _named(self, values: Floats) -> dict[str, float]:
        return {**self._start, **dict(zip(self.parameters, map(float, values), strict=True))}

    @abstractmethod
    def transfer(self, values: Floats, z_um: Floats, frequency: Floats) -> Floats:
        """Transfer function, shape (planes, frequencies); `frequency` in cycles per um."""

    @abstractmethod
    def kernel(self, values: Floats, z_um: Floats, radius_um: Floats) -> Floats:
        """Kernel of unit flux, per um^2, shape (planes, radii)."""


class GaussianLaw(BlurLaw):
    """Gaussian of ``sigma^2 = blur_focus_um^2 + (blur_um_per_um * defocus)^2``.

    Pixel and bead are part of the blur in focus.

    Parameters
    ----------
    focus_um, blur_focus_um, blur_um_per_um : float
        Values at which the fit starts.
    hold_focus_blur : bool
        Do not fit `blur_focus_um`, which a ratio of spectra does not determine.
    span_um : (float, float)
        Stage positions between which the focus lies.
    """

    name = "gaussian"
    #: Name of the parameter that widens the kernel with defocus.
    slope = "blur_um_per_um"

    def __init__(
        self,
        focus_um: float,
        blur_focus_um: float,
        blur_um_per_um: float,
        span_um: tuple[float, float],
        *,
        hold_focus_blur: bool = False,
    ) -> None:
        start = {"blur_focus_um": blur_focus_um, self.slope: blur_um_per_um, "focus_um": focus_um}
        bounds = {
            "blur_focus_um": (0.3 * blur_focus_um, 50 * blur_focus_um),
            self.slope: (1e-4, 20.0),
            "focus_um": span_um,
        }
        super().__init__(start, bounds, list(start)[int(hold_focus_blur) :])

    def _full(self, values: Floats) -> tuple[float, float, float]:
        blur, slope, focus = self._named(values).values()
        return blur, slope, focus

    def transfer(self, values: Floats, z_um: Floats, frequency: Floats) -> Floats:
        """See `BlurLaw`."""
        blur, slope, focus = self._full(values)
        variance = blur**2 + (slope * (z_um - focus)) ** 2
        return np.exp(-2 * np.pi**2 * variance[:, None] * frequency[None, :] ** 2)

    def kernel(self, values: Floats, z_um: Floats, radius_um: Floats) -> Floats:
        """See `BlurLaw`."""
        blur, slope, focus = self._full(values)
        variance = (blur**2 + (slope * (z_um - focus)) ** 2)[:, None]
        density = np.exp(-(radius_um[None, :] ** 2) / (2 * variance)) / (2 * np.pi * variance)
        return np.asarray(density, np.float64)


class DiscLaw(GaussianLaw):
    """Uniform disc of radius ``disc_um_per_um * |defocus|``, smoothed by the blur in focus.

    The parameters are those of `GaussianLaw`, with the disc's radius per um of defocus (the tangent
    of the half angle of the light cone) instead of the Gaussian's slope.
    """

    name = "disc"
    slope = "disc_um_per_um"

    def transfer(self, values: Floats, z_um: Floats, frequency: Floats) -> Floats:
        """See `BlurLaw`."""
        blur, slope, focus = self._full(values)
        x = 2 * np.pi * slope * np.abs(z_um - focus)[:, None] * frequency[None, :]
        # 2 J1(x) / x; its limit at 0 is 1.
        small = x < 1e-6
        airy = np.where(small, 1.0, 2 * j1(x) / np.where(small, 1.0, x))
        return np.asarray(airy * np.exp(-2 * np.pi**2 * blur**2 * frequency**2), np.float64)

    def kernel(self, values: Floats, z_um: Floats, radius_um: Floats) -> Floats:
        """See `BlurLaw`."""
        blur, slope, focus = self._full(values)
        # exp(-2 (pi 0.85)^2) = 6e-7: higher frequencies are negligible.
        highest = 0.85 / blur
        reach = float(radius_um.max()) + slope * float(np.abs(z_um - focus).max())
        nodes, weights = _legendre(40 + math.ceil(_NODES_PER_CYCLE * highest * reach), highest)
        spectrum = self.transfer(values, z_um, nodes) * (2 * np.pi * nodes * weights)
        return np.asarray(spectrum @ j0(2 * np.pi * np.outer(nodes, radius_um)), np.float64)


class WaveLaw(BlurLaw):
    """Scalar wave optics with primary spherical aberration and an apodised pupil.

    The pupil function at ``s = rho / rho_max`` is ``exp(-apodisation s^2)`` in amplitude
    and ``2 pi (defocus axial(s) + spherical_waves s^4)`` in phase; without apodisation it
    is `refocusd.imaging.optics.Optics`.  The kernel is integrated over camera pixels (the transfer
    function of a square, averaged over angles) and over beads that are not small (evenly dyed
    spheres).

    Parameters
    ----------
    na, wavelength_um, refractive_index, pixel_um : float
        The fit starts at `na`, which is below the refractive index; the others are held.
    focus_um : float
        Stage position of focus at which the fit starts.
    span_um : (float, float)
        Stage positions between which the focus lies.
    reach_um : float
        Largest radius of the kernels that will be evaluated.
    defocus_um : float
        Largest distance from focus that will be evaluated.
    bead_um : float
        Diameter of the beads, 0 for points; the fit starts there if it is free.
    free : collection of str
        Parameters fitted in addition to NA, spherical aberration and focus: any of ``apodisation``,
        ``bead_um`` and ``pixel_scale`` (the true pixel size divided by `pixel_um`).
    start : mapping of str to float
        Values at which the fit starts, for any parameters.
    """

    name = "wave"

    def __init__(
        self,
        na: float,
        wavelength_um: float,
        refractive_index: float,
        pixel_um: float,
        focus_um: float,
        span_um: tuple[float, float],
        *,
        reach_um: float,
        defocus_um: float,
        bead_um: float = 0.0,
        free: Collection[str] = (),
        start: Mapping[str, float] | None = None,
    ) -> None:
        self.wavelength_um = wavelength_um
        self.refractive_index = refractive_index
        self.pixel_um = pixel_um
        values = {
            "na": na,
            "spherical_waves": 0.0,
            "apodisation": 0.0,
            "bead_um": bead_um,
            "pixel_scale": 1.0,
            "focus_um": focus_um,
            **(start or {}),
        }
        # An apodised pupil may be much larger than its effective aperture.
        most = 1.9 if "apodisation" in free else 1.4
        self._highest = min(most * na, 0.995 * refractive_index)
        bounds = {
            "na": (0.3 * na, self._highest),
            "spherical_waves": (-4.0, 4.0),
            "apodisation": (-2.0, 8.0),
            "bead_um": (0.0, 0.8 * reach_um),
            "pixel_scale": (0.5, 2.0),
            "focus_um": span_um,
        }
        optional = [name for name in _OPTIONAL if name in free]
        super().__init__(values, bounds, ("na", "spherical_waves", *optional, "focus_um"))
        # The marginal rays of an immersion objective are so steep that they carry hardly any
        # light: a kernel is not evaluated beyond twice the requested radius.
        angle = math.asin(min(1.15 * na, 0.75 * na + 0.25 * refractive_index) / refractive_index)
        disc = min(1.5 * math.tan(angle) * defocus_um, 2 * reach_um)
        # Rings lie outside the geometric disc, and aberrations throw light further.
        extent = max(1.3 * reach_um, disc) + 12 * wavelength_um / na
        cycles = self._highest / wavelength_um * extent
        path = defocus_um * refractive_index / wavelength_um * (1 - math.cos(angle))
        per = _NODES_PER_CYCLE
        self._pupil = _legendre(30 + math.ceil(per * (cycles + path)), 1.0)
        # Radii and frequencies are counted in units of the pupil's edge: the large matrices between them
        # are then the same for every NA.
        self._radius, self._radius_weights = _legendre(40 + math.ceil(4 * per * cycles), cycles)
        self._frequency, self._frequency_weights = _legendre(30 + math.ceil(per * 2 * cycles), 2.0)
        self._from_pupil = j0(2 * np.pi * np.outer(self._pupil[0], self._radius))
        self._to_frequency: Floats | None = None

    def transfer(self, values: Floats, z_um: Floats, frequency: Floats) -> Floats:
        """See `BlurLaw`.  It includes integration over pixels, but not over the bead."""
        optics = self._named(values)
        scaled = frequency / optics["pixel_scale"]
        otf = self._otf(optics, z_um, scaled)
        return np.asarray(otf * _pixel_transfer(frequency * self.pixel_um), np.float64)

    def kernel(self, values: Floats, z_um: Floats, radius_um: Floats) -> Floats:
        """See `BlurLaw`.  It includes integration over pixels and over the bead."""
        optics = self._named(values)
        scale, edge = optics["pixel_scale"], optics["na"] / self.wavelength_um
        nodes = self._frequency * edge
        if self._to_frequency is None:
            self._to_frequency = j0(2 * np.pi * np.outer(self._radius, self._frequency))
        spectrum = self._weighted(optics, z_um) @ self._to_frequency
        spectrum = spectrum * _pixel_transfer(nodes * self.pixel_um * scale)
        spectrum *= _sphere_transfer(nodes * optics["bead_um"])
        spectrum *= 2 * np.pi * nodes * self._frequency_weights * edge
        return np.asarray(
            scale**2 * (spectrum @ j0(2 * np.pi * np.outer(nodes, radius_um * scale)))
        )

    def _otf(self, optics: Mapping[str, float], z_um: Floats, frequency: Floats) -> Floats:
        cycles = frequency * self.wavelength_um / optics["na"]
        passed = cycles <= 2  # the cut-off; the nodes do not resolve higher frequencies
        otf = np.zeros((len(z_um), len(frequency)))
        otf[:, passed] = self._weighted(optics, z_um) @ j0(
            2 * np.pi * np.outer(self._radius, cycles[passed])
        )
        return otf

    def _weighted(self, optics: Mapping[str, float], z_um: Floats) -> Floats:
        """Light of the ring at each radial node; its sum is 1 by Parseval's theorem."""
        s, weights = self._pupil
        edge = optics["na"] / self.wavelength_um
        axial = np.sqrt((self.refractive_index / self.wavelength_um) ** 2 - (edge * s) ** 2)
        axial -= axial[0]
        defocus = z_um - optics["focus_um"]
        waves = defocus[:, None] * axial[None, :] + optics["spherical_waves"] * s**4
        modulus = np.exp(-optics["apodisation"] * s**2)
        modulus /= math.sqrt(2 * float((s * weights) @ modulus**2))
        amplitude = (2 * np.sqrt(np.pi) * s * weights * modulus) * np.exp(2j * np.pi * waves)
        intensity = (amplitude.real @ self._from_pupil) ** 2
        intensity += (amplitude.imag @ self._from_pupil) ** 2
        return np.asarray(intensity * (2 * np.pi * self._radius * self._radius_weights))


def kernel_sigma_um(law: BlurLaw, values: Floats, z_um: Floats) -> Floats:
    """Width of the kernel at each stage position: the sigma of the equivalent Gaussian.

    ``sigma = 1 / (2 pi f)`` with the lowest frequency f at which the transfer function falls
    to ``exp(-1/2)``: exactly sigma for a Gaussian, 0.522 R for a disc of radius R.
    The alternative, the second moment, does not exist for a diffraction-limited kernel (its tails
    fall as 1/r^3) and is unstable if the tails are cut off.

    Parameters
    ----------
    law : BlurLaw
    values : ndarray, shape (parameters,)
    z_um : ndarray, shape (planes,)
        Stage positions.

    Returns
    -------
    ndarray of float64, shape (planes,)
        In um; NaN if the transfer function does not fall that far.
    """
    # Logarithmic, because widths in focus and far from focus differ by two orders of magnitude.
    frequency = np.geomspace(1e-3, 20.0, 600)
    otf = law.transfer(values, z_um, frequency)
    sigma = np.full(len(z_um), np.nan)
    for plane, row in enumerate(otf):
        below = np.flatnonzero(row < WIDTH_LEVEL)
        if below.size and below[0] > 0:
            low, high = below[0] - 1, below[0]
            share = (row[low] - WIDTH_LEVEL) / (row[low] - row[high])
            crossing = frequency[low] * (frequency[high] / frequency[low]) ** share
            sigma[plane] = 1 / (2 * np.pi * crossing)
    return sigma


def _legendre(count: int, end: float) -> tuple[Floats, Floats]:
    """At least `count` nodes and weights of Gauss-Legendre quadrature on [0, end].

    They are computed in panels, because one rule of a thousand nodes would take seconds.
    """
    panels = math.ceil(count / _PANEL)
    nodes, weights = np.polynomial.legendre.leggauss(_PANEL)
    width = end / panels
    starts = width * np.arange(panels)[:, None]
    return (starts + 0.5 * width * (nodes + 1)).ravel(), np.tile(0.5 * width * weights, panels)


def _pixel_transfer(cycles: Floats) -> Floats:
    """Transfer function of a square pixel, frequencies in cycles per pixel, mean over all angles."""
    angle = np.pi / 4 * (np.arange(8) + 0.5) / 8
    across, along = np.cos(angle)[:, None] * cycles, np.sin(angle)[:, None] * cycles
    mean: Any = np.mean(np.sinc(across) * np.sinc(along), axis=0)
    return np.asarray(mean, np.float64)


def _sphere_transfer(cycles: Floats) -> Floats:
    """Transfer function of a sphere's projection, frequencies in cycles per diameter."""
    x = np.pi * cycles
    small = x < 1e-2
    safe = np.where(small, 1.0, x)
    return np.where(small, 1 - x**2 / 10, 3 * (np.sin(safe) - safe * np.cos(safe)) / safe**3)
