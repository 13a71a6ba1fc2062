"""The ranges that training draws from, and those that it never sees.

`HELD_OUT` lists the optics and cameras of the evaluation; `draw_*` never reach
them: other apertures, wavelengths, aberrations, gains and read noises, unless
the ranges are those of a calibration profile (`ranges_of`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refocusd.errors import ConfigError
from refocusd.imaging.optics import Optics
from refocusd.profiles.profile import Measured, Profile
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.camera import Camera

__all__ = [
    "DEFAULT_RANGES",
    "HELD_OUT",
    "HELD_OUT_DEEP",
    "TRAINED_DEFOCUS_UM",
    "TRAINED_DEPTH_UM",
    "TRAINED_NA",
    "TRAINED_PIXEL_UM",
    "TRAINED_SPHERICAL_WAVES",
    "TRAINED_WAVELENGTH_UM",
    "Ranges",
    "Setting",
    "draw_camera",
    "draw_defocus",
    "draw_optics",
    "draw_peak",
    "measured",
    "ranges_of",
]

TRAINED_NA = (0.40, 0.50)
TRAINED_WAVELENGTH_UM = (0.44, 0.48)
TRAINED_PIXEL_UM = (0.60, 0.70)
TRAINED_SPHERICAL_WAVES = (-0.15, 0.15)
TRAINED_DEFOCUS_UM = (0.0, 36.0)
#: Depth of specimens with several layers; one layer may be up to 4 um thick.
TRAINED_DEPTH_UM = (0.0, 8.0)
#: Fraction of training frames that are in focus, which the network must not change.
IN_FOCUS_SHARE = 0.14
#: A measured value is drawn within so many standard uncertainties, that is with 95 % coverage.
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
        Of the camera; None draws 12 and 16, and 8 for some.
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


#: Ranges if no microscope was measured.
DEFAULT_RANGES = Ranges()


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
    }
    if camera is not None:
        pixels = camera.shape[0] * camera.shape[1]
        hot = camera.hot_pixel_count / pixels if pixels else 0.0
        bits = min(max(math.ceil(math.log2(camera.saturation_counts + 1)), 8), 16)
        # `expose_scene` takes an 8-bit camera's figures on the scale of a 12-bit one.
        scale = 16.0 if bits == 8 else 1.0
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
        Of the frames. If hot pixels were measured in frames of that shape, they have the same
        positions; otherwise the same number of pixels is hot at random positions.

    Raises
    ------
    ConfigError
        As `ranges_of`.
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
    return Optics(
        na=float(rng.uniform(*ranges.na)),
        wavelength_um=float(rng.uniform(*ranges.wavelength_um)),
        refractive_index=ranges.refractive_index,
        pixel_um=float(rng.uniform(*ranges.pixel_um)),
        spherical_waves=float(rng.uniform(*ranges.spherical_waves)),
    )


def draw_defocus(rng: np.random.Generator) -> Defocus:
    """In focus with probability `IN_FOCUS_SHARE`; otherwise 1-36 µm on either side."""
    thickness = float(rng.uniform(0.0, 4.0)) if rng.random() < 0.5 else 0.0
    if rng.random() < IN_FOCUS_SHARE:
        return Defocus(0.0, thickness)
    um = float(rng.uniform(1.0, TRAINED_DEFOCUS_UM[1])) * (1 if rng.random() < 0.5 else -1)
    softening = float(rng.uniform(0.05, 0.30)) if rng.random() < 0.4 else 0.0
    return Defocus(um, thickness, softening)


def draw_peak(rng: np.random.Generator) -> float:
    """Counts above background of bright structures, dim to bright."""
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
