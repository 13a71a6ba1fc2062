"""A card played by the processor: the real kernels, compiled for it, on its memory.

Streams run at once, which is one of the orders that a card may take: the order of waits is
left to the recorded calls.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from refocusd.engines.tensorrt.device import Argument
from refocusd.engines.tensorrt.kernels import kernel_source
from refocusd.models.bundle import ModelBundle

__all__ = ["HostDevice", "HostNetwork", "kernels_for_host", "small_bundle"]

PRELUDE = """
#include <cmath>
#define __global__
#define __device__ static
struct Place { int x, y; };
static Place blockIdx, threadIdx, blockDim = {1, 1};
static float __fmul_rn(float a, float b) { volatile float c = a * b; return c; }
static float __fadd_rn(float a, float b) { volatile float c = a + b; return c; }
static float __fsub_rn(float a, float b) { volatile float c = a - b; return c; }
static void atomicAdd(unsigned int* p, unsigned int n) { *p += n; }
using std::rintf;
extern "C" void at(int x, int y) { blockIdx.x = x; blockIdx.y = y; }
"""


def small_bundle(onnx: Path, step: int = 8, field: int = 3) -> ModelBundle:
    """Describe a bundle of one network."""
    return ModelBundle(
        onnx.parent, "small", "0" * 64, 1.0, 99.9, step, field, onnx, normalisation="percentiles"
    )


def kernels_for_host(folder: Path) -> ctypes.CDLL:
    """Compile the kernels for the processor; skips where there is no compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to run the kernels on the processor with")
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    # The real ones find their pixel by themselves: here they are led through all of them.
    loops = "".join(
        f"""
extern "C" void all_{name}(int height, int width, void** a) {{
    for (int y = 0; y < height; ++y) for (int x = 0; x < width; ++x) {{ at(x, y); {call} }}
}}
"""
        for name, call in _calls()
    )
    source.write_text(PRELUDE + kernel_source() + loops, encoding="utf-8")
    subprocess.run(
        [compiler, "-O1", "-ffp-contract=off", "-shared", "-fPIC", str(source), "-o", str(library)],
        check=True,
    )
    return ctypes.CDLL(str(library))


def _calls() -> list[tuple[str, str]]:
    def call(name: str, types: Sequence[str]) -> str:
        values = ", ".join(f"*({kind}*)a[{index}]" for index, kind in enumerate(types))
        return f"{name}({values});"

    found = []
    for name, counts in (("u8", "unsigned char*"), ("u16", "unsigned short*")):
        normalise = [counts, *["int"] * 5, "float", "float", "float*", "int", "int"]
        restore = ["float*", *["int"] * 3, counts, *["int"] * 5, "float", "float", "unsigned int*"]
        found.append((f"normalise_{name}", call(f"normalise_{name}", normalise)))
        found.append((f"restore_{name}", call(f"restore_{name}", restore)))
    return found


class HostDevice:
    """See the module."""

    def __init__(self, kernels: ctypes.CDLL, memory_bytes: int = 1 << 30) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.locked: dict[int, NDArray[np.uint8]] = {}
        self.memory_bytes = memory_bytes
        self.closed = False
        self._kernels = kernels
        self._streams = self._events = 0

    def free_bytes(self) -> int:
        return self.memory_bytes - sum(held.nbytes for held in self.memory.values())

    def malloc(self, nbytes: int) -> int:
        if nbytes > self.free_bytes():
            raise MemoryError("the card's memory ran out")
        held = np.full(nbytes, 0xFF, np.uint8)  # as floats: not a number
        self.memory[held.ctypes.data] = held
        return int(held.ctypes.data)

    def free(self, pointer: int) -> None:
        del self.memory[pointer]

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        held = np.full(nbytes, 0xEE, np.uint8)
        self.locked[held.ctypes.data] = held
        return held

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        del self.locked[memory.ctypes.data]

    def stream(self) -> int:
        self._streams += 1
        return self._streams

    def event(self) -> int:
        self._events += 1
        return self._events

    def record(self, event: int, stream: int) -> None:
        self.calls.append(f"record {event} on {stream}")

    def wait(self, stream: int, event: int) -> None:
        assert f" {event} on " in "".join(c + " on " for c in self.calls), "never recorded"
        self.calls.append(f"{stream} waits for {event}")

    def finish(self, event: int) -> None:
        self.calls.append(f"finish {event}")

    def elapsed_ms(self, begun: int, ended: int) -> float:
        assert begun != ended
        return 1.0

    def zero(self, pointer: int, nbytes: int, stream: int) -> None:
        ctypes.memset(pointer, 0, nbytes)

    def upload(self, pointer: int, memory: NDArray[np.uint8], stream: int) -> None:
        self.calls.append(f"upload {memory.nbytes} on {stream}")
        ctypes.memmove(pointer, memory.ctypes.data, memory.nbytes)

    def download(self, memory: NDArray[np.uint8], pointer: int, stream: int) -> None:
        self.calls.append(f"download {memory.nbytes} on {stream}")
        ctypes.memmove(memory.ctypes.data, pointer, memory.nbytes)

    def launch(
        self, kernel: str, size: tuple[int, int], arguments: Sequence[Argument], stream: int
    ) -> None:
        self.calls.append(f"{kernel} on {stream}")
        held: list[Any] = [kind(value) for value, kind in arguments]
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
        getattr(self._kernels, f"all_{kernel}")(*size, pointers)

    def capture(self, work: Callable[[], None], stream: int) -> Callable[[], None]:
        self.calls.append("capture")
        return work

    def replay(self, graph: Callable[[], None], stream: int) -> None:
        self.calls.append("replay")
        graph()

    def free_graph(self, graph: object) -> None:
        self.calls.append("free graph")

    def close(self) -> None:
        self.closed = True


class HostNetwork:
    """A network that the processor computes, from normalised tiles to refocused ones."""

    def __init__(
        self,
        compute: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        scratch_per_pixel: int = 1,
    ) -> None:
        self.compute = compute
        self.scratch_per_pixel = scratch_per_pixel
        self.shapes: list[tuple[int, int, int, int]] = []

    def session(self, shape: tuple[int, int, int, int]) -> _HostSession:
        return _HostSession(self, shape)


class _HostSession:
    def __init__(self, network: HostNetwork, shape: tuple[int, int, int, int]) -> None:
        self.scratch_bytes = network.scratch_per_pixel * shape[0] * shape[2] * shape[3]
        self._network, self._shape = network, shape

    def bind(self, raw: int, refocused: int, scratch: int) -> None:
        def floats(pointer: int) -> NDArray[np.float32]:
            held = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
            return np.ctypeslib.as_array(held, self._shape)

        self._raw, self._refocused = floats(raw), floats(refocused)

    def enqueue(self, stream: int) -> None:
        self._network.shapes.append(self._shape)
        self._refocused[...] = self._network.compute(self._raw)

    def can_be_captured(self, stream: int) -> bool:
        return True
