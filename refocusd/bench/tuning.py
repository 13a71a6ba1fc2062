"""Measures the best tiles of an engine, and stores them for `refocusd run`."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from refocusd.bench.combination import Combination, Order
from refocusd.bench.session import ask
from refocusd.engines.autotune import keep
from refocusd.engines.choose import build_engine
from refocusd.engines.tiled import TiledEngine
from refocusd.engines.tiling import least_tile_px
from refocusd.errors import EngineError
from refocusd.models.bundle import load_bundle

log = logging.getLogger(__name__)

#: Side of the tile, px, and batch.
CANDIDATES = ((1024, 1), (512, 1), (512, 4), (1536, 1), (768, 2))
#: Largest side of the frame that is timed, px: enough for several of the largest tiles.
MOST_PX = 3072


def tune(combination: Combination) -> None:
    """Measure tiles and batches for one frame size, and store the fastest.

    Nothing is done for engines that do not use tiles, or if the frame is processed whole.  If the engine
    cannot be built here, the table of results says why.

    Raises
    ------
    BundleError
    """
    model, options, shape = combination.model, combination.options, combination.shape
    if options.tile_px or options.tile_batch:
        return
    try:
        engine = build_engine(model, options)
    except EngineError as error:
        log.info("%s: %s", combination.name, error)
        return
    try:
        if not isinstance(engine, TiledEngine) or len(engine.tiles(shape)) == 1:
            return
        key = engine.description.key
    finally:
        engine.close()
    bundle = load_bundle(model)
    # Smaller tiles would consist mostly of halos.
    least, multiple = 2 * least_tile_px(bundle, 0), bundle.size_multiple
    timed = (min(shape[0], MOST_PX), min(shape[1], MOST_PX))
    found = []
    for side, batch in CANDIDATES:
        tile = max(side, least) // multiple * multiple
        if tile < max(shape):
            tried = replace(options, tile_px=tile, tile_batch=batch)
            report = ask(Order(Combination(model, tried, timed), frames=1, warm_frames=0))
            if report.refused:
                log.info("tiles of %d px, %d at once: %s", tile, batch, report.refused)
            else:
                found.append((report.engine_ms[0], tile, batch))
    if found:
        frame_ms, tile, batch = min(found)
        log.info("tiles of %d px, %d at once: %.0f ms", tile, batch, frame_ms)
        keep(key, shape, options, replace(options, tile_px=tile, tile_batch=batch))
