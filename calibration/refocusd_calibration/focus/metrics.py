"""Focus metrics: how sharp each tile of a frame is, by three definitions.

| name | definition |
|---|---|
| `tenengrad` | squared Sobel gradient over squared light (Tenenbaum 1970; Krotkov 1988) |
| `normalised_variance` | variance over squared light |
| `focus_score` | Vollath's F4, free of noise bias (`refocusd.imaging.quality.focus_score`) |

*Light* is the mean of the whole frame minus the camera's offset. Dividing by it removes bleaching
and lamp drift, and unlike a tile's own mean it does not change when defocus spreads a tile's light
to its neighbours.  Shot and read noise add a constant to the first two (the light of a stack is
almost constant), which the fit of the peak treats as its base.  Hot pixels are equally sharp at
every defocus, so they are replaced by the median of their neighbours before anything is computed.

References
----------
L. Firestone et al., Cytometry 12:195 (1991) (focus metrics compared).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from refocusd.errors import InputError
from refocusd.frame import Pixels
from refocusd.imaging.quality import focus_score

Floats = NDArray[np.float64]
Image = NDArray[np.float32]

#: Names of all metrics, in order of preference where they are equally good.
METRICS = ("tenengrad", "normalised_variance", "focus_score")
#: Tiles along the longer side of a frame, where they are large enough.
TILES = 8
#: Smallest side of a tile, px.
MIN_TILE = 32
#: A hot pixel stands out of its neighbours' median by so many robust deviations.
HOT_SIGMAS = 8.0
#: More hot pixels than this share are structure or noise, not defects.
HOT_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Grid:
    """Equal tiles over a frame; what does not divide is left out along the border.

    Parameters
    ----------
    rows, columns : int
        Of tiles.
    height, width : int
        Of a tile, px.
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
        """Lay square-ish tiles over a frame, `tiles` along its longer side at most.

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

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns

    def tiles(self, image: NDArray[Any]) -> NDArray[Any]:
        """A copy of shape (tiles, height, width), row by row."""
        inner = image[
            self.top : self.top + self.rows * self.height,
            self.left : self.left + self.columns * self.width,
        ]
        split = inner.reshape(self.rows, self.height, self.columns, self.width)
        return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(-1, self.height, self.width)

    def centres_px(self) -> Floats:
        """Shape (tiles, 2): x to the right and y down from the frame's centre, px."""
        y = self.top + (np.arange(self.rows) + 0.5) * self.height - self.shape[0] / 2
        x = self.left + (np.arange(self.columns) + 0.5) * self.width - self.shape[1] / 2
        return np.stack([np.tile(x, self.rows), np.repeat(y, self.columns)], axis=1)


def measure_frame(pixels: Pixels, grid: Grid, offset: float) -> tuple[dict[str, Floats], float]:
    """Every metric of every tile of one frame.

    Parameters
    ----------
    pixels : ndarray of uint8 or uint16, shape (height, width)
        Without hot pixels.
    grid : Grid
    offset : float
        Of the camera, counts.

    Returns
    -------
    dict of str to ndarray of float64, shape (tiles,)
        By name of the metric; larger is sharper.
    float
        Light: mean counts above the offset.
    """
    image = pixels.astype(np.float32) - np.float32(offset)
    light = float(image.mean(dtype=np.float64))
    # A dark frame has no light to normalise by, and no peak to be found either.
    scale = 1.0 / max(light, 1e-3) ** 2
    gradient = ndimage.sobel(image, 0) ** 2 + ndimage.sobel(image, 1) ** 2
    values = {
        "tenengrad": scale * grid.tiles(gradient).mean(axis=(1, 2), dtype=np.float64),
        "normalised_variance": scale * grid.tiles(image).var(axis=(1, 2), dtype=np.float64),
        "focus_score": np.array([focus_score(tile) for tile in grid.tiles(pixels)]),
    }
    return values, light


def find_hot_pixels(frames: Iterable[Pixels]) -> NDArray[np.bool_]:
    """Pixels that differ from their neighbours in the same way at every defocus.

    Parameters
    ----------
    frames : iterable of ndarray, shape (height, width)
        Some planes over the whole range, at least two: what is sharp in focus is not
        sharp at the ends of the range, a defect is.

    Returns
    -------
    ndarray of bool, shape (height, width)
        None at all where more than one in a hundred would be: that is no defect.
    """
    low: Image | None = None
    high: Image | None = None
    for pixels in frames:
        image = pixels.astype(np.float32)
        local = ndimage.median_filter(image, size=3, mode="nearest")
        residual = image - local
        # Shot noise grows with the light: what stands out does so by its own surroundings.
        spread = np.float32(1.4826) * np.median(np.abs(residual)) + np.float32(0.5)
        bright = np.sqrt(np.maximum(local - np.median(local), 0) / (spread**2) + 1)
        excess = residual / (spread * bright)
        low = excess if low is None else np.minimum(low, excess)
        high = excess if high is None else np.maximum(high, excess)
    if low is None or high is None:
        raise InputError("no plane to look for hot pixels in: give a stack")
    hot = np.asarray((low > HOT_SIGMAS) | (high < -HOT_SIGMAS))
    return hot if hot.mean() <= HOT_SHARE else np.zeros_like(hot)
