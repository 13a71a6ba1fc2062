"""Best tile and batch for an engine and a frame size, as measured on this computer.

`refocusd bench --tune` measures; engines only look up the results, so that nothing is
measured during an acquisition.  An entry that is damaged or has another key is ignored.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Annotated

import msgspec

from refocusd.config import EngineOptions
from refocusd.engines.cache import EngineCache, EngineKey, cache_folder


class _Tiles(msgspec.Struct, frozen=True):
    tile_px: Annotated[int, msgspec.Meta(gt=0, le=1 << 14)]
    tile_batch: Annotated[int, msgspec.Meta(gt=0, le=64)]


def autotune_folder() -> Path:
    """Folder of the measurements, in ``REFOCUSD_CACHE`` or else in the user's cache."""
    return cache_folder() / "autotune"


def recalled(key: str, shape: tuple[int, int], options: EngineOptions) -> EngineOptions:
    """Options with the tile and batch that were measured as fastest for frames of one size.

    Parameters
    ----------
    key : str
        `EngineDescription.key` of the engine.
    shape : (int, int)
        Height and width of the frames, px.
    options : EngineOptions
        As given to the engine.

    Returns
    -------
    EngineOptions
        The given ones if nothing was measured.
    """
    kept = EngineCache(autotune_folder()).get(_identity(key, shape, options))
    try:
        best = msgspec.json.decode(kept or b"", type=_Tiles)
    except msgspec.DecodeError:
        return options
    return msgspec.structs.replace(options, tile_px=best.tile_px, tile_batch=best.tile_batch)


def keep(key: str, shape: tuple[int, int], options: EngineOptions, best: EngineOptions) -> None:
    """Store the tile and batch of `best` for `recalled`; if that fails, the log says so."""
    tiles = msgspec.json.encode(_Tiles(best.tile_px, best.tile_batch))
    EngineCache(autotune_folder()).put(_identity(key, shape, options), tiles)


def _identity(key: str, shape: tuple[int, int], options: EngineOptions) -> EngineKey:
    """The key of a measurement: everything on which its result depends."""
    height, width = shape
    computer = f"{platform.node()} {platform.machine()} {os.cpu_count()}"
    asked = f"{options.threads} {options.tile_px} {options.tile_batch} {options.engine_mib}"
    # `key` contains backend, model and precision.
    return EngineKey("tiles", key, asked, computer, "", f"{width}x{height}")
