"""Blur of an out-of-focus plane in a widefield fluorescence microscope.

Scalar wave optics of a thin, incoherently emitting plane: the pupil carries the
defocus phase, the point-spread function (PSF) is the squared modulus of its
Fourier transform, and camera pixels integrate it.  The training simulator and
the demo's simulated microscope both use it.

References
----------
J. W. Goodman, Introduction to Fourier Optics, chapter 6 (pupil, incoherent OTF).
S. F. Gibson and F. Lanni, J. Opt. Soc. Am. A 6, 1357 (1989) (defocus as the
optical path difference ``z * sqrt((n / wavelength)^2 - rho^2)``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from refocusd.errors import ConfigError

#: Margin around the geometric disc for diffraction rings, in micrometres.
_MARGIN_UM = 8.0


@dataclass(frozen=True, slots=True)
class Optics:
    """The objective, the light and the camera's sampling.

    Parameters
    ----------
    na : float
        Numerical aperture; below `refractive_index`.
    wavelength_um : float
        Emission wavelength in vacuum, in micrometres.
    refractive_index : float
        Of the medium between specimen and objective.
    pixel_um : float
        Camera pixel in the specimen plane, in micrometres.
    spherical_waves : float
        Primary spherical aberration at the edge of the pupil, in waves
        (phase ``2 pi w (rho / rho_max)^4``).
    apodisation : float
        Decrease of the pupil's amplitude towards its edge,
        ``exp(-apodisation (rho / rho_max)^2)``; 0 for a uniform pupil.

    Raises
    ------
    ConfigError
        If a value is not physical.
    """

    na: float
    wavelength_um: float
    refractive_index: float = 1.0
    pixel_um: float = 0.645
    spherical_waves: float = 0.0
    apodisation: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that no microscope has."""
        if not 0 < self.na < self.refractive_index:
            raise ConfigError(
                f"NA {self.na} does not lie between 0 and the refractive index "
                f"{self.refractive_index}: give the immersion medium's index"
            )
        for name in ("wavelength_um", "pixel_um"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}; give a positive length in micrometres")
        if not math.isfinite(self.spherical_waves):
            raise ConfigError(f"spherical_waves is {self.spherical_waves}; give a number of waves")
        if not math.isfinite(self.apodisation):
            raise ConfigError(f"apodisation is {self.apodisation}; give a finite number")


def geometric_radius_um(optics: Optics, defocus_um: float) -> float:
    """Radius in micrometres of the disc of geometrical optics at this defocus."""
    return abs(defocus_um) * math.tan(math.asin(optics.na / optics.refractive_index))


def defocus_psf(optics: Optics, defocus_um: float) -> NDArray[np.float32]:
    """Intensity PSF at one defocus, integrated over camera pixels.

    Parameters
    ----------
    optics : Optics
    defocus_um : float
        Distance of the plane from focus, in micrometres; its sign matters only
        with spherical aberration.

    Returns
    -------
    ndarray of float32, shape (size, size)
        Odd square, peak or disc centred on the middle pixel, sum 1.
    """
    if not math.isfinite(defocus_um):
        raise ConfigError(f"defocus is {defocus_um} um; give a finite number")
    # At least Nyquist for the intensity (cut-off 2 NA / wavelength); an odd number of fine
    # samples per pixel keeps the centre in the middle of a pixel.
    fine_per_pixel = math.ceil(optics.pixel_um * 4 * optics.na / optics.wavelength_um) | 1
    radius_um = 1.25 * geometric_radius_um(optics, defocus_um) + _MARGIN_UM
    size = 2 * math.ceil(radius_um / optics.pixel_um) + 1
    samples = size * fine_per_pixel
    field_um = size * optics.pixel_um

    frequency = scipy.fft.fftfreq(samples, field_um / samples)
    rho2 = frequency[:, None] ** 2 + frequency[None, :] ** 2
    rho_max = optics.na / optics.wavelength_um
    # The pupil's edge is smoothed over one sample; with a hard edge the PSF
    # would depend on where the grid happens to cut it.
    edge = np.clip((rho_max - np.sqrt(rho2)) * field_um + 0.5, 0.0, 1.0)
    axial = np.sqrt(np.maximum((optics.refractive_index / optics.wavelength_um) ** 2 - rho2, 0.0))
    square = rho2 / rho_max**2
    waves = defocus_um * axial + optics.spherical_waves * square**2
    # Outside the pupil the amplitude is zero; the exponent is limited so that it cannot overflow.
    modulus = np.exp(-optics.apodisation * np.minimum(square, 1.1))
    pupil = edge * modulus * np.exp(2j * np.pi * waves)

    amplitude = scipy.fft.fftshift(scipy.fft.fft2(pupil))
    intensity = amplitude.real**2 + amplitude.imag**2
    pixels = intensity.reshape(size, fine_per_pixel, size, fine_per_pixel).sum(axis=(1, 3))
    psf: NDArray[np.float32] = (pixels / pixels.sum()).astype(np.float32)
    return psf


def defocus_otf(optics: Optics, defocus_um: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Transfer function by which to multiply a frame's `rfft2`.

    ``irfft2(rfft2(plane) * otf, s=plane.shape)`` is the plane as the camera
    sees it, with periodic borders: pad by reflection where that matters.

    Parameters
    ----------
    optics : Optics
    defocus_um : float
        In micrometres.
    shape : (int, int)
        Height and width of the grid, in camera pixels.

    Returns
    -------
    ndarray of float32, shape (height, width // 2 + 1)
        Real (the PSF is symmetric); 1 at zero frequency, so that flux is preserved.
    """
    height, width = shape
    if height < 1 or width < 1:
        raise ConfigError(f"a grid of {height}×{width} px has no pixels")
    psf = defocus_psf(optics, defocus_um)
    half = psf.shape[0] // 2
    offsets = np.arange(-half, half + 1)
    grid = np.zeros(shape, np.float64)
    # The centre goes to [0, 0]; a PSF larger than the grid wraps around.
    np.add.at(grid, (offsets[:, None] % height, offsets[None, :] % width), psf)
    otf = scipy.fft.rfft2(grid).real
    return np.asarray(otf / otf[0, 0], dtype=np.float32)
