"""Focus metrics: how sharp each tile of a frame is, by several definitions.

| name | definition |
|---|---|
| `normalised_variance` | variance over squared light |
| `brenner` | squared differences at two pixels over squared light (Brenner et al. 1976) |
| `tenengrad` | squared Sobel gradient over squared light (Tenenbaum 1970; Krotkov 1988) |
| `dct_entropy` | Shannon entropy of the normalised DCT (Royer et al. 2016) |
| `spectral_slope` | slope of log power against log frequency, noise floor subtracted |
| `focus_score` | Vollath's F4, free of noise bias (`refocusd.imaging.quality.focus_score`) |

*Light* is the mean of the whole frame minus the camera's offset.  Dividing by it removes bleaching
and lamp drift, and unlike a tile's own mean it does not change when defocus spreads a tile's light
to its neighbours.  Shot and read noise add a constant to the first three (the light of a stack is
almost constant), which the fit of the peak treats as its base.  Hot pixels are equally sharp at
every defocus, so they are replaced by the median of their neighbours before anything is computed.

References
----------
L. Firestone et al., Cytometry 12:195 (1991) (variance, Brenner, Tenengrad compared).
J. F. Brenner et al., J. Histochem. Cytochem. 24:100 (1976).
L. A. Royer et al., Nat. Biotechnol. 34:1267 (2016) (normalised DCT Shannon entropy).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from refocusd.errors import InputError
from refocusd.frame import Pixels
from refocusd.imaging.quality import focus_score

Floats = NDArray[np.float64]
Image = NDArray[np.float32]

#: Names of all metrics, in order of preference where they are equally good.
METRICS = (
    "tenengrad",
    "brenner",
    "normalised_variance",
    "focus_score",
    "dct_entropy",
    "spectral_slope",
)
#: Tiles along the longer side of a frame, if they are large enough.
TILES = 8
#: Smallest side of a tile, px: a DCT or a spectrum of fewer pixels says little.
MIN_TILE = 32
#: The DCT's entropy uses the lowest coefficients, up to this share of the tile's side: those that
#: a PSF of three pixels passes, as in Royer et al.
DCT_SUPPORT = 1 / 3
#: Band of the spectral slope, and frequency above which only noise is expected, cycles per pixel.
SLOPE_BAND = (0.03, 0.25)
NOISE_BAND = 0.45
SLOPE_RINGS = 4
#: Least power of a ring, as a share of the lowest ring's.
SLOPE_FLOOR = 1e-4
#: A hot pixel differs from its neighbours' median by this many robust deviations.
HOT_SIGMAS = 8.0
#: More hot pixels than this share are structure or noise, not defects.
HOT_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Grid:
    """Equal tiles over a frame; remaining pixels are left out along the border.

    Parameters
    ----------
    rows, columns : int
        Number of rows and columns of tiles.
    height, width : int
        Sides of a tile, px.
    top, left : int
        First pixel of the first tile.
    shape : (int, int)
        Height and width of the frame, px.
    """

    rows: int
    columns: int
    height: int
    width: int
    top: int
    left: int
    shape: tuple[int, int]

    @classmethod
    def over(cls, shape: tuple[int, int], tiles: int = TILES, min_tile: int = MIN_TILE) -> Grid:
        """Lay nearly square tiles over a frame, at most `tiles` along its longer side.

        Raises
        ------
        InputError
            If the frame is smaller than one tile.
        """
        side = max(min_tile, max(shape) // tiles)
        rows, columns = shape[0] // side, shape[1] // side
        if not rows or not columns:
            raise InputError(
                f"frames of {shape[1]}×{shape[0]} px are too small to measure focus: use a camera "
                f"region of at least {min_tile} px a side"
            )
        height, width = shape[0] // rows, shape[1] // columns
        top, left = (shape[0] - rows * height) // 2, (shape[1] - columns * width) // 2
        return cls(rows, columns, height, width, top, left, shape)

    def tiles(self, image: NDArray[Any]) -> NDArray[Any]:
        """A copy of the image's tiles, shape (tiles, height, width), row by row."""
        inner = image[
            self.top : self.top + self.rows * self.height,
            self.left : self.left + self.columns * self.width,
        ]
        split = inner.reshape(self.rows, self.height, self.columns, self.width)
        return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(-1, self.height, self.width)

    def centres_px(self) -> Floats:
        """Centres of the tiles, shape (tiles, 2): x to the right and y down from the frame's centre, px."""
        y = self.top + (np.arange(self.rows) + 0.5) * self.height - self.shape[0] / 2
        x = self.left + (np.arange(self.columns) + 0.5) * self.width - self.shape[1] / 2
        return np.stack([np.tile(x, self.rows), np.repeat(y, self.columns)], axis=1)


