"""Best tile and batch for an engine and a frame size, as measured on this computer.

`refocusd bench --tune` measures; engines only look up what it found, so that nothing is
measured while frames come.  An entry that is damaged or of something else counts as none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from pathlib import Path

import msgspec

from refocusd.config import EngineOptions
from refocusd.engines.cache import cache_folder
from refocusd.files import write_whole

log = logging.getLogger(__name__)

#: Entries are small; a larger file is no entry.
MAX_ENTRY_BYTES = 4096


class _Entry(msgspec.Struct, frozen=True):
    key: str
    tile_px: int
    tile_batch: int


def autotune_folder() -> Path:
    """Where measurements are kept: in ``REFOCUSD_CACHE``, else in the user's cache."""
    return cache_folder() / "autotune"


def recalled(key: str, shape: tuple[int, int], options: EngineOptions) -> EngineOptions:
    """Options with the tile and batch that were fastest for frames of one size.

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
        As given where nothing was measured.
    """
    identity = _identity(key, shape, options)
    try:
        path = _path(identity)
        if path.stat().st_size > MAX_ENTRY_BYTES:
            return options
        entry = msgspec.json.decode(path.read_bytes(), type=_Entry)
    except (OSError, msgspec.DecodeError):
        return options
    sound = 0 < entry.tile_px <= 1 << 14 and 0 < entry.tile_batch <= 64
    if entry.key != identity or not sound:
        return options
    return msgspec.structs.replace(options, tile_px=entry.tile_px, tile_batch=entry.tile_batch)


def keep(key: str, shape: tuple[int, int], options: EngineOptions, best: EngineOptions) -> None:
    """Keep the tile and batch of `best` for `recalled`; where that fails, the log says so."""
    identity = _identity(key, shape, options)
    path, entry = _path(identity), _Entry(identity, best.tile_px, best.tile_batch)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.encode(entry), durable=False)
    except OSError as error:
        log.warning("the best tiles cannot be kept in %s: %s", path.parent, error.strerror)


def _path(identity: str) -> Path:
    return autotune_folder() / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"


def _identity(key: str, shape: tuple[int, int], options: EngineOptions) -> str:
    """What a measurement belongs to; it says nothing about anything else."""
    height, width = shape
    computer = f"{platform.node()} {platform.machine()} {os.cpu_count()}"
    # The key names backend, model and precision.
    asked = f"{options.threads} {options.tile_px} {options.tile_batch} {options.engine_mib}"
    return f"1 {key} {width}x{height} {asked} {computer}"
