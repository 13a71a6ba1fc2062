"""Tiles of a frame: which pixels a network sees at a time, and which of its results are used.

The plan is the same for every backend.  All tiles of a frame have one shape, so that
a batch or a CUDA graph fits them all, and start on the network's own grid, or its
strides would fall elsewhere than in the whole frame.  Tiles are spread evenly: what
they overlap beyond twice the halo makes the halos larger instead of the tiles odd.

Only the frame's own lower and right border is padded, by reflection, up to the next
multiple: exactly what a frame that goes whole gets.  So a pixel sees the same
surroundings either way, out to the halo at least, and the tiled frame equals the whole
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
        Rows below and columns to the right that are added by reflection; not zero only
        at the frame's own border.
    write : (slice, slice)
        Rows and columns of the frame that this tile answers for.
    crop : (slice, slice)
        The same within the network's answer to this tile.
    """

    read: tuple[slice, slice]
    pad: tuple[int, int]
    write: tuple[slice, slice]
    crop: tuple[slice, slice]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what the network sees, padding included."""
        rows, columns = self.read
        return (rows.stop - rows.start + self.pad[0], columns.stop - columns.start + self.pad[1])


def smallest_tile(halo_px: int, multiple: int) -> int:
    """Smallest side of a tile, in px: two halos and one step of the network's grid."""
    # Two steps at least: a padded tile must hold more pixels than are reflected.
    return max(2 * _up(halo_px, multiple) + multiple, 2 * multiple)


def least_tile_px(bundle: ModelBundle, tile_px: int) -> int:
    """Smallest side of a bundle's tiles, in px.

    Raises
    ------
    EngineError
        If the side that is asked for is smaller; 0 asks for none.
    """
    least = smallest_tile(bundle.receptive_field_px, bundle.size_multiple)
    if 0 < tile_px < least:
        raise EngineError(
            f"tile_px = {tile_px}: model {bundle.model_id} needs tiles of {least} px or more, as a "
            f"pixel depends on {bundle.receptive_field_px} px around it"
        )
    return least


def plan_tiles(shape: tuple[int, int], tile_px: int, halo_px: int, multiple: int = 1) -> list[Tile]:
    """Cut a frame into tiles whose answers cover it exactly once.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the frame, px; multiples of nothing.
    tile_px : int
        Largest side of what goes through the network, px, halos included; a side of the
        frame that is not larger is not cut.  0: the whole frame is one tile.
    halo_px : int
        Surroundings that a pixel needs on every side, px: `ModelBundle.receptive_field_px`.
    multiple : int
        Sides of what goes through the network, and where it starts, are multiples of this.

    Returns
    -------
    list of Tile
        All of one shape, row by row.

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
    """Fill the lower and right rest of a tile by reflection, in place.

    Parameters
    ----------
    tile : ndarray of float32, shape (height, width)
    filled : (int, int)
        Rows and columns that hold pixels; reflected repeatedly where they are fewer than
        the rest (as ``numpy.pad(..., mode="reflect")`` does).
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
    # The outer halos of the outermost tiles are used too, because nothing lies beyond them.
    count = -(-(padded - 2 * halo) // (side - 2 * halo))
    # No larger than needed for this count: a frame slightly larger than one tile does not need two full ones.
    side = max(_up(-(-(padded - 2 * halo) // count), multiple) + 2 * halo, 2 * multiple)
    steps = (padded - side) // multiple
    starts = [index * steps // (count - 1) * multiple for index in range(count)]
    # Each seam lies in the middle of what two tiles share.
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
    """Where positions `filled` to `length` lie in a line of `filled` pixels, mirrored."""
    period = max(2 * (filled - 1), 1)
    position = np.arange(filled, length) % period
    return np.minimum(position, period - position) if filled > 1 else np.zeros_like(position)
