"""Tiles of a frame: the pixels that a network sees at a time, and which of its results are used.

The plan is the same for every backend.  All tiles of a frame have one shape, so that
a batch or a CUDA graph fits them all.  They start on the network's own grid, because its
strides would otherwise fall on other pixels than in the whole frame.  Tiles are spread evenly: any
overlap beyond twice the halo makes the halos larger, and no tile has another size.

Only the frame's own lower and right border is padded, by reflection, up to the next
multiple, exactly as in a frame that is processed whole.  A pixel therefore has the same
surroundings in both cases, at least out to the halo, and the tiled result equals the whole
one as far as the halo covers the network's effective receptive field.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle


@dataclass(frozen=True, slots=True)
class Tile:
    """One part of a frame that goes through the network.

    Parameters
    ----------
    read : (slice, slice)
        Rows and columns of the frame that the network sees.
    pad : (int, int)
        Number of rows below and columns to the right that are added by reflection; zero except
        at the frame's own border.
    write : (slice, slice)
        Rows and columns of the frame that are taken from this tile.
    crop : (slice, slice)
        The same within the network's output for this tile.
    """

    read: tuple[slice, slice]
    pad: tuple[int, int]
    write: tuple[slice, slice]
    crop: tuple[slice, slice]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the network's input, including padding."""
        rows, columns = self.read
        return (rows.stop - rows.start + self.pad[0], columns.stop - columns.start + self.pad[1])


def smallest_tile(halo_px: int, multiple: int) -> int:
    """Smallest side of a tile, in px: two halos and one step of the network's grid."""
    # At least two steps, because a padded tile must hold more pixels than are reflected.
    return max(2 * _up(halo_px, multiple) + multiple, 2 * multiple)


def least_tile_px(bundle: ModelBundle, tile_px: int) -> int:
    """Smallest side of a bundle's tiles, in px.

    Raises
    ------
    EngineError
        If `tile_px` is smaller; 0 means that no side is asked for.
    """
    least = smallest_tile(bundle.receptive_field_px, bundle.size_multiple)
    if 0 < tile_px < least:
        raise EngineError(
            f"tile_px = {tile_px}: model {bundle.model_id} needs tiles of {least} px or more, as a "
            f"pixel depends on {bundle.receptive_field_px} px around it"
        )
    return least


def plan_tiles(shape: tuple[int, int], tile_px: int, halo_px: int, multiple: int = 1) -> list[Tile]:
    """Cut a frame into tiles whose results cover it exactly once.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the frame, px; any size.
    tile_px : int
        Largest side of a tile, px, including halos; a side of the frame that is not larger
        is not cut.  0: the whole frame is one tile.
    halo_px : int
        Surroundings that a pixel needs on every side, px: `ModelBundle.receptive_field_px`.
    multiple : int
        The sides of tiles and their positions are multiples of this, px.

    Returns
    -------
    list of Tile
        All of the same shape, row by row.

    Raises
    ------
    EngineError
        If `tile_px` is less than `smallest_tile` and the frame does not fit in it.
    """
    rows = _spans(shape[0], tile_px, halo_px, multiple)
    columns = _spans(shape[1], tile_px, halo_px, multiple)
    return [
        Tile(
            (row.read, column.read),
            (row.pad, column.pad),
            (row.write, column.write),
            (row.crop, column.crop),
        )
        for row in rows
        for column in columns
    ]


def reflect_into(tile: NDArray[np.float32], filled: tuple[int, int]) -> None:
    """Fill the empty rows and columns at the end of a tile by reflection, in place.

    Parameters
    ----------
    tile : ndarray of float32, shape (height, width)
    filled : (int, int)
        Number of rows and columns that hold pixels; they are reflected repeatedly if they are
        fewer than the empty ones (as ``numpy.pad(..., mode="reflect")`` does).
    """
    rows, columns = filled
    if rows < tile.shape[0]:
        tile[rows:, :columns] = tile[_reflected(rows, tile.shape[0]), :columns]
    if columns < tile.shape[1]:
        tile[:, columns:] = tile[:, _reflected(columns, tile.shape[1])]


@dataclass(frozen=True, slots=True)
class _Span:
    """A tile along one axis."""

    read: slice
    pad: int
    write: slice
    crop: slice


def _spans(length: int, tile_px: int, halo_px: int, multiple: int) -> list[_Span]:
    padded, halo = _up(length, multiple), _up(halo_px, multiple)
    side = tile_px // multiple * multiple
    if tile_px == 0 or padded <= side:
        whole = slice(0, length)
        return [_Span(whole, padded - length, whole, whole)]
    if side < smallest_tile(halo_px, multiple):
        raise EngineError(
            f"tiles of {tile_px} px are too small for a model that sees {halo_px} px around each "
            f"pixel; set tile_px to {smallest_tile(halo_px, multiple)} or more"
        )
    # The outer halos of the outermost tiles are used, too, because nothing lies beyond them.
    count = -(-(padded - 2 * halo) // (side - 2 * halo))
    # Tiles are no larger than this count needs: a frame slightly larger than one tile does not need two full ones.
    side = max(_up(-(-(padded - 2 * halo) // count), multiple) + 2 * halo, 2 * multiple)
    steps = (padded - side) // multiple
    starts = [index * steps // (count - 1) * multiple for index in range(count)]
    # Each seam lies in the middle of the overlap of two tiles.
    seams = [(left + side + right) // 2 for left, right in itertools.pairwise(starts)]
    spans = []
    for start, low, high in zip(starts, [0, *seams], [*seams, length], strict=True):
        stop = min(start + side, length)
        spans.append(
            _Span(
                slice(start, stop),
                start + side - stop,
                slice(low, high),
                slice(low - start, high - start),
            )
        )
    return spans


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _reflected(filled: int, length: int) -> NDArray[np.intp]:
    """Indices of the pixels that positions `filled` to `length` of a line reflect."""
    period = max(2 * (filled - 1), 1)
    position = np.arange(filled, length) % period
    return np.minimum(position, period - position) if filled > 1 else np.zeros_like(position)
