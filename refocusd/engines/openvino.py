"""The embedded CPU engine: a bundle's ONNX, compiled by OpenVINO."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refocusd.config import EngineOptions
from refocusd.engines.autotune import recalled
from refocusd.engines.engine import EngineDescription, Refocused
from refocusd.engines.tiling import Tile, least_tile_px, plan_tiles, reflect_into
from refocusd.errors import EngineError
from refocusd.frame import Pixels
from refocusd.imaging.normalise import CountsRange, check_frame
from refocusd.models.bundle import ModelBundle

__all__ = ["DEFAULT_ENGINE_MIB", "OpenVinoEngine", "engine_threads", "openvino_precision"]

log = logging.getLogger(__name__)

#: Memory that one frame may take in the engine where the settings do not say.
DEFAULT_ENGINE_MIB = 2048
#: Frame shapes whose measured tiles are remembered.
MAX_SHAPES = 16
#: Name of the output that is the refocused frame; the first where none is named so.
OUTPUT = "refocused"
DEFAULTS = EngineOptions()
#: oneDNN keeps this many channels together, and pads others up to it.
CHANNELS_TOGETHER = 16
#: What is estimated from the graph is exceeded by up to 12 % (measured: f32 and bf16, 512² to
#: 2048²; live network 196 B/px estimated, 170-189 measured; a network of 64 to 160 channels
#: at full resolution 1028 estimated, 1143-1155 measured).
MEMORY_MARGIN = 1.25
#: No network answers this; where it is still there, nothing was computed.
UNANSWERED = np.finfo(np.float32).min
#: How OpenVINO says that memory ran out, where it says so.
OUT_OF_MEMORY = re.compile(r"alloc|out of memory|not enough memory", re.IGNORECASE)

Computed = Literal["f32", "bf16", "int8"]


def engine_threads(wanted: int = 0) -> int:
    """Threads for a CPU engine: as wanted, or all cores but one where there are more than two.

    The core left over is the acquisition's.  On two cores the engine's
    threads are better kept and the scheduler left to choose: the worker runs at
    a low priority.
    """
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        # Those that this process may use: a container or a scheduler may keep the others.
        cores = len(os.sched_getaffinity(0))
    return wanted or (cores - 1 if cores > 2 else cores)


class OpenVinoEngine:
    """Runs a bundle on the CPU.

    Frames go whole where that fits into ``engine_mib`` (2048 MiB unless set) and
    ``tile_px`` does not ask for less; otherwise in the largest tiles that fit, as halos
    are computed twice.  If memory runs out nevertheless, the frame is tried again in
    smaller tiles, and so are all later ones.

    Parameters
    ----------
    bundle : ModelBundle
    options : EngineOptions
        Precision ``auto`` is bf16 where the processor computes in it, else int8 where the
        bundle has an accepted int8 network and the processor is able, else f32.  Always
        set explicitly: left alone, OpenVINO picks bf16 silently.  ``int8`` computes what is
        not quantised in bf16 or f32, likewise.  Threads: see `engine_threads`; OpenVINO's
        threads inherit the priority of the thread that builds the engine.

    Raises
    ------
    EngineError
        If OpenVINO cannot compile the network, the processor or the bundle lacks the
        precision asked for, or tiles or memory asked for are too small.
    """

    def __init__(self, bundle: ModelBundle, options: EngineOptions = DEFAULTS) -> None:
        import openvino

        self._bundle = bundle
        self._core = openvino.Core()
        # A mapped file cannot be replaced on Windows: a model could not be updated under a
        # running worker.  (Weights inside an ONNX file are never mapped, those beside it are.)
        self._core.set_property({"ENABLE_MMAP": sys.platform != "win32"})
        chosen, hint = openvino_precision(self._core, bundle, options.precision)
        self._onnx = bundle.variants["int8"] if chosen == "int8" else bundle.onnx
        self._how = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(engine_threads(options.threads)),
            "ENABLE_CPU_PINNING": "NO",  # the acquisition may sit on any core
        }
        version = openvino.__version__
        runtime = f"openvino-{version.split('-')[0]}-cpu"
        self.description = EngineDescription.of_bundle(bundle, "openvino", chosen, "CPU", runtime)
        self._request: Any = None
        self._output: Any = None
        self._closed = False
        self._buffer: NDArray[np.float32] | None = None
        self._options = options
        self._tile_batch = options.tile_batch or 1
        self._tile_px = options.tile_px
        #: What was measured on this computer, by shape of the frame: tile and batch.
        self._measured: dict[tuple[int, int], tuple[int, int]] = {}
        least = self._least = least_tile_px(bundle, options.tile_px)
        model = self._compile()
        needed = MEMORY_MARGIN * _bytes_per_pixel(
            model, bundle.size_multiple, 4 if hint == "f32" else 2
        )
        #: Of one tile, all of a batch together staying within the memory allowed.
        self._tile_pixels = _tile_pixels(bundle, options, least, needed)

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Run one flat frame of `shape` (height, width)."""
        flat = np.zeros(shape, np.uint16)
        self.refocus(flat, flat.copy())

    def tiles(self, shape: tuple[int, int]) -> list[Tile]:
        """How a frame of `shape` (height, width) goes through the network."""
        return self._plan(shape)[0]

    def _plan(self, shape: tuple[int, int]) -> tuple[list[Tile], int]:
        """Tiles of a frame, and how many go through the network at once."""
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
        """Tile and batch as `autotune` measured them; zeros where it did not, or others are set."""
        if self._tile_px or self._options.tile_batch:
            return 0, 0
        if shape not in self._measured:
            while len(self._measured) >= MAX_SHAPES:
                del self._measured[next(iter(self._measured))]
            found = recalled(self.description.key, shape, self._options)
            self._measured[shape] = (found.tile_px, found.tile_batch)
        return self._measured[shape]

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        """Estimate the in-focus frame into `out`; see `Engine.refocus`."""
        check_frame(raw, out)
        counts = self._bundle.counts_range(raw)
        self._make_ready()
        while True:
            plan, together = self._plan(raw.shape)
            try:
                return self._refocus(raw, out, counts, plan, together)
            except MemoryError as error:
                self._shrink(plan[0].shape, error)

    def infer(self, normalised: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network alone on a whole frame, in network units.

        Parameters
        ----------
        normalised : ndarray of float32, shape (height, width)

        Returns
        -------
        ndarray of float32, same shape

        Raises
        ------
        EngineError
            If OpenVINO fails on it.
        """
        self._make_ready()
        (tile,) = plan_tiles(normalised.shape, 0, 0, self._bundle.size_multiple)
        batch = self._input(1, tile.shape)
        batch[0, 0][tile.crop] = normalised
        reflect_into(batch[0, 0], normalised.shape)
        answer: NDArray[np.float32] = self._run(batch)[0][tile.crop].copy()
        return answer

    def close(self) -> None:
        """Free the compiled network."""
        self._closed = True
        self._request = self._output = self._buffer = None

    def _refocus(
        self, raw: Pixels, out: Pixels, counts: CountsRange, plan: list[Tile], together: int
    ) -> Refocused:
        engine_ms, clipped = 0.0, 0
        for first in range(0, len(plan), together):
            tiles = plan[first : first + together]
            batch = self._input(len(tiles), tiles[0].shape)
            for tile, into in zip(tiles, batch[:, 0], strict=True):
                part = raw[tile.read]
                counts.normalise(part, into[: part.shape[0], : part.shape[1]])
                reflect_into(into, part.shape)
            begun = time.perf_counter()
            answers = self._run(batch)
            engine_ms += (time.perf_counter() - begun) * 1e3
            for tile, answer in zip(tiles, answers, strict=True):
                try:
                    clipped += counts.restore(answer[tile.crop], out[tile.write])
                except EngineError as error:
                    raise EngineError(f"model {self._bundle.model_id}: {error}") from error
        return Refocused(counts, engine_ms, clipped)

    def _input(self, count: int, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Memory for a batch, its content undefined; that of the last one where it fits."""
        wanted = (count, 1, *shape)
        if self._buffer is None or self._buffer.shape != wanted:
            self._buffer = None  # not both at a time
            self._buffer = np.empty(wanted, np.float32)
        return self._buffer

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's answers, shape (count, height, width), in OpenVINO's own memory.

        They are good until the next run, and may be overwritten.

        Raises
        ------
        MemoryError
            If memory ran out.  The compiled network is of no use then.
        EngineError
            If OpenVINO fails otherwise, or returns another shape.
        """
        height, width = batch.shape[2:]
        earlier = self._request.get_tensor(self._output).data
        if earlier.size:
            earlier.flat[0] = UNANSWERED
        try:
            self._request.infer([batch], share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            if OUT_OF_MEMORY.search(str(error)):
                raise MemoryError(str(error)) from error
            raise EngineError(
                f"OpenVINO failed on {width}×{height} px of a frame: {error}"
            ) from error
        answers: NDArray[np.float32] = self._request.get_tensor(self._output).data
        # On one thread OpenVINO (2026.4) fails to allocate without a word, and leaves the
        # answer to another frame in place.
        if not answers.size or answers.flat[0] == UNANSWERED:
            raise MemoryError("OpenVINO computed nothing")
        if answers.shape != batch.shape or answers.dtype != np.float32:
            raise EngineError(
                f"the network {self._bundle.model_id} returned {answers.dtype} {answers.shape} "
                f"for {batch.shape}; it is no refocusing network"
            )
        return answers[:, 0]

    # -- the compiled network ------------------------------------------------------------

    def _compile(self) -> Any:
        """Compile the network; returns the model that it was read into."""
        model, self._request, self._output = _compiled(self._core, self._onnx, self._how)
        return model

    def _shrink(self, shape: tuple[int, int], error: MemoryError) -> None:
        """Take smaller tiles from now on, with a fresh network.

        After a failed allocation the old one fails on every frame, or returns wrong ones.
        """
        self._request = self._output = self._buffer = None
        if self._tile_batch == 1 and max(shape) <= self._least:
            self._compile_again()
            raise EngineError(
                f"the memory ran out for model {self._bundle.model_id}, with {shape[1]}×{shape[0]} px at a "
                "time, and less will not do; close other programs, or take a smaller model"
            ) from error
        if self._tile_batch > 1:
            self._tile_batch = 1
        else:
            self._tile_px = max(max(shape) // 2, self._least)
        log.warning(
            "the memory ran out with %d×%d px at a time; trying again with less", shape[1], shape[0]
        )
        self._compile_again()

    def _make_ready(self) -> None:
        if self._closed:
            raise EngineError(f"the engine of {self._bundle.model_id} is closed; build another")
        if self._request is None:  # the memory ran out, and may be back
            self._compile_again()

    def _compile_again(self) -> None:
        try:
            self._compile()
        except (EngineError, MemoryError) as error:
            raise EngineError(
                f"the memory ran out for model {self._bundle.model_id}, which cannot even be "
                "compiled again; close other programs"
            ) from error


def _compiled(core: Any, onnx: Path, how: dict[str, str]) -> tuple[Any, Any, Any]:
    """A network as OpenVINO's model, a request to run it, and its refocused output."""
    try:
        model = core.read_model(str(onnx))
        if len(model.inputs) != 1:
            raise ValueError(f"it takes {len(model.inputs)} inputs, a refocusing network one")
        # Ours are dynamic; others may state the size of the frames that they were made with.
        model.reshape([-1, 1, -1, -1])
        compiled = core.compile_model(model, "CPU", how)
        request = compiled.create_infer_request()
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"OpenVINO cannot compile {onnx}: {error}") from error
    named = [port for port in compiled.outputs if OUTPUT in port.get_names()]
    return model, request, named[0] if named else compiled.outputs[0]


