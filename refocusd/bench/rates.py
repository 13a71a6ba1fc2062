"""Arithmetic and bytes a second of the device that an engine runs on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from refocusd.bench.combination import Rates
from refocusd.engines.runtimes.openvino import engine_threads
from refocusd.errors import EngineError

#: Side of the matrices: large enough that arithmetic is all, small enough for a second.
SIDE = 1536
GPU_SIDE = 8192
COPIED_MIB = 128
RUNS = 7


def measured_rates(backend: str, precision: str, threads: int = 0) -> Rates:
    """Best rates seen of a matrix product and of a copy.

    Parameters
    ----------
    backend : str
        ``openvino`` measures the processor by OpenVINO's own matrix product and numpy's
        copy; others the GPU, by torch.
    precision : {"f32", "f16", "bf16", "int8"}
    threads : int
        As for the engine.

    Raises
    ------
    EngineError
        If there is nothing to measure it with.
    """
    if backend == "openvino":
        return Rates(_cpu_flops(precision, threads), _cpu_copied(), "OpenVINO, numpy")
    return _gpu_rates(precision)


def _best_s(run: Callable[[], Any]) -> float:
    run()
    best = float("inf")
    for _ in range(RUNS):
        begun = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begun)
    return best


def _cpu_flops(precision: str, threads: int) -> float:
    import openvino
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    weights: Any = ops.constant(rng.uniform(-1, 1, (SIDE, SIDE)).astype(np.float32))
    entry: Any = ops.parameter([SIDE, SIDE], np.float32)
    left = entry
    if precision == "int8":
        left, weights = (_quantised(ops, part) for part in (entry, weights))
    model = openvino.Model([ops.matmul(left, weights, False, True)], [entry])
    how = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "f32" else "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(engine_threads(threads)),
    }
    core = openvino.Core()
    if precision == "int8" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        how["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        request = core.compile_model(model, "CPU", how).create_infer_request()
    except RuntimeError as error:
        raise EngineError(f"the matrix product in {precision} cannot be built: {error}") from error
    data = rng.uniform(-1, 1, (SIDE, SIDE)).astype(np.float32)
    return 2 * SIDE**3 / _best_s(lambda: request.infer([data], share_inputs=True))


def _quantised(ops: Any, part: Any) -> Any:
    low, high = (ops.constant(np.float32(limit)) for limit in (-1, 1))
    return ops.fake_quantize(part, low, high, low, high, 255)


def _cpu_copied() -> float:
    source = np.ones(COPIED_MIB << 18, np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / _best_s(lambda: np.copyto(target, source))


def _gpu_rates(precision: str) -> Rates:
    try:
        import torch
    except ImportError as error:
        raise EngineError("the GPU's rates need torch, which is not installed") from error
    kinds = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    if not torch.cuda.is_available() or precision not in kinds:
        raise EngineError(f"torch has no GPU to measure {precision} on")

    def run(job: Callable[[], Any]) -> float:
        def synchronised() -> None:
            job()
            torch.cuda.synchronize()

        return _best_s(synchronised)

    # Not of ones: equal bits draw less power, and a card then clocks higher than a network lets it.
    matrix = torch.randn(GPU_SIDE, GPU_SIDE, dtype=kinds[precision], device="cuda")
    into = torch.empty_like(matrix)
    flops = 2 * GPU_SIDE**3 / run(lambda: torch.mm(matrix, matrix, out=into))
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / run(lambda: target.copy_(source))
    return Rates(flops, copied, f"torch on {torch.cuda.get_device_name()}")