def measure_frame(pixels: Pixels, grid: Grid, offset: float) -> tuple[dict[str, Floats], float]:
    """Compute every metric of every tile of one frame.

    Parameters
    ----------
    pixels : ndarray of uint8 or uint16, shape (height, width)
        Without hot pixels.
    grid : Grid
    offset : float
        Offset of the camera, counts.

    Returns
    -------
    dict of str to ndarray of float64, shape (tiles,)
        Values by name of the metric; larger is sharper.
    float
        Light: mean counts above the offset.
    """
    image = pixels.astype(np.float32) - np.float32(offset)
    light = float(image.mean(dtype=np.float64))
    # A dark frame has no light to normalise by, and no peak to be found either.
    scale = 1.0 / max(light, 1e-3) ** 2
    tiles = grid.tiles(image).astype(np.float32, copy=False)
    brenner = np.zeros_like(image)
    brenner[:, 1:-1] += (image[:, 2:] - image[:, :-2]) ** 2
    brenner[1:-1] += (image[2:] - image[:-2]) ** 2
    tenengrad = ndimage.sobel(image, 0) ** 2 + ndimage.sobel(image, 1) ** 2
    values = {
        "tenengrad": scale * grid.tiles(tenengrad).mean(axis=(1, 2), dtype=np.float64),
        "brenner": scale * grid.tiles(brenner).mean(axis=(1, 2), dtype=np.float64),
        "normalised_variance": scale * tiles.var(axis=(1, 2), dtype=np.float64),
        "focus_score": np.array([focus_score(tile) for tile in grid.tiles(pixels)]),
        "dct_entropy": _dct_entropy(tiles),
        "spectral_slope": _spectral_slope(tiles),
    }
    return values, light


def _dct_entropy(tiles: Image) -> Floats:
    """``-(2 / r0²) Σ |c| log2 |c|`` over x + y < r0, c the DCT over its L2 norm.

    The constant term stays, as in the paper: it keeps a tile of noise, whose DCT is
    flat and so has the largest entropy of all, below one with structure.
    """
    spectrum = np.abs(scipy.fft.dctn(tiles, axes=(1, 2), norm="ortho"))
    norm = np.sqrt((spectrum**2).sum(axis=(1, 2), keepdims=True))
    spectrum /= np.maximum(norm, 1e-6)
    height, width = tiles.shape[1:]
    radius = DCT_SUPPORT * min(height, width)
    support = np.arange(height)[:, None] / height + np.arange(width)[None, :] / width < DCT_SUPPORT
    inside = np.maximum(spectrum[:, support].astype(np.float64), 1e-12)
    return np.asarray(-2 / radius**2 * (inside * np.log2(inside)).sum(axis=1))


def _spectral_slope(tiles: Image) -> Floats:
    """Slope of log power against log frequency over `SLOPE_BAND`, in `SLOPE_RINGS` rings.

    The logarithm of power below the noise means nothing, so a ring has at least three
    standard errors of the noise that was subtracted, and at least a share of the lowest ring's power.
    """
    height, width = tiles.shape[1:]
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    centred = (tiles - tiles.mean(axis=(1, 2), keepdims=True)) * window
    spectrum = scipy.fft.rfft2(centred)
    power = (spectrum.real**2 + spectrum.imag**2).reshape(len(tiles), -1).astype(np.float64)
    frequency = np.hypot(
        scipy.fft.fftfreq(height)[:, None], scipy.fft.rfftfreq(width)[None, :]
    ).ravel()
    noise = power[:, frequency > NOISE_BAND].mean(axis=1)
    edges = np.geomspace(*SLOPE_BAND, SLOPE_RINGS + 1)
    points, weights, logs = [], [], []
    lowest: Floats | None = None
    for low, high in itertools.pairwise(edges):
        ring = (frequency >= low) & (frequency < high)
        count = int(ring.sum())
        if not count:
            continue
        signal = power[:, ring].mean(axis=1) - noise
        lowest = np.maximum(signal, 1e-9) if lowest is None else lowest
        floor = np.maximum(3 * noise / np.sqrt(count), SLOPE_FLOOR * lowest)
        logs.append(np.log(np.maximum(signal, np.maximum(floor, 1e-9))))
        points.append(np.log(frequency[ring].mean()))
        weights.append(count)
    x, w = np.array(points), np.array(weights, dtype=np.float64)
    x = x - np.average(x, weights=w)
    return np.asarray((w * x) @ np.stack(logs) / (w @ x**2))


def find_hot_pixels(frames: Iterable[Pixels]) -> NDArray[np.bool_]:
    """Pixels that differ from their neighbours in the same way at every defocus.

    Parameters
    ----------
    frames : iterable of ndarray, shape (height, width)
        At least two planes, spread over the whole range: a defect is sharp in all of them,
        the specimen only in focus.

    Returns
    -------
    ndarray of bool, shape (height, width)
        False everywhere if more than one pixel in a hundred would be hot, because these are not defects.

    Raises
    ------
    InputError
        If there is no frame.
    """
    low: Image | None = None
    high: Image | None = None
    for pixels in frames:
        image = pixels.astype(np.float32)
        local = ndimage.median_filter(image, size=3, mode="nearest")
        residual = image - local
        # Shot noise grows with the light, so each pixel is compared with the noise of its surroundings.
        spread = np.float32(1.4826) * np.median(np.abs(residual)) + np.float32(0.5)
        bright = np.sqrt(np.maximum(local - np.median(local), 0) / (spread**2) + 1)
        excess = residual / (spread * bright)
        low = excess if low is None else np.minimum(low, excess)
        high = excess if high is None else np.maximum(high, excess)
    if low is None or high is None:
        raise InputError("no plane to look for hot pixels in: give a stack")
    hot = np.asarray((low > HOT_SIGMAS) | (high < -HOT_SIGMAS))
    return hot if hot.mean() <= HOT_SHARE else np.zeros_like(hot)