def openvino_precision(core: Any, bundle: ModelBundle, wanted: str) -> tuple[Computed, str]:
    """The precision that is computed in, and OpenVINO's hint for what is not quantised."""
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hint: Computed = "bf16" if "BF16" in able else "f32"
    if wanted == "auto":
        # int8 is hardly faster than bf16 and costs up to 0.1 dB; beside f32 it is the gain.
        quantised = "int8" in bundle.variants and "INT8" in able and hint == "f32"
        return ("int8" if quantised else hint), hint
    if wanted == "f32":
        return "f32", "f32"
    if wanted == "bf16":
        if hint != "bf16":
            raise EngineError(
                "this processor does not compute in bf16; set precision to f32 or auto"
            )
        return "bf16", hint
    if wanted == "int8":
        if "INT8" not in able:
            raise EngineError(
                "this processor does not compute in int8; set precision to f32 or auto"
            )
        if "int8" not in bundle.variants:
            raise EngineError(
                f"model {bundle.model_id} has no int8 network; set precision to auto, or export "
                "the model with --int8"
            )
        return "int8", hint
    raise EngineError(
        f"the openvino backend does not compute in {wanted}; set precision to f32, bf16, int8 or auto"
    )


def _tile_pixels(bundle: ModelBundle, options: EngineOptions, least: int, needed: float) -> int:
    """Pixels that a tile may have, of `needed` bytes each."""
    batch = options.tile_batch or 1
    pixels = int(((options.engine_mib or DEFAULT_ENGINE_MIB) << 20) / needed / batch)
    if pixels < least**2 and options.engine_mib:
        mib = math.ceil(least**2 * needed * batch / 2**20)
        raise EngineError(
            f"engine_mib = {options.engine_mib}: model {bundle.model_id} needs {mib} MiB for "
            f"{batch} of its smallest tiles ({least} px); allow it that much"
        )
    return max(pixels, least**2)


def _bytes_per_pixel(model: Any, step: int, size: int) -> float:
    """Memory that a pixel of a frame takes in the network, estimated from its graph.

    The largest sum of tensors that are alive at a time when the nodes are computed in
    order, with channels padded as oneDNN does, plus input and answer.

    Parameters
    ----------
    model : openvino.Model
        Left with a fixed shape.
    step : int
        Multiple of the sides that it takes.
    size : int
        Bytes of a number.
    """
    side = -(-512 // step) * step
    try:
        model.reshape([1, 1, side, side])
    except RuntimeError as error:
        raise EngineError(
            f"the network takes no frames of {side}×{side} px ({error}); refocusd needs one that "
            f"takes any multiple of {step}"
        ) from error
    nodes = model.get_ordered_ops()
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
    return peak / side**2 * size + 8
