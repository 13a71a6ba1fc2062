"""Runs a bundle's ONNX with ONNX Runtime, through one of its execution providers.

`refocusd.engines.runtimes.tensorrt` has the provider for NVIDIA cards.  The tests have one for the processor,
which runs the same code without a card.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refocusd.config import EngineOptions
from refocusd.engines.engine import EngineDescription, card_lost
from refocusd.engines.runtimes.half import halved
from refocusd.errors import EngineError
from refocusd.files import reading
from refocusd.models.bundle import ModelBundle

#: Messages of ONNX Runtime and its providers that mean that memory ran out.
OUT_OF_MEMORY = re.compile(
    r"out.of.memory|bad.alloc|failed to allocate|alloc\w* (\w+ )?failed|cudamalloc", re.IGNORECASE
)
#: Messages that mean that the card no longer works.
LOST = re.compile(
    r"illegal (memory access|address|instruction)|launch (failure|timed out)|device.{0,20}lost|"
    r"ecc error|misaligned address|driver shutting down|context is destroyed",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shapes (batch, channels, height, width) that an engine takes.

    Parameters
    ----------
    least, best, largest : tuple of int
        Limits of each side by itself; kernels are chosen for `best`.
    """

    least: tuple[int, int, int, int]
    best: tuple[int, int, int, int]
    largest: tuple[int, int, int, int]

    @classmethod
    def of(cls, step: int, channels: int, batch: int, best_px: int, largest_px: int) -> Shapes:
        """Shapes whose sides are multiples of `step`.

        `largest_px` is the largest side for one tile; it is smaller for larger batches, so that the number
        of pixels stays the same.
        """
        largest = max(int(largest_px / math.sqrt(batch)) // step, 1) * step
        best = min(max(best_px // step, 1) * step, largest)
        return cls(
            (1, channels, step, step),
            (batch, channels, best, best),
            (batch, channels, largest, largest),
        )

    def __str__(self) -> str:
        return " ".join("x".join(map(str, s)) for s in (self.least, self.best, self.largest))


@dataclass(frozen=True, slots=True)
class Graph:
    """A network in the form that a provider receives.

    Parameters
    ----------
    model : bytes
        ONNX with dynamic sides, in the types in which it is computed.
    source_sha256 : str
        SHA-256 of the bundle's file that it was made from.
    precision : {"f32", "f16"}
    input : str
        Name of the only input.
    shapes : Shapes
    """

    model: bytes
    source_sha256: str
    precision: str
    input: str
    shapes: Shapes


class Provider(Protocol):
    """Runs graphs on one device."""

    #: Names of the backend and of the device.
    backend: str
    device: str
    #: Name and version of the library that computes, and its target.
    runtime: str
    #: Precisions it supports, the one for ``auto`` first.
    precisions: tuple[str, ...]

    def session(self, graph: Graph) -> Any:
        """An ``InferenceSession`` of a graph.

        Raises
        ------
        MemoryError, EngineError
        """


class OnnxRuntimeNetwork:
    """A graph run by ONNX Runtime; see `Network`.

    Parameters
    ----------
    bundle : ModelBundle
    options : EngineOptions
        Precision ``auto`` is the provider's first.
    provider : Provider
    shapes : Shapes
        Shapes of its batches.

    Raises
    ------
    EngineError
        If the provider cannot compile the network, or does not compute in the precision asked for.
    """

    def __init__(
        self, bundle: ModelBundle, options: EngineOptions, provider: Provider, shapes: Shapes
    ) -> None:
        precision = options.precision
        if precision == "auto":
            precision = provider.precisions[0]  # type: ignore[assignment]
        if precision not in provider.precisions:
            raise EngineError(
                f"backend {provider.backend} computes in {' or '.join(provider.precisions)}, not "
                f"{precision}; set precision to auto"
            )
        self.onnx = bundle.onnx
        self._provider = provider
        self._graph = graph_of(bundle, precision, shapes)
        self._session: Any = self._loaded()
        self.outputs = tuple(port.name for port in self._session.get_outputs())
        self.description = EngineDescription.of_bundle(
            bundle, provider.backend, precision, provider.device, provider.runtime
        )

    def run(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Run the network; see `Network.run`."""
        if self._session is None:  # memory ran out, and may be free again
            self._session = self._loaded()
        try:
            return tuple(self._session.run(None, {self._graph.input: batch}))
        except runtime_errors() as error:
            height, width = batch.shape[2:]
            raise self._failure(f"{width}×{height} px of a frame", error) from error

    def close(self) -> None:
        """Free the device."""
        self._session = None

    def _loaded(self) -> Any:
        try:
            return self._provider.session(self._graph)
        except runtime_errors() as error:
            raise self._failure(f"compiling {self.onnx}", error) from error

    def _failure(self, what: str, error: BaseException) -> Exception:
        """The error to raise; a session that can no longer be used is closed."""
        said = str(error)
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(said):
            self.close()
            return MemoryError(said)
        if LOST.search(said):
            self.close()
            return card_lost(said)
        return EngineError(f"backend {self._provider.backend} failed on {what}: {said}")


def runtime_errors() -> tuple[type[BaseException], ...]:
    """The exceptions of ONNX Runtime, whose only common base is `Exception`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (kind for kind in vars(state).values() if isinstance(kind, type))
    return (
        MemoryError,
        RuntimeError,
        ValueError,
        *(kind for kind in own if issubclass(kind, Exception)),
    )


def graph_of(bundle: ModelBundle, precision: str, shapes: Shapes) -> Graph:
    """A bundle's network in a precision, for frames of any size.

    Raises
    ------
    EngineError
        If the file is not a network that takes one frame, or a weight is beyond the range of f16.
    """
    import onnx
    from google.protobuf.message import DecodeError

    with reading(bundle.onnx, EngineError):
        content = bundle.onnx.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise EngineError(f"{bundle.onnx} is not an ONNX file: {error}") from error
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [port for port in model.graph.input if port.name not in constants]
    if len(inputs) != 1 or not model.graph.output:
        raise EngineError(
            f"{bundle.onnx} takes {len(inputs)} inputs and gives {len(model.graph.output)} outputs; a "
            "refocusing network takes one frame and gives at least one"
        )
    # Ours are dynamic; others may state the size of the frames that they were made with.
    for port in (inputs[0], *model.graph.output):
        sides = port.type.tensor_type.shape.dim
        for axis, name in zip(sides, ("batch", "", "height", "width"), strict=False):
            if name and axis.HasField("dim_value") and len(sides) == 4:
                axis.dim_param = name
    if precision == "f16":
        model = halved(model, bundle.onnx)
    return Graph(
        model.SerializeToString(deterministic=True),
        hashlib.sha256(content).hexdigest(),
        precision,
        inputs[0].name,
        shapes,
    )
