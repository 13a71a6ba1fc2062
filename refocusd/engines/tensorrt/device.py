"""The few CUDA calls that an engine makes, and nothing else.

`Device` says them; `CudaDevice` makes them through cuda-python.  Pointers, streams, events
and graphs are whole numbers or handles that only the device knows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refocusd.engines.engine import card_lost
from refocusd.engines.tensorrt.kernels import BLOCK
from refocusd.errors import EngineError

__all__ = ["Argument", "CudaDevice", "Device"]

#: A kernel's argument with its C type.
Argument = tuple[float, type[Any]]
Bytes = NDArray[np.uint8]


class Device(Protocol):
    """A card that works through streams of calls.

    Calls on a stream return before they are done.  Where memory runs out, `MemoryError` is
    raised; where the card is lost, `DeviceLostError`.
    """

    def free_bytes(self) -> int:
        """Memory of the card that nobody uses."""

    def malloc(self, nbytes: int) -> int:
        """Memory on the card, aligned to 256 bytes."""

    def free(self, pointer: int) -> None:
        """Give memory on the card back, once nothing uses it."""

    def pinned(self, nbytes: int) -> Bytes:
        """Memory of the computer that the card reads and writes itself."""

    def free_pinned(self, memory: Bytes) -> None:
        """Give `pinned` memory back."""

    def stream(self) -> int:
        """Another stream."""

    def event(self) -> Any:
        """Another event."""

    def record(self, event: Any, stream: int) -> None:
        """Let `event` happen when the stream has come here."""

    def wait(self, stream: int, event: Any) -> None:
        """Let the stream go on only after `event`."""

    def finish(self, event: Any) -> None:
        """Return when `event` has happened."""

    def elapsed_ms(self, begun: Any, ended: Any) -> float:
        """Time between two events that have happened, ms."""

    def zero(self, pointer: int, nbytes: int, stream: int) -> None:
        """Fill memory on the card with zeros."""

    def upload(self, pointer: int, memory: Bytes, stream: int) -> None:
        """Copy pinned memory to the card."""

    def download(self, memory: Bytes, pointer: int, stream: int) -> None:
        """Copy memory of the card to pinned memory."""

    def launch(
        self, kernel: str, size: tuple[int, int], arguments: Sequence[Argument], stream: int
    ) -> None:
        """Run one thread of a kernel for each of `size` (height, width) pixels."""

    def capture(self, work: Callable[[], None], stream: int) -> Any:
        """Record what `work` does on the stream, as a graph."""

    def replay(self, graph: Any, stream: int) -> None:
        """Do again what a graph recorded."""

    def free_graph(self, graph: Any) -> None:
        """Forget a graph."""

    def close(self) -> None:
        """Free streams, events and kernels."""


class CudaDevice:
    """A card, through cuda-python.

    Parameters
    ----------
    kernels : bytes
        Machine code of `refocusd.engines.tensorrt.kernels`.
    index : int

    Raises
    ------
    EngineError
        If the card does not take the kernels.
    """

    def __init__(self, kernels: bytes, index: int = 0) -> None:
        from cuda.bindings import driver, runtime

        self._cuda, self._driver = runtime, driver
        self._streams: list[Any] = []
        self._events: list[Any] = []
        self._functions: dict[str, Any] = {}
        self._check(runtime.cudaSetDevice(index))
        self._check(runtime.cudaFree(0))  # makes the context that the driver's calls need
        self._module = self._drive(driver.cuModuleLoadData(kernels))

    def free_bytes(self) -> int:
        """Memory of the card that nobody uses."""
        free, _total = self._check(self._cuda.cudaMemGetInfo())
        return int(free)

    def malloc(self, nbytes: int) -> int:
        """Memory on the card, aligned to 256 bytes."""
        return int(self._check(self._cuda.cudaMalloc(nbytes))[0])

    def free(self, pointer: int) -> None:
        """Give memory on the card back; waits for what still uses it."""
        self._check(self._cuda.cudaFree(pointer))

    def pinned(self, nbytes: int) -> Bytes:
        """Memory of the computer that the card reads and writes itself."""
        (pointer,) = self._check(self._cuda.cudaHostAlloc(nbytes, self._cuda.cudaHostAllocDefault))
        held = ctypes.cast(int(pointer), ctypes.POINTER(ctypes.c_uint8))
        memory: Bytes = np.ctypeslib.as_array(held, (nbytes,))
        return memory

    def free_pinned(self, memory: Bytes) -> None:
        """Give `pinned` memory back."""
        self._check(self._cuda.cudaFreeHost(memory.ctypes.data))

    def stream(self) -> int:
        """Another stream, that waits for no other."""
        flags = self._cuda.cudaStreamNonBlocking
        (stream,) = self._check(self._cuda.cudaStreamCreateWithFlags(flags))
        self._streams.append(stream)
        return int(stream)

    def event(self) -> Any:
        """Another event, that keeps the time."""
        (event,) = self._check(self._cuda.cudaEventCreateWithFlags(self._cuda.cudaEventDefault))
        self._events.append(event)
        return event

    def record(self, event: Any, stream: int) -> None:
        """Let `event` happen when the stream has come here."""
        self._check(self._cuda.cudaEventRecord(event, stream))

    def wait(self, stream: int, event: Any) -> None:
        """Let the stream go on only after `event`."""
        self._check(self._cuda.cudaStreamWaitEvent(stream, event, 0))

    def finish(self, event: Any) -> None:
        """Return when `event` has happened."""
        self._check(self._cuda.cudaEventSynchronize(event))

    def elapsed_ms(self, begun: Any, ended: Any) -> float:
        """Time between two events that have happened, ms."""
        return float(self._check(self._cuda.cudaEventElapsedTime(begun, ended))[0])

    def zero(self, pointer: int, nbytes: int, stream: int) -> None:
        """Fill memory on the card with zeros."""
        self._check(self._cuda.cudaMemsetAsync(pointer, 0, nbytes, stream))

    def upload(self, pointer: int, memory: Bytes, stream: int) -> None:
        """Copy pinned memory to the card."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        source = memory.ctypes.data
        self._check(self._cuda.cudaMemcpyAsync(pointer, source, memory.nbytes, kind, stream))

    def download(self, memory: Bytes, pointer: int, stream: int) -> None:
        """Copy memory of the card to pinned memory."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        into = memory.ctypes.data
        self._check(self._cuda.cudaMemcpyAsync(into, pointer, memory.nbytes, kind, stream))

    def launch(
        self, kernel: str, size: tuple[int, int], arguments: Sequence[Argument], stream: int
    ) -> None:
        """Run one thread for each of `size` (height, width) pixels."""
        if kernel not in self._functions:
            function = self._drive(self._driver.cuModuleGetFunction(self._module, kernel.encode()))
            self._functions[kernel] = function
        height, width = size
        grid = (-(-width // BLOCK[0]), -(-height // BLOCK[1]), 1)
        values = tuple(value for value, _ in arguments)
        types = tuple(kind for _, kind in arguments)
        self._drive(
            self._driver.cuLaunchKernel(
                self._functions[kernel], *grid, *BLOCK, 1, 0, stream, (values, types), 0
            )
        )

    def capture(self, work: Callable[[], None], stream: int) -> Any:
        """Record what `work` does on the stream, as a graph to `replay`."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check(self._cuda.cudaStreamBeginCapture(stream, mode))
        try:
            work()
        finally:
            ended = self._cuda.cudaStreamEndCapture(stream)
        (graph,) = self._check(ended)
        try:
            (ready,) = self._check(self._cuda.cudaGraphInstantiate(graph, 0))
        finally:
            self._check(self._cuda.cudaGraphDestroy(graph))
        return ready

    def replay(self, graph: Any, stream: int) -> None:
        """Do again what a graph recorded."""
        self._check(self._cuda.cudaGraphLaunch(graph, stream))

    def free_graph(self, graph: Any) -> None:
        """Forget a graph."""
        self._check(self._cuda.cudaGraphExecDestroy(graph))

    def close(self) -> None:
        """Free streams, events and kernels; a lost card has none left."""
        for event in self._events:
            self._cuda.cudaEventDestroy(event)
        for stream in self._streams:
            self._cuda.cudaStreamDestroy(stream)
        self._driver.cuModuleUnload(self._module)
        self._events, self._streams, self._functions = [], [], {}

    def _check(self, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a call of the runtime returned, beside its status."""
        status, *rest = answer
        errors = self._cuda.cudaError_t
        if status == errors.cudaErrorMemoryAllocation:
            self._cuda.cudaGetLastError()  # the next call is not to see it
            raise MemoryError("the card's memory ran out")
        if status != errors.cudaSuccess:
            raise card_lost(status.name)
        return tuple(rest)

    def _drive(self, answer: tuple[Any, ...]) -> Any:
        """What a call of the driver returned, beside its status."""
        status, *rest = answer
        errors = self._driver.CUresult
        if status == errors.CUDA_ERROR_OUT_OF_MEMORY:
            raise MemoryError("the card's memory ran out")
        if status == errors.CUDA_ERROR_NO_BINARY_FOR_GPU:
            raise EngineError("the kernels are of another card; delete the cache of engines")
        if status != errors.CUDA_SUCCESS:
            raise card_lost(status.name)
        return rest[0] if rest else None
