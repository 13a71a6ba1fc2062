"""Best tile and batch for an engine and a frame size, measured once on this computer.

`refocusd bench --tune` measures; engines only look up what it found, so that nothing is
measured while frames come.  An entry that is not whole, or another's, is none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from refocusd.config import EngineOptions
from refocusd.engines.cache import cache_folder
from refocusd.engines.engine import Engine
from refocusd.engines.tiling import plan_tiles, smallest_tile
from refocusd.errors import EngineError
from refocusd.files import write_whole

log = logging.getLogger(__name__)

#: All of it, building the engines included.
BUDGET_S = 5.0
#: Likeliest best first: where the budget ends, the rest is not tried.
CANDIDATES = ((1024, 1), (512, 1), (512, 4), (1536, 1), (768, 2))
#: Entries are small; a larger file is no entry.
MAX_ENTRY_BYTES = 4096

Build = Callable[[EngineOptions], Engine]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    tile_px: int
    tile_batch: int
    frame_ms: float


def autotune_folder() -> Path:
    """Where measurements are kept: in ``REFOCUSD_CACHE``, else in the user's cache."""
    return cache_folder() / "autotune"


def tuned(
    build: Build,
    shape: tuple[int, int],
    options: EngineOptions,
    *,
    key: str,
    receptive_field_px: int,
    size_multiple: int,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> EngineOptions:
    """Options with the tile and batch that are fastest for frames of one size.

    Each candidate is timed on as many tiles as it takes at once; a whole frame is as many
    such steps as its tiles are.  So the largest frame costs no more than a tile.

    Parameters
    ----------
    build : callable
        Makes an engine of the model with given options.
    shape : (int, int)
        Height and width of the frames, px, too large to go whole.
    options : EngineOptions
        Returned as they are if they say both tile and batch.
    key : str
        `EngineDescription.key` of the engine.
    receptive_field_px, size_multiple : int
        Of the bundle.
    budget_s : float
        No candidate is begun that would exceed it, by what those before it took.  The first
        is always measured.
    clock : callable
        Seconds.

    Returns
    -------
    EngineOptions
        As given if no candidate works: the engine chooses then.
    """
    if options.tile_px and options.tile_batch:
        return options
    identity = _identity(key, shape, options)
    path = _path(identity)
    entry = _read(path, identity)
    if entry is None:
        entry = _measured(
            build, shape, options, identity, (receptive_field_px, size_multiple), budget_s, clock
        )
        if entry is None:
            return options
        _write(path, entry)
    return msgspec.structs.replace(options, tile_px=entry.tile_px, tile_batch=entry.tile_batch)


def recalled(key: str, shape: tuple[int, int], options: EngineOptions) -> EngineOptions:
    """Options with the tile and batch that `tuned` found for frames of one size.

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
    if options.tile_px and options.tile_batch:
        return options
    identity = _identity(key, shape, options)
    entry = _read(_path(identity), identity)
    if entry is None:
        return options
    return msgspec.structs.replace(options, tile_px=entry.tile_px, tile_batch=entry.tile_batch)


def _path(identity: str) -> Path:
    return autotune_folder() / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"


def _measured(
    build: Build,
    shape: tuple[int, int],
    options: EngineOptions,
    identity: str,
    network: tuple[int, int],
    budget_s: float,
    clock: Callable[[], float],
) -> _Entry | None:
    begun = clock()
    best: _Entry | None = None
    per_pixel_s = built_s = 0.0
    for tile_px, tile_batch in _candidates(shape, options, network):
        pixels = tile_px * tile_px * tile_batch
        # Twice: once to warm up.
        expected_s = built_s + 2 * per_pixel_s * pixels
        if best is not None and clock() - begun + expected_s > budget_s:
            continue
        chosen = msgspec.structs.replace(options, tile_px=tile_px, tile_batch=tile_batch)
        try:
            before = clock()
            engine = build(chosen)
            built_s = clock() - before
            try:
                step_s, steps = _timed(engine, shape, (tile_px, tile_batch), network, clock)
            finally:
                engine.close()
        except (EngineError, MemoryError) as error:
            log.info("tiles of %d px, %d at once: %s", tile_px, tile_batch, error)
            continue
        per_pixel_s = max(per_pixel_s, step_s / pixels)
        frame_ms = step_s * steps * 1e3
        log.info("tiles of %d px, %d at once: %.0f ms a frame", tile_px, tile_batch, frame_ms)
        if best is None or frame_ms < best.frame_ms:
            best = _Entry(identity, tile_px, tile_batch, frame_ms)
    return best


def _candidates(
    shape: tuple[int, int], options: EngineOptions, network: tuple[int, int]
) -> list[tuple[int, int]]:
    """Tile and batch, those that the options fix excepted."""
    field, multiple = network
    least = smallest_tile(field, multiple)
    found: list[tuple[int, int]] = []
    for side, batch in CANDIDATES:
        # A halo on each side as wide as half the tile leaves a quarter of its pixels.
        tile = options.tile_px or max(side, 2 * least) // multiple * multiple
        pair = (tile, options.tile_batch or batch)
        if pair not in found and (options.tile_px or tile < max(shape)):
            found.append(pair)
    return found


def _timed(
    engine: Engine,
    shape: tuple[int, int],
    candidate: tuple[int, int],
    network: tuple[int, int],
    clock: Callable[[], float],
) -> tuple[float, int]:
    """Seconds of one batch of tiles, and how many of these a frame takes."""
    tile_px, tile_batch = candidate
    field, multiple = network
    halo = -(-field // multiple) * multiple
    wide = tile_px + (tile_batch - 1) * (tile_px - 2 * halo)
    rng = np.random.default_rng(0)
    probe = rng.integers(100, 4000, (tile_px, wide), dtype=np.uint16)
    out = np.empty_like(probe)
    engine.warm_up(probe.shape)
    before = clock()
    engine.refocus(probe, out)
    step_s = clock() - before
    tiles = len(plan_tiles(shape, tile_px, field, multiple))
    return step_s, -(-tiles // tile_batch)


def _identity(key: str, shape: tuple[int, int], options: EngineOptions) -> str:
    """What a measurement belongs to; anything else and it says nothing."""
    height, width = shape
    computer = f"{platform.node()} {platform.machine()} {os.cpu_count()}"
    # The key names backend, model and precision.
    asked = f"{options.threads} {options.tile_px} {options.tile_batch} {options.engine_mib}"
    return f"1 {key} {width}x{height} {asked} {computer}"


def _read(path: Path, identity: str) -> _Entry | None:
    try:
        if path.stat().st_size > MAX_ENTRY_BYTES:
            return None
        entry = msgspec.json.decode(path.read_bytes(), type=_Entry)
    except (OSError, msgspec.DecodeError):
        return None
    sound = 0 < entry.tile_px <= 1 << 14 and 0 < entry.tile_batch <= 64
    return entry if entry.key == identity and sound else None


def _write(path: Path, entry: _Entry) -> None:
    """Whole or not at all; that it cannot be kept costs a measurement the next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.encode(entry), durable=False)
    except OSError as error:
        log.warning("the best tiles cannot be kept in %s: %s", path.parent, error.strerror)
