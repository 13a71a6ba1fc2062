"""Means over blocks and tiles of a frame, and how sharp each tile is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import Pixels

Floats = NDArray[np.float32]

#: Tiles in focus are sharper than the first value, tiles far from focus are less sharp than the second.
_SHARP, _BLURRED = 0.32, 0.285
#: A part of a frame has at least this many tiles with structure, and at least this share of them.
_PART_TILES, _PART_SHARE = 4, 0.1


@dataclass(frozen=True, slots=True, eq=False)
class TileFocus:
    """How sharp each tile of a frame is.

    Parameters
    ----------
    fine, coarse : ndarray of float32, shape (rows, columns)
        Growth of the structure function from 1 to 2 and from 2 to 4 binned pixels, counts².
    chance : ndarray of float32, same shape
        Largest value of `fine` that noise alone is likely to give (three standard errors).
    """

    fine: Floats
    coarse: Floats
    chance: Floats

    @property
    def structured(self) -> NDArray[np.bool_]:
        """Tiles that hold more than noise."""
        return np.asarray(self.coarse > 3 * self.chance)

    @property
    def sharpness(self) -> Floats:
        """Fine over coarse growth: 0.25 for a wide blur, 0.35 to 1 for one under 2 px; 0 without structure."""
        return np.asarray(
            np.where(self.structured, self.fine / np.maximum(self.coarse, 1e-6), 0),
            dtype=np.float32,
        )


def means(pixels: NDArray[np.generic], factor: int) -> Floats:
    """Means of blocks of `factor` by `factor` pixels; incomplete blocks at the ends are left out."""
    return np.asarray(folded(pixels, factor, np.add) / np.float32(factor**2))


def folded(pixels: NDArray[np.generic], factor: int, fold: np.ufunc) -> Floats:
    """Blocks reduced by `fold` (a sum or a maximum); incomplete blocks at the ends are left out."""
    height, width = (side // factor * factor for side in pixels.shape)
    rows = pixels[0:height:factor, :width].astype(np.float32)
    for step in range(1, factor):
        fold(rows, pixels[step:height:factor, :width], out=rows, casting="unsafe")
    blocks = rows[:, 0::factor].copy()
    for step in range(1, factor):
        fold(blocks, rows[:, step::factor], out=blocks)
    return np.asarray(blocks)


def pooled(
    values: Floats, rows: int, columns: int | None = None, *, like: Floats | None = None
) -> Floats:
    """Means of tiles of `rows` by `columns` pixels; tiles at the ends may be smaller or up to half larger.

    With `like`, the tiles start where they would in that frame.
    """
    columns = columns or rows
    height, width = (like if like is not None else values).shape
    down = _starts(height, rows, values.shape[0])
    across = _starts(width, columns, values.shape[1])
    sums = np.add.reduceat(np.add.reduceat(values, down, axis=0), across, axis=1)
    counts = np.outer(
        np.diff(down, append=values.shape[0]), np.diff(across, append=values.shape[1])
    )
    return np.asarray(sums / counts, dtype=np.float32)


def _starts(side: int, step: int, have: int) -> NDArray[np.intp]:
    """Where tiles start; a remainder of less than half a tile belongs to the tile before it."""
    starts = np.arange(0, max(side - step // 2, 1), step)
    return starts[starts < have]


def tile_side_px(shape: tuple[int, ...]) -> int:
    """Side of the tiles of a frame of this shape, px."""
    side = min(shape)
    return 32 if side < 256 else 64 if side < 1500 else 128


def tile_focus(pixels: Pixels, tile_px: int) -> TileFocus:
    """Measure how sharp each tile is, by the structure function of 2x2 binned pixels.

    Noise cancels in the growth from one lag to the next (after D. Vollath, J. Microsc. 151, 133, 1988).
    """
    binned = means(pixels, 2)
    tile = tile_px // 2
    growth = []
    for lag in (1, 2, 4):
        across = np.square(binned[:, lag:] - binned[:, :-lag])
        down = np.square(binned[lag:] - binned[:-lag])
        both = pooled(across, tile, like=binned) + pooled(down, tile, like=binned)
        growth.append(both * np.float32(0.25))
    one, two, four = growth
    by_chance = one * np.float32(3 / math.sqrt(2 * tile**2))
    return TileFocus(*(np.asarray(part) for part in (two - one, four - two, by_chance)))


def sharp_part(focus: TileFocus) -> NDArray[np.bool_] | None:
    """The tiles that are in focus, in a frame that is out of focus elsewhere.

    The median of each tile and its neighbours decides, so that debris does not count.

    Returns
    -------
    ndarray of bool, shape (rows, columns), or None
        None if the whole frame seems to be in focus, or the whole frame out of focus.
    """
    told = focus.structured
    if not told.any():
        return None
    around = _neighbours_median(focus.sharpness, told)
    part = around > (_SHARP + _BLURRED) / 2
    inside, outside = around[part & told], around[~part & told]
    least = max(_PART_TILES, _PART_SHARE * float(told.sum()))
    if min(len(inside), len(outside)) < least:
        return None
    if np.median(inside) < _SHARP or np.median(outside) > _BLURRED:
        return None
    return np.asarray(part)


def _neighbours_median(values: Floats, told: NDArray[np.bool_]) -> Floats:
    """Median over the 3x3 tiles around each, of those in `told`; where there is none, over the frame."""
    rows, columns = values.shape
    known = np.pad(np.where(told, values, np.inf), 1, constant_values=np.inf)
    near = np.sort(
        [known[y : y + rows, x : x + columns] for y in range(3) for x in range(3)], axis=0
    )
    count = np.isfinite(near).sum(axis=0)
    middle = np.take_along_axis(near, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    return np.asarray(np.where(count > 0, middle, np.median(values[told])), dtype=np.float32)


def weights_outside(part: NDArray[np.bool_], tile_px: int, shape: tuple[int, ...]) -> Floats:
    """Weight of each pixel: 1 outside a part, 0 in its tiles, and a ramp of half a tile at its border.

    Parameters
    ----------
    part : ndarray of bool, shape (rows, columns)
    tile_px : int
        Side of the tiles.
    shape : (int, int)
        Height and width of the frame, px.

    Returns
    -------
    ndarray of float32, shape `shape`
    """
    weights = (~part).astype(np.float32)
    for axis, side in enumerate(shape):
        middles = (np.arange(part.shape[axis]) + 0.5) * tile_px
        places = np.interp(np.arange(side) + 0.5, middles, np.arange(len(middles)))
        first = np.minimum(places.astype(int), len(middles) - 1)
        last = np.minimum(first + 1, len(middles) - 1)
        share = (places - first).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        taken = (np.take(weights, index, axis=axis) for index in (first, last))
        weights = next(taken) * (1 - share) + next(taken) * share
    return np.asarray(np.clip(2 * weights - 1, 0, 1))
