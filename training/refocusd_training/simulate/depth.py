"""Specimens with depth: layers at different depths, so that sharp and blurred parts mix.

A cell is not a plane.  Its structures are divided among a few layers by a smooth random map, so
that one nucleus is in one layer and its neighbour perhaps in the next. Each layer is imaged at
the defocus of its depth, also in the truth: the in-focus frame of a thick specimen is sharp
in some places and blurred in others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.fft
import scipy.interpolate
from numpy.typing import NDArray

from refocusd.imaging.optics import Optics
from refocusd_training.simulate.blur import Defocus, transfer

#: Size, in px, of the structures that stay in one layer: about a nucleus at 20x.
SAME_LAYER_PX = 24


def depths_um(depth_um: float, layers: int) -> list[float]:
    """Distance of each layer from the middle of the specimen, in um; evenly spaced."""
    return [depth_um * ((i + 0.5) / layers - 0.5) for i in range(layers)]


def layers_of(
    flux: NDArray[np.float32], layers: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Divide a specimen among layers.

    Parameters
    ----------
    flux : ndarray of float32, shape (height, width)
    layers : int
    rng : numpy.random.Generator
        Draws the layer of each structure.

    Returns
    -------
    ndarray of float32, shape (layers, height, width)
        Their sum is `flux`; neighbouring layers share the light where they meet.
    """
    rows, columns = (-(-side // SAME_LAYER_PX) + 3 for side in flux.shape)
    heights = scipy.interpolate.RectBivariateSpline(
        np.arange(rows), np.arange(columns), rng.random((rows, columns))
    )
    height, width = flux.shape
    smooth = heights(np.linspace(1, rows - 2, height), np.linspace(1, columns - 2, width))
    low, high = np.percentile(smooth, [5, 95])
    place = np.clip((smooth - low) / max(high - low, 1e-6), 0.0, 1.0) * (layers - 1)
    # 0 or 1 within a layer, and a ramp of a fifth of the map's range where two layers meet.
    share = [np.clip((0.5 - np.abs(place - i)) / 0.2 + 0.5, 0.0, 1.0) for i in range(layers)]
    weights = np.array(share) / np.sum(share, axis=0)
    return np.asarray(weights * flux, dtype=np.float32)


def layer_transfers(
    optics: Optics, defocus: Defocus, depths: Sequence[float], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Transfer functions of layers at `depths` from a plane that is out of focus.

    Returns
    -------
    ndarray of float32, shape (layers, height, width // 2 + 1)
    """
    planes = (replace(defocus, um=defocus.um + z) for z in depths)
    return np.stack([transfer(optics, plane, shape) for plane in planes])


def blurred_layers(
    layers: NDArray[np.float32], *transfers: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """The sum of the layers, each through its transfer function; borders are periodic.

    Parameters
    ----------
    layers : ndarray of float32, shape (layers, height, width)
    *transfers : ndarray of float32, shape (layers, height, width // 2 + 1)
        One set per frame: out of focus, in focus.

    Returns
    -------
    list of ndarray of float32, shape (height, width)
        Not negative.
    """
    spectra = scipy.fft.rfft2(layers)
    shape = (layers.shape[1], layers.shape[2])
    return [
        np.maximum(scipy.fft.irfft2((spectra * otf).sum(axis=0), s=shape), np.float32(0))
        for otf in transfers
    ]
