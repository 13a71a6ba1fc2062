"""Makes training frames at the scale of the blur: sharp light that is blurred and recorded by a camera.

A frame that is reduced until its blur has a given width looks the same for every microscope, except for
the size of its objects and its noise.  Frames are therefore made directly at that scale, from sharp
images at many magnifications that are blurred by many kinds of PSFs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from refocusd_training.blur.frames import SharpImage
from refocusd_training.blur.psfs import CYCLES, FAMILIES, Family, transfer_functions
from refocusd_training.networks.blur_scale import FINE_SIGMA_PX
from refocusd_training.simulate.structures import filaments, membranes, puncta, textures

#: Side of the network's frames, and margin around them for the blur, px.
SIDE_PX, MARGIN_PX = 112, 20
_WHOLE = SIDE_PX + 2 * MARGIN_PX
#: Number of magnifications of a sharp image, half an octave apart.
_LEVELS = 7
#: Share of frames that are not reduced: their blur is narrower than `FINE_SIGMA_PX`.
_NARROW = 0.33
#: Narrowest blur, px.
_LEAST_SIGMA_PX = 0.5
#: Range of the stated blur's standard uncertainty.
_UNCERTAINTY = (0.03, 0.45)
#: Number of generated images of each kind, and their side, px.
_GENERATED_EACH, _GENERATED_PX = 45, 400


@dataclass(frozen=True, slots=True)
class Pyramid:
    """A sharp image at several magnifications.

    Parameters
    ----------
    levels : list of Tensor of float16, shape (height, width)
        Background 0, bright structures 1; no side is smaller than a third of the part that is cut out.
    weight : float
        Relative probability of drawing the image.
    """

    levels: list[Tensor]
    weight: float

    @classmethod
    def of(cls, light: NDArray[np.float32], weight: float, rng: np.random.Generator) -> Pyramid:
        """Reduce an image repeatedly."""
        levels = []
        frame = torch.from_numpy(np.ascontiguousarray(light))[None, None]
        for level in range(_LEVELS):
            factor = 2 ** ((level + rng.uniform(0, 1) * (level > 0)) / 2)
            size = [int(side / factor) for side in light.shape]
            if level and min(size) < _WHOLE // 3:
                break
            reduced = functional.interpolate(frame, size=size, mode="area") if level else frame
            reduced = reduced / max(float(torch.quantile(reduced.flatten()[::3], 0.998)), 0.05)
            levels.append(reduced[0, 0].half())
        return cls(levels, weight)


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames and their truth.

    Parameters
    ----------
    frame, truth : Tensor, shape (n, 1, side, side)
        Normalised for the network.
    known : Tensor, shape (n, 2)
        The stated blur, see `BlurScaleNet.restore`.
    error : Tensor, shape (n,)
        Natural logarithm of true over stated width.
    """

    frame: Tensor
    truth: Tensor
    known: Tensor
    error: Tensor


