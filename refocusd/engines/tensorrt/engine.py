"""The TensorRT engine that a worker sees."""

from __future__ import annotations

import logging

import numpy as np

from refocusd.config import EngineOptions
from refocusd.engines.cache import EngineCache, EngineKey
from refocusd.engines.engine import EngineDescription, Refocused
from refocusd.engines.tensorrt.builder import compiled, shape_range
from refocusd.engines.tensorrt.card import Card, find_card
from refocusd.engines.tensorrt.context import CompiledNetwork
from refocusd.engines.tensorrt.device import CudaDevice, Device
from refocusd.engines.tensorrt.edition import Edition, load_edition
from refocusd.engines.tensorrt.kernels import compiled_kernels
from refocusd.engines.tensorrt.runner import FrameRunner, Network, needed_bytes
from refocusd.engines.tiling import Tile, least_tile_px, plan_tiles
from refocusd.errors import DeviceLostError, EngineError
from refocusd.frame import Pixels
from refocusd.imaging.normalise import check_frame
from refocusd.models.bundle import ModelBundle

__all__ = ["TensorRtEngine", "TiledEngine"]

log = logging.getLogger(__name__)

DEFAULTS = EngineOptions()
#: Of the card's free memory, where the settings do not say: others use the card too.
SHARE = 0.6
#: Largest side of a tile on a card that draws the desktop, px: it stutters while a kernel runs,
#: and the system ends those that run for long.
DISPLAY_PX = 1024
#: How much smaller the next try is.
SMALLER = 0.75


