"""Measures one combination, or the best rates of a device, in the measuring process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

from refocusd.bench.combination import Order, Rates, Report
from refocusd.bench.machine import peak_mib
from refocusd.demo.specimen import SAMPLE
from refocusd.engines.choose import build_engine
from refocusd.engines.runtimes.openvino import engine_threads
from refocusd.errors import EngineError, InputError, RefocusdError
from refocusd.frame import Pixels
from refocusd.worker.refocus import refocus_frame

#: Side of the matrices: large enough that only arithmetic counts, small enough to take a second.
SIDE = 1536
GPU_SIDE = 8192
COPIED_MIB = 128
RUNS = 7
#: Standard deviation of the sample frame's blur, px: frames in focus would not reach every network.
SAMPLE_BLUR_PX = 6.0


def sample_frame(shape: tuple[int, int] | None = None) -> Pixels:
    """The sample frame that comes with refocusd, blurred; mirrored or cut to `shape` (height, width).

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        sharp = np.asarray(tifffile.imread(SAMPLE))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the sample picture {SAMPLE} cannot be read ({error}); reinstall refocusd"
        ) from error
    sample = gaussian_filter(sharp, SAMPLE_BLUR_PX, mode="mirror")
    if shape is None:
        return sample
    more = [(0, max(0, wanted - have)) for wanted, have in zip(shape, sample.shape, strict=True)]
    grown = np.pad(sample, more, mode="symmetric")
    return np.ascontiguousarray(grown[: shape[0], : shape[1]])


def measure(order: Order) -> Report:
    """Carry out an order; `Report.refused` says what could not be done."""
    try:
        return _measure(order)
    except RefocusdError as error:
        return Report(refused=str(error))
    except MemoryError:
        return Report(refused="this computer has too little memory")


def _measure(order: Order) -> Report:
    wanted = order.combination
    options = wanted.options
    if order.rates:
        rates = measured_rates(options.backend, options.precision, options.threads)
        return Report(rates=rates)
    begun = time.perf_counter()
    engine = build_engine(wanted.model, options)
    try:
        about = engine.description
        for name, asked, got in (
            ("backend", options.backend, about.backend),
            ("precision", options.precision, about.precision),
        ):
            if asked not in ("auto", got) and about.backend != "identity":
                return Report(refused=f"{name} {asked} is not available here: it became {got}")
        engine.warm_up(wanted.shape)
        built_s = time.perf_counter() - begun
        raw = sample_frame(wanted.shape)
        out = np.empty_like(raw)
        # The engine is measured whatever the verdict on the frame is.
        facts = [
            refocus_frame(engine, raw, out, pass_in_focus=False, untrusted="mark")
            for _ in range(order.warm_frames + order.frames)
        ]
        peak = peak_mib()
        if order.sample:
            small = sample_frame()
            refocused = np.empty_like(small)
            engine.refocus(small, refocused)
            np.save(Path(order.sample), refocused)
    finally:
        engine.close()
    counted = facts[order.warm_frames :]
    return Report(
        engine_ms=[one.engine_ms for one in counted],
        worker_ms=[one.worker_ms for one in counted],
        built_s=built_s,
        peak_mib=peak,
        backend=about.backend,
        precision=about.precision,
        device=about.device,
        key=about.key,
    )


def measured_rates(backend: str, precision: str, threads: int = 0) -> Rates:
    """Measure the best rates of a matrix product and of a copy.

    Parameters
    ----------
    backend : str
        ``openvino``: the processor, with OpenVINO's own matrix product and numpy's copy;
        others: the GPU, with torch.
    precision : {"f32", "f16", "bf16", "int8"}
    threads : int
        As for the engine.

    Raises
    ------
    EngineError
        If torch or a GPU is missing, or the precision is not supported.
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

    # With a matrix of ones, a card draws less power, and clocks higher, than with a network.
    matrix = torch.randn(GPU_SIDE, GPU_SIDE, dtype=kinds[precision], device="cuda")
    into = torch.empty_like(matrix)
    flops = 2 * GPU_SIDE**3 / run(lambda: torch.mm(matrix, matrix, out=into))
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / run(lambda: target.copy_(source))
    return Rates(flops, copied, f"torch on {torch.cuda.get_device_name()}")
