"""Runs a compiled network that sees frames at full size on frames of any size.

A frame is processed whole if it fits into the memory allowed and ``tile_px`` does not ask for less;
otherwise in the largest tiles that fit, because halos are computed twice.  If memory runs out
nevertheless, this frame and all later ones are processed in smaller tiles.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.config import EngineOptions
from refocusd.engines.autotune import recalled
from refocusd.engines.engine import EngineDescription, Network, Refocused
from refocusd.engines.tiling import Tile, least_tile_px, plan_tiles, reflect_into
from refocusd.errors import EngineError
from refocusd.frame import Pixels
from refocusd.imaging.hot_pixels import Mending
from refocusd.imaging.normalise import CountsRange, check_frame
from refocusd.models.bundle import ModelBundle

log = logging.getLogger(__name__)

#: oneDNN stores channels in blocks of this many, padded if necessary.
CHANNELS_TOGETHER = 16
#: The memory in use exceeds the estimate from the graph by up to 12 % (measured with OpenVINO: f32 and bf16,
#: 512² to 2048²; live network 196 B/px estimated, 170-189 measured; a network of 64 to 160 channels
#: at full resolution 1028 estimated, 1143-1155 measured).
MARGIN = 1.25

#: Name of the output with the refocused frame; without an output of this name, it is the first one.
OUTPUT = "refocused"
#: Number of frame shapes whose measured tiles are remembered.
MAX_SHAPES = 16


class TiledEngine:
    """Refocuses with a network that sees frames at full size; see `Engine`.

    Parameters
    ----------
    bundle : ModelBundle
    options : EngineOptions
    network : Network
        Closed with the engine.
    pixel_bytes : float
        Memory that the network needs per pixel, bytes.
    memory_mib : int
        Memory that one frame may take unless `options` state it, MiB.
    largest_px : int
        Largest side of a tile unless `options` state it, px; 0: any.

    Raises
    ------
    EngineError
        If the tiles or the memory asked for are too small.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        options: EngineOptions,
        network: Network,
        *,
        pixel_bytes: float,
        memory_mib: int,
        largest_px: int = 0,
    ) -> None:
        self._bundle, self._options, self._network = bundle, options, network
        self._closed = False
        self._buffer: NDArray[np.float32] | None = None
        self._tile_batch = options.tile_batch or 1
        least = self._least = least_tile_px(bundle, options.tile_px)
        self._tile_px = options.tile_px or (max(largest_px, least) if largest_px else 0)
        #: Tile and batch that were fastest on this computer, by shape of the frame.
        self._measured: dict[tuple[int, int], tuple[int, int]] = {}
        #: Largest number of pixels of a tile with which a batch stays within the memory allowed.
        self._tile_pixels = _tile_pixels(bundle, options, least, pixel_bytes, memory_mib)
        self._output = network.outputs.index(OUTPUT) if OUTPUT in network.outputs else 0

    @property
    def description(self) -> EngineDescription:
        """What the engine runs, and on which device."""
        return self._network.description

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Process one flat frame of `shape` (height, width)."""
        flat = np.zeros(shape, np.uint16)
        self.refocus(flat, flat.copy())

    def tiles(self, shape: tuple[int, int]) -> list[Tile]:
        """The tiles of a frame of `shape` (height, width)."""
        return self._plan(shape)[0]

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        """Estimate the in-focus frame into `out`; see `Engine.refocus`."""
        check_frame(raw, out)
        self._check_open()
        mending = Mending.of(raw)
        counts = self._bundle.counts_range(raw)
        while True:
            plan, together = self._plan(raw.shape)
            try:
                return self._refocus(raw, mending, out, counts, plan, together)
            except MemoryError as error:
                self._shrink(plan[0].shape, error)

    def infer(self, normalised: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run only the network on a whole frame, in network units.

        Parameters
        ----------
        normalised : ndarray of float32, shape (height, width)

        Returns
        -------
        ndarray of float32, same shape

        Raises
        ------
        EngineError
            If the runtime fails.
        """
        self._check_open()
        (tile,) = plan_tiles(normalised.shape, 0, 0, self._bundle.size_multiple)
        batch = self._input(1, tile.shape)
        batch[0, 0][tile.crop] = normalised
        reflect_into(batch[0, 0], normalised.shape)
        answer: NDArray[np.float32] = self._answers(batch)[0][tile.crop].copy()
        return answer

    def close(self) -> None:
        """Free the device."""
        self._closed = True
        self._buffer = None
        self._network.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"the engine of {self._bundle.model_id} is closed; build another")

    def _plan(self, shape: tuple[int, int]) -> tuple[list[Tile], int]:
        """Tiles of a frame, and the number of tiles in a batch."""
        step, batch = self._bundle.size_multiple, self._tile_batch
        height, width = (-(-side // step) * step for side in shape)
        largest = self._tile_px // step * step
        if height * width > self._tile_pixels:
            short = min(height, width)
            side = max(math.isqrt(self._tile_pixels), self._tile_pixels // short)
            largest = min(largest or side, side // step * step)
            tile, together = self._best(shape)
            if (
                tile >= self._least
                and tile * tile * together <= self._tile_pixels * self._tile_batch
            ):
                largest, batch = tile, together
        return plan_tiles(shape, largest, self._bundle.receptive_field_px, step), batch

    def _best(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Tile and batch that `autotune` measured; zeros if it did not, or if the options set them."""
        if self._tile_px or self._options.tile_batch:
            return 0, 0
        if shape not in self._measured:
            while len(self._measured) >= MAX_SHAPES:
                del self._measured[next(iter(self._measured))]
            found = recalled(self.description.key, shape, self._options)
            self._measured[shape] = (found.tile_px, found.tile_batch)
        return self._measured[shape]

    def _refocus(
        self,
        raw: Pixels,
        mending: Mending,
        out: Pixels,
        counts: CountsRange,
        plan: list[Tile],
        together: int,
    ) -> Refocused:
        engine_ms, clipped = 0.0, 0
        for first in range(0, len(plan), together):
            tiles = plan[first : first + together]
            batch = self._input(len(tiles), tiles[0].shape)
            for tile, into in zip(tiles, batch[:, 0], strict=True):
                part = mending.part(raw, tile.read)
                counts.normalise(part, into[: part.shape[0], : part.shape[1]])
                reflect_into(into, part.shape)
            begun = time.perf_counter()
            answers = self._answers(batch)
            engine_ms += (time.perf_counter() - begun) * 1e3
            for tile, answer in zip(tiles, answers, strict=True):
                try:
                    clipped += counts.restore(answer[tile.crop], out[tile.write])
                except EngineError as error:
                    raise EngineError(f"model {self._bundle.model_id}: {error}") from error
        return Refocused(counts, engine_ms, clipped)

    def _input(self, count: int, shape: tuple[int, int]) -> NDArray[np.float32]:
        """An array for a batch, with undefined content; that of the last batch is reused if it fits."""
        wanted = (count, 1, *shape)
        if self._buffer is None or self._buffer.shape != wanted:
            self._buffer = None  # free the old array before the new one is allocated
            self._buffer = np.empty(wanted, np.float32)
        return self._buffer

    def _answers(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's results, shape (count, height, width)."""
        answers = self._network.run(batch)[self._output]
        if answers.shape != batch.shape or answers.dtype != np.float32:
            raise EngineError(
                f"the network {self._bundle.model_id} returned {answers.dtype} {answers.shape} "
                f"for {batch.shape}; it is not a refocusing network"
            )
        return answers[:, 0]

    def _shrink(self, shape: tuple[int, int], error: MemoryError) -> None:
        """Use smaller tiles from now on.

        Raises
        ------
        EngineError
            If they are the smallest already.
        """
        self._buffer = None
        if self._tile_batch == 1 and max(shape) <= self._least:
            raise EngineError(
                f"the memory ran out for model {self._bundle.model_id} with {shape[1]}×{shape[0]} px at a "
                "time, the least possible; close other programs, or use a smaller model"
            ) from error
        if self._tile_batch > 1:
            self._tile_batch = 1
        else:
            self._tile_px = max(max(shape) // 2, self._least)
        log.warning(
            "the memory ran out with %d×%d px at a time; trying again with less", shape[1], shape[0]
        )


def _tile_pixels(
    bundle: ModelBundle, options: EngineOptions, least: int, pixel_bytes: float, memory_mib: int
) -> int:
    """Largest number of pixels of a tile."""
    batch = options.tile_batch or 1
    pixels = int(((options.engine_mib or memory_mib) << 20) / pixel_bytes / batch)
    if pixels < least**2 and options.engine_mib:
        mib = math.ceil(least**2 * pixel_bytes * batch / 2**20)
        raise EngineError(
            f"engine_mib = {options.engine_mib}: model {bundle.model_id} needs {mib} MiB for "
            f"{batch} of its smallest tiles ({least} px); set engine_mib to at least that"
        )
    return max(pixels, least**2)


def pixel_bytes(onnx: Path, step: int, size: int) -> float:
    """Memory that a network needs per pixel of a frame, bytes.

    The largest total size of the tensors that are in memory at the same time when the nodes are
    computed in order, with channels padded as oneDNN does, plus input and output.

    Parameters
    ----------
    onnx : Path
        A network that takes (count, 1, height, width).
    step : int
        The network takes sides that are multiples of this, px.
    size : int
        Bytes per value.

    Raises
    ------
    EngineError
        If the network cannot be read, or does not take frames of any size.
    """
    import openvino

    side = -(-512 // step) * step
    try:
        model = openvino.Core().read_model(str(onnx))
        model.reshape([1, 1, side, side])
    except RuntimeError as error:
        raise EngineError(
            f"the network does not take frames of {side}×{side} px ({error}); refocusd needs one that "
            f"takes any multiple of {step}"
        ) from error
    return MARGIN * (_peak_numbers(model.get_ordered_ops()) / side**2 * size + 8)


def _peak_numbers(nodes: list[Any]) -> int:
    """The largest number of values that are in memory at the same time."""
    order = {node.get_friendly_name(): index for index, node in enumerate(nodes)}
    dying = [0] * len(nodes)
    alive = peak = 0
    for index, node in enumerate(nodes):
        if node.get_type_name() != "Constant":
            for port in node.outputs():
                users = [target.get_node() for target in port.get_target_inputs()]
                if not users:
                    continue
                shape = [int(length) for length in port.get_shape()]
                if len(shape) == 4 and shape[1] > 1:
                    shape[1] = -(-shape[1] // CHANNELS_TOGETHER) * CHANNELS_TOGETHER
                taken = math.prod(shape)
                alive += taken
                dying[max(order[user.get_friendly_name()] for user in users)] += taken
        peak = max(peak, alive)
        alive -= dying[index]
    return peak
