"""The ranges that training draws from, and those that it never sees.

`HELD_OUT` lists the optics and cameras of the evaluation, with apertures, wavelengths, aberrations, gains
and read noises that the `draw_*` functions never reach, unless the ranges are wider
(`WIDE_RANGES`) or those of a calibration profile (`ranges_of`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refocusd.errors import ConfigError
from refocusd.imaging.known_blur import DISC_SIGMA
from refocusd.imaging.optics import Optics, geometric_radius_um
from refocusd.profiles.profile import Measured, Profile
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.camera import Camera

TRAINED_NA = (0.40, 0.50)
TRAINED_WAVELENGTH_UM = (0.44, 0.48)
TRAINED_PIXEL_UM = (0.60, 0.70)
TRAINED_SPHERICAL_WAVES = (-0.15, 0.15)
TRAINED_DEFOCUS_UM = (0.0, 36.0)
#: Depth of specimens with several layers; one layer may be up to 4 um thick.
TRAINED_DEPTH_UM = (0.0, 8.0)
#: Fraction of training frames that are in focus, which the network must not change.
IN_FOCUS_SHARE = 0.14
#: A measured value is drawn within this many standard uncertainties, that is with 95 % coverage.
SIGMAS = 2.0


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges from which optics and cameras are drawn; each pair is (lowest, highest).

    Parameters
    ----------
    na, wavelength_um, pixel_um, spherical_waves : pair of float
    refractive_index : float
    offset : pair of float
        Counts.
    gain : pair of float
        Electrons per count.
    read_noise : pair of float
        Electrons.
    hot_fraction : pair of float
        Fraction of hot pixels in frames that have any.
    hot_share : float
        Fraction of frames that have hot pixels.
    bits : int or None
        Bits of the camera; None draws 12 or 16, and 8 for some training frames.
    apodisation : pair of float
        See `refocusd.imaging.optics.Optics`.
    blur_px : pair of float or None
        Range from which the radius of the geometric disc is drawn, evenly in its logarithm, instead
        of the defocus.
    astigmatism : float
        The disc is an ellipse whose axes differ from their mean by up to this fraction.
    best_focus : bool
        Count defocus from the best focus of an aberrated pupil, not from the paraxial focus.
    clipped_share : float
        Fraction of frames that are overexposed, by up to four times.
    uneven_share : float
        Fraction of frames with vignetting and an uneven background.
    debris_share : float
        Fraction of frames with some debris, brighter than the specimen.
    structures_share : float
        Fraction of frames that show generated structures (`simulate.structures`).
    """

    na: tuple[float, float] = TRAINED_NA
    wavelength_um: tuple[float, float] = TRAINED_WAVELENGTH_UM
    pixel_um: tuple[float, float] = TRAINED_PIXEL_UM
    spherical_waves: tuple[float, float] = TRAINED_SPHERICAL_WAVES
    refractive_index: float = 1.0
    offset: tuple[float, float] = (20.0, 300.0)
    gain: tuple[float, float] = (0.3, 4.0)
    read_noise: tuple[float, float] = (1.0, 8.0)
    hot_fraction: tuple[float, float] = (0.0, 2e-4)
    hot_share: float = 0.2
    bits: int | None = None
    apodisation: tuple[float, float] = (0.0, 0.0)
    blur_px: tuple[float, float] | None = None
    astigmatism: float = 0.0
    best_focus: bool = False
    clipped_share: float = 0.0
    uneven_share: float = 0.0
    debris_share: float = 0.0
    structures_share: float = 0.0

    @property
    def blur_sigma_px(self) -> tuple[float, float] | None:
        """`blur_px` as standard deviations, which state blurs elsewhere."""
        if self.blur_px is None:
            return None
        low, high = self.blur_px
        return DISC_SIGMA * low, DISC_SIGMA * high


#: Ranges if no microscope was measured: those of a 20x objective, with which `live-nuclei` was trained.
DEFAULT_RANGES = Ranges()
#: Any fluorescence microscope.  Spherical aberration of 3.6 waves at the pupil's edge is 0.6 waves of
#: the Zernike polynomial ``6 rho^4 - 6 rho^2 + 1``, as the wrong cover glass or medium causes.
WIDE_RANGES = Ranges(
    na=(0.2, 1.3),
    wavelength_um=(0.44, 0.70),
    pixel_um=(0.1, 1.3),
    spherical_waves=(-3.6, 3.6),
    apodisation=(0.0, 2.0),
    blur_px=(1.0, 50.0),
    astigmatism=0.1,
    best_focus=True,
    clipped_share=0.1,
    uneven_share=0.4,
    debris_share=0.15,
    structures_share=0.25,
)
#: Refractive indices of what is between objective and cover glass: air, water, oil.
IMMERSIONS = (1.0, 1.333, 1.518)
#: No objective has an NA above this fraction of its immersion's refractive index.
MOST_SINE = 0.97
#: Largest distance from focus, um.
MOST_DEFOCUS_UM = 60.0