class TiledEngine:
    """Frames through a network on a card, in tiles that fit into its memory.

    Parameters
    ----------
    bundle : ModelBundle
    options : EngineOptions
    device : Device
    network : Network
    display : bool
        Whether the card draws the desktop.

    Raises
    ------
    EngineError
        If the tiles asked for are too small, or the memory is for the smallest.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        options: EngineOptions,
        device: Device,
        network: Network,
        *,
        display: bool = False,
    ) -> None:
        self._bundle, self._device, self._network = bundle, device, network
        step = bundle.size_multiple
        self._least = least_tile_px(bundle, options.tile_px)
        self._batch = options.tile_batch or 1
        largest = shape_range(step, self._batch).largest[2]
        if largest < self._least:
            raise EngineError(
                f"tile_batch = {self._batch}: model {bundle.model_id} needs tiles of {self._least} px, "
                f"and {largest} px are the most that go through together; set a smaller tile_batch"
            )
        self._largest = min(options.tile_px or largest, largest)
        if display and not options.tile_px:
            self._largest = min(self._largest, max(DISPLAY_PX, self._least))
        self._limit = (options.engine_mib << 20) or int(SHARE * device.free_bytes())
        self._plans: dict[tuple[tuple[int, int], int], list[Tile]] = {}
        self._runner = FrameRunner(device, network, self._limit)

    def tiles(self, shape: tuple[int, int], itemsize: int = 2) -> list[Tile]:
        """How a frame of `shape` (height, width) goes through the network.

        Raises
        ------
        EngineError
            If the memory allowed is not enough for the smallest tiles.
        """
        known = self._plans.get((shape, itemsize))
        if known is not None:
            return known
        step, field = self._bundle.size_multiple, self._bundle.receptive_field_px
        side = self._largest // step * step
        while True:
            plan = plan_tiles(shape, side, field, step)
            batch = (min(self._batch, len(plan)), 1, *plan[0].shape)
            nbytes = needed_bytes(self._network.session(batch), shape, itemsize, batch)
            if nbytes <= self._limit:
                break
            if side <= self._least:
                raise EngineError(
                    f"model {self._bundle.model_id} needs {-(-nbytes >> 20)} MiB of the card's memory "
                    f"for a frame of {shape[1]}×{shape[0]} px, and may take {self._limit >> 20}; set "
                    "engine_mib to more, close other programs, or set backend to openvino"
                )
            side = max(int(side * SMALLER) // step * step, self._least)
        self._plans[shape, itemsize] = plan
        return plan

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        """Estimate the in-focus frame into `out`; see `Engine.refocus`."""
        check_frame(raw, out)
        counts = self._bundle.counts_range(raw)
        for again in (True, False):
            plan = self.tiles(raw.shape, raw.itemsize)
            try:
                engine_ms, clipped = self._runner.run(raw, out, counts, plan, self._batch)
            except MemoryError as error:
                self._runner.forget()
                tile = plan[0].shape
                if not again or max(tile) <= self._least:
                    raise EngineError(
                        f"the card's memory ran out for model {self._bundle.model_id} with "
                        f"{tile[1]}×{tile[0]} px at a time; close other programs, or set a smaller "
                        "engine_mib or backend to openvino"
                    ) from error
                self._shrink(tile)
            else:
                return Refocused(counts, engine_ms, clipped)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Free the card."""
        self._runner.close()
        self._device.close()

    def _shrink(self, tile: tuple[int, int]) -> None:
        self._largest = max(max(tile) // 2, self._least)
        self._plans = {}
        log.warning(
            "the card's memory ran out with %d×%d px at a time; trying again with less",
            tile[1],
            tile[0],
        )


class TensorRtEngine:
    """Runs a bundle on an NVIDIA card by TensorRT.

    The engine is built from the bundle's ONNX the first time, and kept.  Counts go to the
    card and come back; what lies between is done there.  Frames go whole where that fits
    into ``engine_mib`` (60 % of the card's free memory unless set), else in the largest tiles
    that do.  On a card that draws the desktop tiles are at most 1024 px.

    Parameters
    ----------
    bundle : ModelBundle
    options : EngineOptions
        Precision ``auto`` is f16; f32 computes without TF32.

    Raises
    ------
    EngineError
        If TensorRT or a card it knows is missing, it cannot build the engine, or tiles or memory
        asked for are too small.
    """

    def __init__(self, bundle: ModelBundle, options: EngineOptions = DEFAULTS) -> None:
        card = find_card()
        edition = load_edition(card)
        precision = "f16" if options.precision == "auto" else options.precision
        cache = EngineCache()
        device: Device = CudaDevice(compiled_kernels(card.sm, cache))
        self._model_id = bundle.model_id
        self._closed = self._lost = False
        try:
            self._network, key = _loaded(
                bundle, edition, card, precision, options.tile_batch or 1, cache
            )
            self._frames = TiledEngine(
                bundle, options, device, self._network, display=card.drives_display
            )
        except MemoryError as error:
            device.close()
            raise EngineError(
                f"the card's memory is too full for model {bundle.model_id}; close other programs, or "
                "set backend to openvino"
            ) from error
        except EngineError:
            device.close()
            raise
        runtime = f"{key.runtime.replace(' ', '-')}-sm{card.sm}"
        self.description = EngineDescription.of_bundle(
            bundle, "tensorrt", precision, card.name, runtime
        )

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Run two flat frames of `shape` (height, width): one compiles, one records the graph."""
        flat = np.zeros(shape, np.uint16)
        for _ in range(2):
            self.refocus(flat, flat.copy())
        self._network.keep_kernels()

    def tiles(self, shape: tuple[int, int]) -> list[Tile]:
        """How a frame of `shape` (height, width) goes through the network."""
        return self._frames.tiles(shape)

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        """Estimate the in-focus frame into `out`; see `Engine.refocus`.

        Raises
        ------
        DeviceLostError
            If the card fails; every later frame fails too.
        """
        if self._closed:
            raise EngineError(f"the engine of {self._model_id} is closed; build another")
        try:
            return self._frames.refocus(raw, out)
        except DeviceLostError:
            self._lost = True
            raise

    def close(self) -> None:
        """Free the card."""
        if self._closed:
            return
        self._closed = True
        if not self._lost:  # a lost card frees nothing
            self._frames.close()
        self._network.close()


def _loaded(
    bundle: ModelBundle,
    edition: Edition,
    card: Card,
    precision: str,
    batch: int,
    cache: EngineCache,
) -> tuple[CompiledNetwork, EngineKey]:
    key, payload = compiled(bundle, edition, card, precision, batch, cache)
    try:
        return CompiledNetwork(edition, card, key, payload, cache), key
    except EngineError as error:
        # Kept by another driver, or altered where no sum tells: once more from the model.
        log.warning("%s: it is built again", error)
    cache.discard(key)
    key, payload = compiled(bundle, edition, card, precision, batch, cache)
    return CompiledNetwork(edition, card, key, payload, cache), key
