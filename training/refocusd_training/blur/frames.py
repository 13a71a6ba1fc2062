"""Simulates frames with a known blur: sharp light that is blurred and recorded by a camera."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image

from refocusd.errors import InputError
from refocusd.files import reading
from refocusd.frame import Pixels
from refocusd.imaging.blur import TRAINED_PX
from refocusd_training.blur.psfs import CYCLES
from refocusd_training.data.images import SUFFIXES, grey, read_stored

#: Shapes of the frames, px.
SHAPES = ((520, 696), (512, 512), (256, 256), (400, 400), (130, 160))
#: One image in this many, by the checksum of its name, is kept for testing.
TEST_EVERY = 5
#: Range of magnifications; images are hardly enlarged, because enlarged images are not sharp.
ZOOM = (0.4, 1.1)
#: Standard deviation of the blur of the sharp images themselves, px.
OWN_BLUR_PX = 0.8
#: Images of folders with few images have a larger weight than 1, up to this.
MOST_WEIGHT = 16


@dataclass(frozen=True, slots=True)
class SharpImage:
    """Light of one sharp image.

    Parameters
    ----------
    name : str
    light : ndarray of float32, shape (height, width)
        Background 0, bright structures 1.
    weight : float
        Relative probability of drawing the image.
    """

    name: str
    light: NDArray[np.float32]
    weight: float

    @property
    def test(self) -> bool:
        """Whether it is kept for testing; this depends only on its name, so that it never changes."""
        return zlib.crc32(self.name.encode()) % TEST_EVERY == 0


@dataclass(frozen=True, slots=True)
class Exposure:
    """A frame whose blur and in-focus light are known.

    Parameters
    ----------
    frame : ndarray of uint8 or uint16, shape (height, width)
    sigma_px : float
        Width of its blur, including the blur of the sharp image.
    added_px : float
        The same without the blur of the sharp image.
    truth : ndarray of float32, shape (height, width)
        Counts of the camera without blur and without noise.
    """

    frame: Pixels
    sigma_px: float
    added_px: float
    truth: NDArray[np.float32]


def load_sharp(folders: Sequence[Path]) -> list[SharpImage]:
    """Load all images that contain light from folders of sharp images.

    Of stacks with ten or more planes, only some are used.

    Raises
    ------
    InputError
        If there is no such image, or one cannot be read.
    """
    images: list[SharpImage] = []
    for folder in folders:
        with reading(folder):
            paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        weight = min(MOST_WEIGHT, max(1.0, 150 / max(len(paths), 1)))
        for path in paths:
            for index, plane in enumerate(_some(planes_of(path))):
                if (light := _light(plane)) is not None:
                    images.append(SharpImage(f"{path.name}:{index}", light, weight))
    if not images:
        named = ", ".join(str(folder) for folder in folders)
        raise InputError(f"no image with light in it in {named}: name folders of sharp images")
    return images


def planes_of(path: Path) -> list[NDArray[np.generic]]:
    """All planes of an image file.

    Raises
    ------
    InputError
        If it cannot be read, or is a colour image.
    """
    stored = read_stored(path)
    if path.suffix.lower() == ".png" or (stored.ndim == 3 and stored.shape[-1] in (3, 4)):
        return [grey(stored, str(path))]
    return list(stored.reshape(-1, *stored.shape[-2:]))


def _some(planes: list[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    chosen = planes if len(planes) < 10 else planes[:: len(planes) // 3]
    return [plane for plane in chosen if min(plane.shape) >= 100]


def _light(image: NDArray[np.generic]) -> NDArray[np.float32] | None:
    light = image.astype(np.float32)
    light = np.maximum(light - np.float32(np.percentile(light[::5, ::5], 2)), 0)
    bright = float(np.percentile(light[::3, ::3], 99.8))
    return light / np.float32(bright) if bright >= 3 else None


def blurred_frame(
    image: SharpImage,
    other: SharpImage,
    transfers: NDArray[np.float32],
    rng: np.random.Generator,
) -> tuple[Pixels, float] | None:
    """Make a frame as `expose` does; also return the width of its blur, px."""
    exposure = expose(image, other, transfers, rng)
    return (exposure.frame, exposure.sigma_px) if exposure else None


def expose(
    image: SharpImage,
    other: SharpImage,
    transfers: NDArray[np.float32],
    rng: np.random.Generator,
) -> Exposure | None:
    """Blur a sharp image, and record it with 8 to 16 bits.

    Parameters
    ----------
    image : SharpImage
    other : SharpImage
        In some frames, a second layer at another distance from focus.
    transfers : ndarray, shape (count, len(CYCLES))
        From `transfer_functions`; one is drawn.
    rng : numpy.random.Generator

    Returns
    -------
    Exposure or None
        None if the part that was cut out contains no light.
    """
    shape = SHAPES[rng.integers(len(SHAPES))]
    sigma = math.exp(rng.uniform(*np.log(TRAINED_PX)))
    margin = int(min(3 * sigma + 8, 120))
    transfer = transfers[rng.integers(len(transfers))]
    zoom = math.exp(rng.uniform(*np.log(ZOOM)))
    truth = _scene(image, zoom, shape, margin, rng)
    if truth.max() < 0.2:
        return None
    seen = _blurred(truth, sigma, transfer)
    if rng.random() < 0.25:
        apart = sigma * math.exp(rng.normal(0, 0.4))
        behind = _scene(other, zoom, shape, margin, rng)
        share = rng.uniform(0.05, 0.5)
        seen = (1 - share) * seen + share * _blurred(behind, apart, transfer)
        truth = (1 - np.float32(share)) * truth + np.float32(share) * behind
    inner = (slice(margin, -margin), slice(margin, -margin))
    frame, counts = _camera(np.maximum(seen[inner], 0), truth[inner], rng)
    return Exposure(frame, math.hypot(sigma, OWN_BLUR_PX * zoom), sigma, counts)


def cut(
    image: NDArray[np.float32], shape: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Cut a random part out of an image; a smaller image is extended by its mirror images."""
    for axis, length in enumerate(shape):
        while image.shape[axis] < length:
            image = np.concatenate([image, np.flip(image, axis)], axis)
    top, left = (
        int(rng.integers(have - need + 1)) for have, need in zip(image.shape, shape, strict=True)
    )
    return image[top : top + shape[0], left : left + shape[1]]