def ranges_of(profile: Profile) -> Ranges:
    """The ranges of one microscope: its measured values, within two standard uncertainties.

    Parameters
    ----------
    profile : Profile
        Values that it lacks keep the range of `DEFAULT_RANGES`. Nominal values (of the
        objective, of the emission) are used as they are.

    Raises
    ------
    ConfigError
        If the profile contradicts itself: no lens has an NA above the refractive index.
    """
    microscope, psf, camera = profile.microscope, profile.psf, profile.camera
    known: dict[str, Any] = {
        "na": _measured(psf.na if psf else None, 0.01) or _nominal(microscope.na),
        "wavelength_um": _nominal(psf.wavelength_um if psf else None)
        or _nominal(microscope.wavelength_um),
        "pixel_um": _measured(psf.pixel_um if psf else None, 0.01) or _nominal(microscope.pixel_um),
        "spherical_waves": _measured(psf.spherical_waves if psf else None),
        "refractive_index": psf.refractive_index if psf else microscope.refractive_index,
        "apodisation": _measured((psf.apodisation or None) if psf else None),
    }
    if camera is not None:
        pixels = camera.shape[0] * camera.shape[1]
        hot = camera.hot_pixel_count / pixels if pixels else 0.0
        bits = min(max(math.ceil(math.log2(camera.saturation_counts + 1)), 8), 16)
        # `expose_scene` takes the figures of a camera of fewer bits on the scale of a 12-bit one.
        scale = 2.0 ** max(12 - bits, 0)
        known |= {
            "offset": _measured(camera.offset_counts, 0.0, scale),
            "gain": _measured(camera.gain_e_per_count, 1e-3, 1 / scale),
            "read_noise": _measured(camera.read_noise_e, 0.0),
            "hot_fraction": (hot, hot),
            "hot_share": 1.0 if hot else 0.0,
            "bits": bits,
        }
    found = replace(DEFAULT_RANGES, **{name: v for name, v in known.items() if v is not None})
    if found.na[1] >= found.refractive_index:
        raise ConfigError(
            f"calibration profile {profile.id()} has an NA of up to {found.na[1]:.3g} and a refractive "
            f"index of {found.refractive_index:g}, which must be larger: measure the NA again, or give "
            "--refractive-index when calibrating"
        )
    return found


def measured(profile: Profile, shape: tuple[int, int]) -> tuple[Optics, Camera]:
    """The microscope of a profile, at its measured values.

    Parameters
    ----------
    profile : Profile
        For values that it lacks, the middle of `DEFAULT_RANGES` is used.
    shape : (height, width)
        Shape of the frames. If hot pixels were measured in frames of that shape, they have the same
        positions; otherwise the same number of pixels is hot at random positions.

    Raises
    ------
    ConfigError
        See `ranges_of`.
    """
    ranges = ranges_of(profile)

    def middle(pair: tuple[float, float]) -> float:
        return 0.5 * (pair[0] + pair[1])

    found = profile.camera
    same = found is not None and found.shape == shape
    camera = Camera(
        offset=middle(ranges.offset),
        gain=math.sqrt(ranges.gain[0] * ranges.gain[1]) if found is None else middle(ranges.gain),
        read_noise=middle(ranges.read_noise),
        hot_fraction=middle(ranges.hot_fraction) if found is not None and not same else 0.0,
        bits=ranges.bits or 16,
        hot_pixels=tuple(found.hot_pixels) if found is not None and same else (),
    )
    optics = Optics(
        na=middle(ranges.na),
        wavelength_um=middle(ranges.wavelength_um),
        refractive_index=ranges.refractive_index,
        pixel_um=middle(ranges.pixel_um),
        spherical_waves=middle(ranges.spherical_waves),
        apodisation=middle(ranges.apodisation),
    )
    return optics, camera


def _measured(
    value: Measured | None, lowest: float = -math.inf, scale: float = 1.0
) -> tuple[float, float] | None:
    if value is None:
        return None
    spread = SIGMAS * max(value.uncertainty, 0.0)
    low, high = (max(value.value + sign * spread, lowest) * scale for sign in (-1, 1))
    return low, high


def _nominal(value: float | None) -> tuple[float, float] | None:
    return None if value is None else (value, value)


@dataclass(frozen=True, slots=True)
class Setting:
    """One microscope of the evaluation.

    Parameters
    ----------
    name : str
    optics : Optics
    camera : Camera
    peak : float
        Counts above background of the in-focus frame's bright structures.
    haze : float
        Even background light, as a fraction of `peak`.
    layers : int
        Layers of the specimen; 1 is a plane.
    depth_um : float
        Depth over which several layers are spread, in um.
    """

    name: str
    optics: Optics
    camera: Camera
    peak: float = 1000.0
    haze: float = 0.02
    layers: int = 1
    depth_um: float = 0.0


