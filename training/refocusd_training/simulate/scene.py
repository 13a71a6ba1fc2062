"""A raw frame and its truth, both in counts and in network units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import Pixels
from refocusd.imaging.normalise import CountsRange, counts_range
from refocusd.imaging.optics import Optics
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.camera import Camera
from refocusd_training.simulate.depth import (
    blurred_layers,
    depths_um,
    layer_transfers,
    layers_of,
)
from refocusd_training.simulate.ranges import Setting
from refocusd_training.simulate.specimen import reflected

#: Reflected border for whole frames: wider than the widest disc (36 µm at NA
#: 0.6: 42 px) and its diffraction rings.
FRAME_MARGIN = 96


@dataclass(frozen=True, slots=True)
class Scene:
    """One simulated exposure.

    Parameters
    ----------
    raw : ndarray of uint8 or uint16, shape (height, width)
        The camera's frame.
    truth : ndarray of float32, shape (height, width)
        Expected counts of the in-focus frame, including the offset, without noise,
        clipped at full scale.
    range : CountsRange
        Offset and scale of `raw`, as engines compute them.
    """

    raw: Pixels
    truth: NDArray[np.float32]
    range: CountsRange


def counts_share(camera: Camera) -> float:
    """Counts of a camera over those of a 12-bit one in the same light; 1 for more bits."""
    return 2.0 ** min(camera.bits - 12, 0)


def expose_scene(
    unfocused: NDArray[np.float32],
    in_focus: NDArray[np.float32],
    camera: Camera,
    *,
    peak: float,
    haze: float | NDArray[np.float32],
    rng: np.random.Generator,
    shading: float | NDArray[np.float32] = 1.0,
) -> Scene:
    """Image both expectations with one camera.

    Parameters
    ----------
    unfocused, in_focus : ndarray of float32, shape (height, width)
        Flux, about 1 in bright structures.
    camera : Camera
    peak : float
        Counts of flux 1 with 12 bits.
    haze : float or ndarray, shape (height, width)
        Background light in units of flux.
    rng : numpy.random.Generator
    shading : float or ndarray, shape (height, width)
        Share of the light that arrives at each pixel, as with vignetting.
    """
    # A camera with fewer bits gives fewer counts for the same light: one with 8 bits a 16th.
    share = counts_share(camera)
    camera = replace(camera, offset=camera.offset * share, gain=camera.gain / share)
    light = np.asarray(shading * (peak * share), dtype=np.float32)
    raw = camera.expose(np.asarray((unfocused + haze) * light, dtype=np.float32), rng)
    truth = np.minimum((in_focus + haze) * light + camera.offset, camera.full_scale)
    return Scene(raw, truth.astype(np.float32), counts_range(raw))


def simulate_frame(
    flux: NDArray[np.float32], setting: Setting, defocus: Defocus, rng: np.random.Generator
) -> Scene:
    """Simulate a whole frame of a specimen with one microscope.

    Parameters
    ----------
    flux : ndarray of float32, shape (height, width)
        Flux, see `flux_of`.
    setting : Setting
    defocus : Defocus
    rng : numpy.random.Generator
        Draws the layer of each structure if there are several, and then the camera's noise.

    Returns
    -------
    Scene
        Same height and width as `flux`.
    """
    padded = reflected(flux, FRAME_MARGIN)
    optics: Optics = setting.optics
    deep = setting.layers > 1
    depths = depths_um(setting.depth_um, setting.layers) if deep else [0.0]
    unfocused, in_focus = blurred_layers(
        layers_of(padded, setting.layers, rng) if deep else padded[np.newaxis],
        layer_transfers(optics, defocus, depths, padded.shape),
        layer_transfers(optics, Defocus(0.0, defocus.thickness_um), depths, padded.shape),
    )
    inner = (slice(FRAME_MARGIN, -FRAME_MARGIN),) * 2
    return expose_scene(
        unfocused[inner],
        in_focus[inner],
        setting.camera,
        peak=setting.peak,
        haze=setting.haze,
        rng=rng,
    )
