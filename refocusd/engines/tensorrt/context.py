"""A compiled engine as TensorRT runs it, and what its run-time compiler made."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from refocusd.engines.cache import EngineCache, EngineKey
from refocusd.engines.tensorrt.card import Card
from refocusd.engines.tensorrt.edition import Edition
from refocusd.engines.tensorrt.log import engine_log
from refocusd.engines.tensorrt.runner import BatchShape
from refocusd.errors import EngineError

__all__ = ["CompiledNetwork"]

log = logging.getLogger(__name__)


class CompiledNetwork:
    """An engine loaded onto the card.

    The RTX edition compiles its kernels when a shape is first run.  What it made is kept in
    the cache of engines, for this card and driver, so that the next start does not wait.

    Parameters
    ----------
    edition : Edition
    card : Card
    key : EngineKey
        Of the engine.
    payload : bytes
        The engine.
    cache : EngineCache

    Raises
    ------
    EngineError
        If TensorRT refuses the engine, or it is no refocusing network.
    """

    def __init__(
        self, edition: Edition, card: Card, key: EngineKey, payload: bytes, cache: EngineCache
    ) -> None:
        trt = edition.module
        self._trt, self._rtx, self._cache = trt, edition.rtx, cache
        self._log = engine_log(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(payload)
        if self._engine is None:
            raise EngineError(f"TensorRT refuses the engine: {self._log.last_error}")
        self._names = self._ports()
        self._config: Any = None
        self._kernels: Any = None
        self._kernels_key = EngineKey(
            "runtime-cache",
            hashlib.sha256(payload).hexdigest(),
            key.runtime,
            f"{card.name} sm{card.sm} driver {card.driver}",
            key.precision,
            key.shapes,
        )
        self._kept = b""
        if self._rtx:
            self._configure()

    def session(self, shape: BatchShape) -> _TrtSession:
        """An execution context for batches of one shape.

        Raises
        ------
        EngineError
            If the engine was not built for it.
        """
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        # The RTX edition takes its strategy from the configuration.
        context = self._engine.create_execution_context(self._config if self._rtx else strategy)
        if context is None or not context.set_input_shape(self._names[0], shape):
            raise EngineError(
                f"the engine does not take {shape[0]} tiles of {shape[3]}×{shape[2]} px: "
                f"{self._log.last_error}; set a smaller tile_px"
            )
        return _TrtSession(context, self._names, self._log)

    def keep_kernels(self) -> None:
        """Keep what the run-time compiler made so far, if it is more than was kept."""
        if self._kernels is None:
            return
        made = bytes(self._kernels.serialize())
        if made and made != self._kept:
            self._cache.put(self._kernels_key, made)
            self._kept = made

    def close(self) -> None:
        """Let the engine go."""
        self._kernels = self._config = self._engine = self._runtime = None

    def _ports(self) -> tuple[str, str]:
        """Names of the input and of the output."""
        engine, trt = self._engine, self._trt
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        types = {engine.get_tensor_dtype(name) for name in names}
        modes = [engine.get_tensor_mode(name) for name in names]
        # Builders name and order them as they please.
        if modes and modes[0] != trt.TensorIOMode.INPUT:
            names, modes = names[::-1], modes[::-1]
        if modes != [trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT] or types != {trt.float32}:
            raise EngineError(
                f"the engine takes and gives {', '.join(names)} in "
                f"{', '.join(sorted(kind.name for kind in types))}; a refocusing engine takes one "
                "frame and gives one, both in float32"
            )
        return names[0], names[1]

    def _configure(self) -> None:
        trt = self._trt
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        # Not in the background: frames are to be as fast from the first on, and a graph must
        # not record what is about to be replaced.
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        kernels = config.create_runtime_cache()
        kept = self._cache.get(self._kernels_key)
        if kept is not None:
            if kernels.deserialize(kept):
                self._kept = kept
            else:
                log.info("TensorRT compiles its kernels again: those kept do not fit")
        config.set_runtime_cache(kernels)
        self._config, self._kernels = config, kernels


class _TrtSession:
    """One execution context."""

    def __init__(self, context: Any, names: tuple[str, str], engine_log_: Any) -> None:
        self._context, self._names, self._log = context, names, engine_log_
        self.scratch_bytes = int(context.update_device_memory_size_for_shapes())

    def bind(self, raw: int, refocused: int, scratch: int) -> None:
        """Say where on the card the batch, the answers and the memory to work in are."""
        self._context.set_device_memory(scratch, max(self.scratch_bytes, 1))
        taken, given = self._names
        bound = self._context.set_tensor_address(taken, raw)
        if not (bound and self._context.set_tensor_address(given, refocused)):
            raise EngineError(f"TensorRT takes no memory of ours: {self._log.last_error}")

    def enqueue(self, stream: int) -> None:
        """Run the network on the stream."""
        if not self._context.execute_async_v3(stream):
            said = self._log.last_error
            if "memory" in said.lower() and "illegal" not in said.lower():
                raise MemoryError(said)
            raise EngineError(f"TensorRT failed: {said}; set backend to openvino")

    def can_be_captured(self, stream: int) -> bool:
        """Whether a CUDA graph can record `enqueue`."""
        # Only the RTX edition can say no.
        ask = getattr(self._context, "is_stream_capturable", None)
        return bool(ask(stream)) if ask is not None else True
