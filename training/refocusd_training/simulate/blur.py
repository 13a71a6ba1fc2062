"""Images a specimen through the objective, in focus and out of focus.

The in-focus frame is the truth with which a network is trained and evaluated: the
specimen through the same optics at defocus 0, without noise. If the specimen is
thick, the PSF is the mean over its depth, also in the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from refocusd.imaging.optics import Optics, defocus_otf, geometric_radius_um


@dataclass(frozen=True, slots=True)
class Defocus:
    """The defocus of a plane, and the softening of its disc.

    Parameters
    ----------
    um : float
        Defocus in micrometres; 0 is in focus.
    thickness_um : float
        Depth of the specimen around that plane: the PSF is the mean over three
        planes. It applies in focus as well.
    softening : float
        Sigma of a Gaussian smoothing, in units of the geometric disc's radius: on
        BBBC006 the disc at 32 µm has 28 px and is smoothed by 8 px, more than
        with a fully and evenly lit pupil. It has no effect in focus.
    stretch : float
        Astigmatism: the disc is an ellipse whose axes are longer and shorter by this fraction.
    angle : float
        Angle between the ellipse's long axis and the x axis, in radians.
    """

    um: float
    thickness_um: float = 0.0
    softening: float = 0.0
    stretch: float = 0.0
    angle: float = 0.0


def best_focus_um(optics: Optics) -> float:
    """Defocus, um, at which the image of an aberrated pupil is sharpest.

    There the phase is that of the Zernike polynomial ``6 rho^4 - 6 rho^2 + 1`` (M. Born and E. Wolf,
    Principles of Optics, section 9.2), with defocus in its paraxial form.
    """
    return (
        2 * optics.refractive_index * optics.wavelength_um * optics.spherical_waves / optics.na**2
    )


def transfer(optics: Optics, defocus: Defocus, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Transfer function of one defocus on the `rfft2` half-spectrum of `shape`.

    Returns
    -------
    ndarray of float32, shape (height, width // 2 + 1)
    """
    if defocus.thickness_um > 0:
        depths = [-0.5 * defocus.thickness_um, 0.0, 0.5 * defocus.thickness_um]
        planes = [defocus_otf(optics, defocus.um + depth, shape) for depth in depths]
        otf = np.mean(planes, axis=0, dtype=np.float32)
    else:
        otf = defocus_otf(optics, defocus.um, shape)
    sigma_px = defocus.softening * geometric_radius_um(optics, defocus.um) / optics.pixel_um
    if sigma_px > 0:
        rows = scipy.fft.fftfreq(shape[0]).astype(np.float32)
        columns = scipy.fft.rfftfreq(shape[1]).astype(np.float32)
        decay = np.float32(-2 * np.pi**2 * sigma_px**2)
        otf = otf * np.exp(decay * rows**2)[:, None] * np.exp(decay * columns**2)[None, :]
    if defocus.stretch:
        otf = _stretched(np.asarray(otf, dtype=np.float32), defocus, shape)
    return np.asarray(otf, dtype=np.float32)


def _stretched(
    otf: NDArray[np.float32], defocus: Defocus, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Change a radially symmetric transfer function from that of a disc to that of an ellipse."""
    rows = scipy.fft.fftfreq(shape[0])[:, None]
    columns = scipy.fft.rfftfreq(shape[1])[None, :]
    cos, sin = math.cos(defocus.angle), math.sin(defocus.angle)
    along, across = cos * columns + sin * rows, cos * rows - sin * columns
    at = np.hypot((1 + defocus.stretch) * along, (1 - defocus.stretch) * across)
    # Beyond the last column's frequency there are only corners, where hardly anything passes.
    return np.asarray(np.interp(at, columns[0], otf[0]), dtype=np.float32)
