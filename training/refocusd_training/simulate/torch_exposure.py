"""Exposures on the device that trains: blur, camera and normalisation as torch operations.

The arithmetic is that of `blur`, `camera` and `refocusd.imaging.normalise`, applied to a whole
batch. numpy and a device draw the noise from different random streams, so that frames are equal
in distribution, and a run is reproducible only on one kind of device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refocusd.imaging.normalise import MAX_SAMPLES, MIN_SCALE
from refocusd_training.data.samples import MARGIN, MIN_SPAN, Exposure
from refocusd_training.simulate.scene import counts_share


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """A `Batch` whose arrays are tensors on a device; same shapes and units."""

    raw: Tensor
    truth: Tensor
    span: Tensor
    defocus_um: Tensor


def expose_on(
    exposures: Sequence[Exposure],
    dimming: NDArray[np.float32],
    *,
    device: torch.device | str,
    seed: int,
) -> DeviceBatch:
    """Expose a step's frames on a device.

    Parameters
    ----------
    exposures : sequence of Exposure
        Exposures of the same size and number of layers, from `SampleStream.exposures`.
    dimming : ndarray of float32, shape (batch,)
        Factor by which each frame's range is multiplied.
    device : torch.device or str
    seed : int
        Seed of the noise; use a different one for each step.

    Returns
    -------
    DeviceBatch
        float32, without gradients.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def moved(of: Callable[[Exposure], NDArray[np.float32]]) -> Tensor:
        stacked = torch.from_numpy(np.stack([of(exposure) for exposure in exposures]))
        return stacked.to(device, non_blocking=True)

    def column(of: Callable[[Exposure], float]) -> Tensor:
        values = np.array([of(exposure) for exposure in exposures], np.float32)
        return torch.from_numpy(values).to(device)[:, None, None]

    with torch.no_grad():
        layers = moved(lambda exposure: exposure.layers)
        shape = (layers.shape[-2], layers.shape[-1])
        spectra = torch.fft.rfft2(layers)
        frames = [
            torch.fft.irfft2((spectra * transfers).sum(dim=1), s=shape).clamp_min(0)[
                :, MARGIN : shape[0] - MARGIN, MARGIN : shape[1] - MARGIN
            ]
            for transfers in (moved(lambda e: e.unfocused), moved(lambda e: e.in_focus))
        ]
        share = column(lambda exposure: counts_share(exposure.camera))
        # One number for each frame, or one for each pixel.
        peak = column(lambda exposure: exposure.peak) * share * moved(lambda e: e.shading)
        haze = moved(lambda exposure: exposure.haze)
        offset = column(lambda exposure: exposure.camera.offset) * share
        gain = column(lambda exposure: exposure.camera.gain) / share
        read_noise = column(lambda exposure: exposure.camera.read_noise)
        hot = column(lambda exposure: exposure.camera.hot_fraction)
        full_scale = column(lambda exposure: exposure.camera.full_scale)

        signal = _heated((frames[0] + haze) * peak, hot, generator)
        electrons = torch.poisson(signal * gain, generator=generator)
        electrons += read_noise * torch.randn(
            electrons.shape, generator=generator, device=electrons.device
        )
        counts = torch.minimum((electrons / gain + offset).round().clamp_min(0), full_scale)
        truth = torch.minimum((frames[1] + haze) * peak + offset, full_scale)

        low, scale = _counts_range(counts)
        scale = scale * torch.from_numpy(dimming).to(device)[:, None, None]
        raw, truth = (counts - low) / scale, (truth - low) / scale
        ends = torch.tensor([0.001, 0.999], device=truth.device)
        lowest, highest = torch.quantile(truth[:, ::2, ::2].flatten(1), ends, dim=1)
        defocus = column(lambda exposure: exposure.defocus_um).flatten()
        return DeviceBatch(
            raw[:, None], truth[:, None], (highest - lowest).clamp_min(MIN_SPAN), defocus
        )


def _heated(signal: Tensor, hot_fraction: Tensor, generator: torch.Generator) -> Tensor:
    """Add hot pixels like `Camera.expose`."""
    if not bool((hot_fraction > 0).any()):
        return signal
    chance, heat = (
        torch.rand(signal.shape, generator=generator, device=signal.device) for _ in range(2)
    )
    mean = 0.25 * signal.amax(dim=(1, 2), keepdim=True) + 10.0
    # 1 - u is in (0, 1], so its logarithm is finite.
    return signal + (chance < hot_fraction) * -torch.log1p(-heat) * mean


def _counts_range(counts: Tensor, low: float = 1.0, high: float = 99.9) -> tuple[Tensor, Tensor]:
    """Offset and scale of each frame, like `counts_range`; shape (batch, 1, 1)."""
    stride = max(1, math.ceil(math.sqrt(counts[0].numel() / MAX_SAMPLES)))
    ordered = counts[:, ::stride, ::stride].flatten(1).sort(dim=1).values
    total = ordered.shape[1]
    offset, top = (
        ordered[:, max(math.ceil(percent / 100 * total), 1) - 1] for percent in (low, high)
    )
    return offset[:, None, None], (top - offset).clamp_min(MIN_SCALE)[:, None, None]