#: Microscopes that training never draws.
HELD_OUT: tuple[Setting, ...] = (
    Setting("NA 0.35", Optics(0.35, 0.461), Camera(120, 0.25, 9.0), 900.0),
    Setting("NA 0.55", Optics(0.55, 0.461), Camera(90, 4.6, 10.0), 700.0),
    Setting("NA 0.60", Optics(0.60, 0.461), Camera(110, 0.2, 1.0), 1500.0),
    Setting("0.52 um", Optics(0.45, 0.52), Camera(200, 0.25, 2.0), 600.0),
    Setting("0.60 um", Optics(0.45, 0.60), Camera(100, 5.0, 12.0), 2500.0),
    Setting("+0.4 waves", Optics(0.45, 0.461, spherical_waves=0.4), Camera(105, 0.22, 9.0), 800.0),
    Setting("-0.4 waves", Optics(0.45, 0.461, spherical_waves=-0.4), Camera(105, 4.5, 9.0), 800.0),
)

#: Specimens deeper than training ever draws, in microscopes that it does not draw either.
HELD_OUT_DEEP: tuple[Setting, ...] = (
    Setting(
        "NA 0.35, 12 um deep", Optics(0.35, 0.461), Camera(120, 0.25, 9.0), 900.0, 0.02, 3, 12.0
    ),
    Setting(
        "NA 0.55, 10 um deep", Optics(0.55, 0.461), Camera(90, 4.6, 10.0), 700.0, 0.02, 4, 10.0
    ),
    Setting(
        "+0.4 waves, 16 um deep",
        Optics(0.45, 0.461, spherical_waves=0.4),
        Camera(105, 0.22, 9.0),
        800.0,
        0.02,
        4,
        16.0,
    ),
)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def draw_optics(rng: np.random.Generator, ranges: Ranges = DEFAULT_RANGES) -> Optics:
    """Optics within the ranges."""
    na = float(rng.uniform(*ranges.na))
    fits = (index for index in IMMERSIONS if na < MOST_SINE * index)
    low, high = ranges.apodisation
    return Optics(
        na=na,
        wavelength_um=float(rng.uniform(*ranges.wavelength_um)),
        # The index of a measured microscope, or else that of the medium that the NA needs.
        refractive_index=max(ranges.refractive_index, next(fits, ranges.refractive_index)),
        pixel_um=float(rng.uniform(*ranges.pixel_um)),
        spherical_waves=float(rng.uniform(*ranges.spherical_waves)),
        # Nothing is drawn for ranges without apodisation, so that their frames stay the same.
        apodisation=float(rng.uniform(low, high)) if high > low else low,
    )


def draw_defocus(
    rng: np.random.Generator, ranges: Ranges = DEFAULT_RANGES, optics: Optics | None = None
) -> Defocus:
    """In focus with probability `IN_FOCUS_SHARE`; otherwise out of focus on either side.

    Parameters
    ----------
    rng : numpy.random.Generator
    ranges : Ranges
        With `blur_px`, the disc's radius is drawn; without, 1-36 µm of defocus.
    optics : Optics, optional
        Optics of the frame; required with `blur_px`.
    """
    thickness = float(rng.uniform(0.0, 4.0)) if rng.random() < 0.5 else 0.0
    if rng.random() < IN_FOCUS_SHARE:
        return Defocus(0.0, thickness)
    if ranges.blur_px is None or optics is None:
        um = float(rng.uniform(1.0, TRAINED_DEFOCUS_UM[1]))
    else:
        radius_um = _log_uniform(rng, *ranges.blur_px) * optics.pixel_um
        um = min(radius_um / geometric_radius_um(optics, 1.0), MOST_DEFOCUS_UM)
        thickness = min(thickness, um)
    um *= 1 if rng.random() < 0.5 else -1
    softening = float(rng.uniform(0.05, 0.30)) if rng.random() < 0.4 else 0.0
    if not ranges.astigmatism:
        return Defocus(um, thickness, softening)
    stretch = float(rng.uniform(0.0, ranges.astigmatism))
    return Defocus(um, thickness, softening, stretch, float(rng.uniform(0, math.pi)))


def draw_peak(rng: np.random.Generator, ranges: Ranges = DEFAULT_RANGES) -> float:
    """Counts above background of bright structures on the scale of 12 bits, dim to overexposed."""
    if ranges.clipped_share and rng.random() < ranges.clipped_share:
        return _log_uniform(rng, 4095.0, 4 * 4095.0)
    return _log_uniform(rng, 150.0, 3500.0)


def draw_camera(rng: np.random.Generator, ranges: Ranges = DEFAULT_RANGES) -> Camera:
    """A camera within the ranges; by default 0.3-4 electrons per count and 1-8 electrons of read noise."""
    hot = ranges.hot_fraction
    return Camera(
        offset=float(rng.uniform(*ranges.offset)),
        gain=_log_uniform(rng, *ranges.gain),
        read_noise=float(rng.uniform(*ranges.read_noise)),
        hot_fraction=float(rng.uniform(*hot)) if rng.random() < ranges.hot_share else 0.0,
        bits=ranges.bits or (16 if rng.random() < 0.3 else 12),
    )