def _scene(
    image: SharpImage,
    zoom: float,
    shape: tuple[int, int],
    margin: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """A part of the image, sometimes flipped and at another magnification, with a margin for the blur."""
    height, width = (side + 2 * margin for side in shape)
    needed = [math.ceil(side / zoom) + 2 for side in (height, width)]
    part = cut(image.light, (needed[0], needed[1]), rng)
    size = (math.ceil(needed[1] * zoom), math.ceil(needed[0] * zoom))
    method = Image.Resampling.BICUBIC if zoom > 1 else Image.Resampling.BOX
    grown = np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize(size, method))
    scene = np.clip(grown[:height, :width], 0, None)
    if rng.random() < 0.5:
        scene = scene[::-1]
    if rng.random() < 0.1:  # debris
        scene = scene.copy()
        for _ in range(rng.integers(1, 6)):
            y, x, size_px = rng.integers(height), rng.integers(width), rng.integers(1, 9)
            scene[y : y + size_px, x : x + size_px] += rng.uniform(0.5, 6)
    return np.asarray(scene ** np.float32(rng.uniform(0.7, 1.4)), dtype=np.float32)


def _blurred(
    scene: NDArray[np.float32], sigma: float, transfer: NDArray[np.float32]
) -> NDArray[np.float32]:
    shape = tuple(scipy.fft.next_fast_len(side, real=True) for side in scene.shape)
    grown = np.pad(
        scene,
        [(0, new - old) for new, old in zip(shape, scene.shape, strict=True)],
        mode="symmetric",
    )
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    gain = np.interp(frequency * sigma, CYCLES, transfer, right=0.0).astype(np.float32)
    seen = scipy.fft.irfft2(scipy.fft.rfft2(grown) * gain, s=shape)
    return np.asarray(seen[: scene.shape[0], : scene.shape[1]], dtype=np.float32)


def _camera(
    seen: NDArray[np.float32], truth: NDArray[np.float32], rng: np.random.Generator
) -> tuple[Pixels, NDArray[np.float32]]:
    """Record `seen` as a frame, and scale `truth` to its counts."""
    photons = math.exp(rng.uniform(math.log(60), math.log(6000)))
    background = rng.uniform(0, 0.4) if rng.random() < 0.5 else rng.uniform(0, 0.05)
    light, clean = ((each + background) * photons for each in (seen, truth))
    if rng.random() < 0.3:  # light that falls off towards the corners
        y, x = np.ogrid[-1 : 1 : seen.shape[0] * 1j, -1 : 1 : seen.shape[1] * 1j]
        tilt = 1 + rng.uniform(-0.3, 0.3) * x + rng.uniform(-0.3, 0.3) * y
        fall = np.maximum(tilt - rng.uniform(0, 0.25) * (x**2 + y**2), 0.05)
        light, clean = light * fall, clean * fall
    electrons = rng.poisson(np.maximum(light, 0)) + rng.normal(0, rng.uniform(1, 10), light.shape)
    hot = rng.random() < 0.15
    if hot:
        places = rng.integers(0, light.size, rng.integers(1, 60))
        electrons.flat[places] += rng.uniform(0.2, 5, len(places)) * photons
    if rng.random() < 0.2:
        gain = max(float(np.percentile(electrons, rng.uniform(90, 100))), 1.0) / 250
        offset, most, dtype = rng.uniform(0, 10), 255.0, "uint8"
        counts = electrons / gain + offset
    else:
        gain, offset = math.exp(rng.uniform(math.log(0.2), math.log(5))), 100.0
        most, dtype = 65535.0, "uint16"
        counts = electrons / gain + offset
        if rng.random() < 0.12:
            most = max(float(np.percentile(counts, rng.uniform(85, 99.9))), 200.0)
    frame: Pixels = np.rint(np.clip(counts, 0, most)).astype(dtype)
    return frame, np.asarray(clean / gain + offset, dtype=np.float32)
