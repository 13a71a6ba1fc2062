"""The best tiles of an engine, measured and kept for `refocusd run`."""

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

#: Tile and batch.
CANDIDATES = ((1024, 1), (512, 1), (512, 4), (1536, 1), (768, 2))
#: Sides of the frame that is timed, which is cut into several of the largest tiles.
MOST_PX = 3072


def tune(combination: Combination) -> None:
    """Measure tiles and batches for one frame size, and keep the fastest.

    Only for engines that look it up, and only if a frame does not go whole.  What cannot
    be built here is left to the table, which says why.

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
    # A halo on each side as wide as half the tile leaves a quarter of its pixels.
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
