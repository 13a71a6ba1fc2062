"""What training draws from, and what it never sees.

`HELD_OUT` lists the optics and cameras of the evaluation; `draw_*` never reach
them: other apertures, wavelengths, aberrations, gains and read noises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refocusd.optics import Optics
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.camera import Camera

__all__ = [
    "HELD_OUT",
    "TRAINED_DEFOCUS_UM",
    "TRAINED_NA",
    "TRAINED_PIXEL_UM",
    "TRAINED_SPHERICAL_WAVES",
    "TRAINED_WAVELENGTH_UM",
    "Setting",
    "draw_camera",
    "draw_defocus",
    "draw_optics",
    "draw_peak",
]

TRAINED_NA = (0.40, 0.50)
TRAINED_WAVELENGTH_UM = (0.44, 0.48)
TRAINED_PIXEL_UM = (0.60, 0.70)
TRAINED_SPHERICAL_WAVES = (-0.15, 0.15)
TRAINED_DEFOCUS_UM = (0.0, 36.0)
#: Share of training frames that are in focus: the network must leave them alone.
IN_FOCUS_SHARE = 0.14


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
        Even background light, as a share of `peak`.
    """

    name: str
    optics: Optics
    camera: Camera
    peak: float = 1000.0
    haze: float = 0.02


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


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def draw_optics(rng: np.random.Generator) -> Optics:
    """Optics within the trained ranges."""
    return Optics(
        na=float(rng.uniform(*TRAINED_NA)),
        wavelength_um=float(rng.uniform(*TRAINED_WAVELENGTH_UM)),
        pixel_um=float(rng.uniform(*TRAINED_PIXEL_UM)),
        spherical_waves=float(rng.uniform(*TRAINED_SPHERICAL_WAVES)),
    )


def draw_defocus(rng: np.random.Generator) -> Defocus:
    """In focus with `IN_FOCUS_SHARE`; otherwise 1-36 µm, either side."""
    thickness = float(rng.uniform(0.0, 4.0)) if rng.random() < 0.5 else 0.0
    if rng.random() < IN_FOCUS_SHARE:
        return Defocus(0.0, thickness)
    um = float(rng.uniform(1.0, TRAINED_DEFOCUS_UM[1])) * (1 if rng.random() < 0.5 else -1)
    softening = float(rng.uniform(0.05, 0.30)) if rng.random() < 0.4 else 0.0
    return Defocus(um, thickness, softening)


def draw_peak(rng: np.random.Generator) -> float:
    """Counts above background of bright structures, dim to bright."""
    return _log_uniform(rng, 150.0, 3500.0)


def draw_camera(rng: np.random.Generator) -> Camera:
    """A camera with 0.3-4 electrons per count and 1-8 electrons of read noise."""
    return Camera(
        offset=float(rng.uniform(20.0, 300.0)),
        gain=_log_uniform(rng, 0.3, 4.0),
        read_noise=float(rng.uniform(1.0, 8.0)),
        hot_fraction=float(rng.uniform(0.0, 2e-4)) if rng.random() < 0.2 else 0.0,
        bits=16 if rng.random() < 0.3 else 12,
    )