class Frames:
    """An endless source of batches.

    Parameters
    ----------
    kinds : sequence of (share, pyramids)
        Kinds of images, with the share of frames of each.
    seed : int
    pool : int
        Number of transfer functions of each family (three times as many of wave optics).
    families : sequence of str
        Families of PSFs, see `transfer_functions`.
    """

    def __init__(
        self,
        kinds: Sequence[tuple[float, Sequence[Pyramid]]],
        seed: int = 0,
        pool: int = 80,
        families: Sequence[Family] = FAMILIES,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self._kinds = [(share, list(pyramids)) for share, pyramids in kinds if pyramids]
        self._chances = []
        for _, pyramids in self._kinds:
            weights = np.array([pyramid.weight for pyramid in pyramids])
            self._chances.append(weights / weights.sum())
        shares = np.array([share for share, _ in self._kinds])
        self._shares = shares / shares.sum()
        self._transfers = [
            torch.from_numpy(
                transfer_functions(name, pool * (3 if "wave" in name else 1), self.rng)
            )
            for name in families
        ]
        weights = np.array([3.0 if "wave" in name else 1.2 for name in families])
        self._family_chances = weights / weights.sum()
        rows = torch.fft.fftfreq(_WHOLE)[:, None]
        self._frequency = torch.hypot(rows, torch.fft.rfftfreq(_WHOLE)[None, :])

    def batch(self, count: int) -> Batch:
        """Make a batch of frames."""
        rng = self.rng
        scenes = torch.stack([self._scene() for _ in range(count)])
        told, uncertainty, actual = self._widths(count)
        transfers = torch.stack([self._transfer() for _ in range(count)])
        seen = self._blurred(scenes, actual, transfers)
        truth = scenes
        layered = np.flatnonzero(rng.random(count) < 0.15)
        if len(layered):
            others = torch.stack([self._scene() for _ in layered])
            share = torch.from_numpy(rng.uniform(0.05, 0.5, len(layered))).float()[:, None, None]
            apart = actual[layered] * torch.exp(0.4 * torch.randn(len(layered)))
            above = self._blurred(others, apart, transfers[layered])
            seen[layered] = (1 - share) * seen[layered] + share * above
            truth = scenes.clone()
            truth[layered] = (1 - share) * scenes[layered] + share * others
        cut = slice(MARGIN_PX, MARGIN_PX + SIDE_PX)
        seen, truth = seen[:, cut, cut].clamp_min(0), truth[:, cut, cut]
        seen, truth = self._exposed(seen, truth, told)
        low, high = (
            torch.quantile(seen.flatten(1), part, dim=1)[:, None, None] for part in (0.01, 0.999)
        )
        scale = (high - low).clamp_min(1e-3)
        known = torch.stack([torch.log(told / FINE_SIGMA_PX), uncertainty], 1)
        return Batch(
            ((seen - low) / scale)[:, None],
            ((truth - low) / scale)[:, None],
            known,
            torch.log(actual / told),
        )

    def _widths(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = self.rng
        told = np.full(count, FINE_SIGMA_PX)
        narrow = rng.random(count) < _NARROW
        told[narrow] = np.exp(
            rng.uniform(math.log(_LEAST_SIGMA_PX), math.log(FINE_SIGMA_PX), narrow.sum())
        )
        uncertainty = np.exp(
            rng.uniform(math.log(_UNCERTAINTY[0]), math.log(_UNCERTAINTY[1]), count)
        )
        error = np.clip(rng.normal(0, uncertainty), -0.9, 0.9)
        actual = np.maximum(told * np.exp(error), 0.35)
        told_, uncertain, true = (
            torch.from_numpy(values).float() for values in (told, uncertainty, actual)
        )
        return told_, uncertain, true

    def _transfer(self) -> Tensor:
        family = self._transfers[self.rng.choice(len(self._transfers), p=self._family_chances)]
        return family[self.rng.integers(len(family))]

    def _scene(self) -> Tensor:
        rng = self.rng
        for _ in range(8):
            kind = rng.choice(len(self._kinds), p=self._shares)
            pyramids = self._kinds[kind][1]
            pyramid = pyramids[rng.choice(len(pyramids), p=self._chances[kind])]
            level = pyramid.levels[rng.integers(len(pyramid.levels))]
            for axis in (0, 1):
                while level.shape[axis] < _WHOLE:
                    level = torch.cat([level, level.flip(axis)], axis)
            top, left = (int(rng.integers(side - _WHOLE + 1)) for side in level.shape)
            scene = level[top : top + _WHOLE, left : left + _WHOLE].float()
            if float(scene[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX].max()) > 0.15:
                break
        if rng.random() < 0.5:
            scene = scene.flip(0)
        if rng.random() < 0.5:
            scene = scene.flip(1)
        if rng.random() < 0.5:
            scene = scene.t()
        # Some objects are much brighter than others: dying cells, dirt.
        steep = rng.uniform(1.5, 3.0) if rng.random() < 0.12 else rng.uniform(0.65, 1.5)
        scene = scene.clamp(0, 4) ** float(steep)
        if rng.random() < 0.2:
            for _ in range(rng.integers(1, 4)):
                y, x = rng.integers(_WHOLE, size=2)
                high, wide = rng.integers(1, 7, size=2)
                bright = math.exp(rng.uniform(math.log(0.3), math.log(8)))
                scene[y : y + high, x : x + wide] += bright
        if rng.random() < 0.35:
            scene = scene + _dead_cells(rng)
        if rng.random() < 0.3:  # bodies of different brightness
            y, x = torch.meshgrid(*(torch.linspace(-1, 1, _WHOLE),) * 2, indexing="ij")
            tilt = rng.uniform(-0.4, 0.4, 2)
            scene = scene * (1 + float(tilt[0]) * x + float(tilt[1]) * y)
        return scene

    def _blurred(self, scenes: Tensor, sigmas: Tensor, transfers: Tensor) -> Tensor:
        step = CYCLES[1]
        places = (self._frequency[None] * sigmas[:, None, None] / step).clamp_max(
            len(CYCLES) - 1.001
        )
        below = places.floor().long()
        part = places - below
        flat = below.flatten(1)
        gain = (
            torch.gather(transfers, 1, flat).view_as(part) * (1 - part)
            + torch.gather(transfers, 1, flat + 1).view_as(part) * part
        )
        seen: Tensor = torch.fft.irfft2(torch.fft.rfft2(scenes) * gain, s=(_WHOLE, _WHOLE))
        return seen

    def _exposed(self, seen: Tensor, truth: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Add noise, background and clipping as in a frame that was reduced afterwards."""
        rng, count = self.rng, len(seen)
        photons = np.exp(rng.uniform(math.log(40), math.log(6000), count))
        reading = rng.uniform(0.5, 10, count)
        # Number of camera pixels, along a side, whose mean one pixel here is.
        together = np.exp(rng.uniform(0, math.log(14), count))
        together[(told < FINE_SIGMA_PX - 1e-3).numpy()] = 1.0
        background = np.where(rng.random(count) < 0.5, rng.uniform(0, 0.4, count), 0.02)
        photons_, reading_, together_, background_ = (
            torch.from_numpy(values).float()[:, None, None]
            for values in (photons, reading, together, background)
        )
        electrons = (seen + background_) * photons_
        noise = torch.randn_like(seen) * torch.sqrt(electrons + reading_**2) / together_
        seen, truth = (electrons + noise) / photons_, truth + background_
        for index in np.flatnonzero(rng.random(count) < 0.08):
            top = torch.quantile(seen[index].flatten(), float(rng.uniform(0.9, 0.999)))
            seen[index] = seen[index].clamp_max(float(top))
        return seen, truth


def _dead_cells(rng: np.random.Generator) -> Tensor:
    """Small round bodies up to 30 times as bright as the rest, such as pyknotic nuclei and dust."""
    light = torch.zeros(_WHOLE, _WHOLE)
    y, x = torch.meshgrid(*(torch.arange(_WHOLE, dtype=torch.float32),) * 2, indexing="ij")
    for _ in range(rng.integers(1, 4)):
        at_y, at_x = (float(at) for at in rng.uniform(0, _WHOLE, 2))
        radius, stretch = math.exp(rng.uniform(math.log(0.6), math.log(5))), rng.uniform(0.7, 1.4)
        bright = math.exp(rng.uniform(math.log(0.5), math.log(30)))
        away = torch.hypot((y - at_y) * stretch, (x - at_x) / stretch)
        light += bright * (radius + 0.5 - away).clamp(0, 1)
    return light


def sharp_kinds(
    images: Sequence[tuple[float, Sequence[SharpImage]]], generated: float, rng: np.random.Generator
) -> list[tuple[float, list[Pyramid]]]:
    """Pyramids of sharp images that are not kept for testing, and of generated structures.

    Parameters
    ----------
    images : sequence of (share, images)
    generated : float
        Share of generated structures: filaments, membranes, puncta and textures keep a network
        from drawing nuclei into everything.
    rng : numpy.random.Generator
    """
    kinds = [
        (share, [Pyramid.of(one.light, one.weight, rng) for one in some if not one.test])
        for share, some in images
    ]
    drawn = [
        Pyramid.of(draw(rng, (_GENERATED_PX, _GENERATED_PX)), 1.0, rng)
        for draw in (filaments, membranes, puncta, textures)
        for _ in range(_GENERATED_EACH)
    ]
    return [*kinds, (generated, drawn)]
