"""The best tiles of an engine, measured and kept for `refocusd run`."""

from __future__ import annotations

import logging

from refocusd.bench.combination import Combination
from refocusd.engines.autotune import tuned
from refocusd.engines.choose import build_engine
from refocusd.engines.tiled import TiledEngine
from refocusd.errors import EngineError
from refocusd.models.bundle import load_bundle

log = logging.getLogger(__name__)


def tune(combination: Combination) -> None:
    """Measure tiles and batches for one frame size, unless that was done before.

    Only of engines that look it up, and only where a frame does not go whole.  What cannot
    be built here is left to the table, which says why.

    Raises
    ------
    BundleError
    """
    model, options, shape = combination.model, combination.options, combination.shape
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
    tuned(
        lambda tried: build_engine(model, tried),
        shape,
        options,
        key=key,
        receptive_field_px=bundle.receptive_field_px,
        size_multiple=bundle.size_multiple,
    )
