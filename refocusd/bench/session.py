"""Measures all combinations in interleaved rounds, each in a fresh process.

A fresh process has its own memory peak, and a round cannot be affected by the caches, thread
pools or heap of an earlier one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from refocusd.bench.combination import Combination, Order, Quality, Rates, Report, Result
from refocusd.config import WITHOUT_MODEL, EngineOptions
from refocusd.engines.choose import available_backends
from refocusd.errors import EngineError, RefocusdError, WorkerError
from refocusd.frame import Pixels
from refocusd.imaging.quality import psnr
from refocusd.models.bundle import load_bundle
from refocusd.processes.trial import attempt

#: Bytes per value, by precision.
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1}
#: Time limit for one process, s.
PROCESS_S = 600.0
_REFERENCE = EngineOptions("openvino", "f32")


def run_session(
    combinations: Sequence[Combination],
    *,
    frames: int,
    rounds: int,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Measure every combination.

    Parameters
    ----------
    combinations : sequence of Combination
    frames : int
        Number of frames timed in each round.
    rounds : int
    on_step : callable
        Called with a description of each step before it starts.

    Returns
    -------
    list of Result
        In the order of `combinations`; those that cannot be measured here state the reason.
    """
    with TemporaryDirectory(prefix="refocusd-bench-", ignore_cleanup_errors=True) as name:
        return _Session(Path(name), frames, rounds, on_step).run(combinations)


class _Session:
    def __init__(
        self, folder: Path, frames: int, rounds: int, on_step: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._frames = frames
        self._rounds = rounds
        self._on_step = on_step
        self._rates: dict[tuple[str, str, int], Rates | None] = {}
        self._references: dict[str, Pixels | None] = {}

    def run(self, combinations: Sequence[Combination]) -> list[Result]:
        found: list[list[Report]] = [[] for _ in combinations]
        why_not = available_backends()
        refused = [why_not.get(wanted.options.backend, "") for wanted in combinations]
        for turn in range(self._rounds):
            for index, combination in enumerate(combinations):
                if refused[index]:
                    continue
                self._on_step(combination.name)
                sample = str(self._folder / f"{index}.npy") if turn == 0 else ""
                report = ask(Order(combination, self._frames, sample))
                refused[index] = report.refused
                found[index].append(report)
        return [
            Result(combination, reason) if reason else self._result(index, combination, reports)
            for index, (combination, reason, reports) in enumerate(
                zip(combinations, refused, found, strict=True)
            )
        ]

    def _result(self, index: int, combination: Combination, reports: list[Report]) -> Result:
        if combination.options.backend in WITHOUT_MODEL:
            return Result(combination, rounds=reports)
        precision = reports[0].precision
        work = _work(combination)
        return Result(
            combination,
            rounds=reports,
            flops=work.flops if work else 0.0,
            bytes=work.least_bytes(precision) if work else 0.0,
            rates=self._rates_of(combination, reports[0]),
            quality=self._quality(combination.model, self._folder / f"{index}.npy"),
        )

    def _rates_of(self, combination: Combination, report: Report) -> Rates | None:
        options = combination.options
        if options.backend == "openvino" and report.device != "CPU":
            return None  # rates of Intel's GPUs and NPUs cannot be measured
        backend = "openvino" if report.device == "CPU" else "cuda"
        key = (backend, report.precision, options.threads)
        if key not in self._rates:
            self._on_step(f"rates of the device in {report.precision}")
            device = EngineOptions(*key)  # type: ignore[arg-type]
            order = Order(Combination(combination.model, device, (1, 1)), 0, rates=True)
            self._rates[key] = ask(order).rates
        return self._rates[key]

    def _quality(self, model: str, file: Path) -> Quality | None:
        if model not in self._references:
            self._on_step(f"{model}, f32 reference")
            path = self._folder / f"reference-{len(self._references)}.npy"
            ask(Order(Combination(model, _REFERENCE, (64, 64)), 0, str(path)))
            self._references[model] = np.load(path) if path.exists() else None
        reference = self._references[model]
        if reference is None or not file.exists():
            return None
        refocused = np.load(file)
        difference = np.abs(refocused.astype(np.int32) - reference.astype(np.int32))
        decibel = psnr(refocused, reference)
        return Quality(
            float(difference.max()),
            float(np.percentile(difference, 99.9)),
            decibel if np.isfinite(decibel) else None,
        )


def ask(order: Order, limit_s: float = PROCESS_S) -> Report:
    """Run a measuring process; if it fails or exceeds `limit_s`, `Report.refused` says so."""
    try:
        return attempt("refocusd.bench", order, Report, limit_s)
    except WorkerError as error:
        return Report(refused=str(error))


def _work(combination: Combination) -> Work | None:
    try:
        bundle = load_bundle(combination.model)
        return count_work(bundle.onnx, combination.shape, bundle.size_multiple)
    except RefocusdError:
        return None


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a network for one frame.

    Parameters
    ----------
    flops : float
        Two for each accumulated product of convolutions and matrix products; the rest is negligible.
    weights : int
        Number of constants in the network.
    pixels : int
        Pixels of the frame as the network sees it, including padding.
    """

    flops: float
    weights: int
    pixels: int

    def least_bytes(self, precision: str) -> float:
        """Least number of bytes moved through memory: the weights, and the frame in and out as float32.

        Intermediate results need not leave the cache, so this is a true lower limit.
        """
        return self.weights * BYTES.get(precision, 4) + 2 * 4 * self.pixels


def count_work(onnx: Path, shape: tuple[int, int], multiple: int) -> Work:
    """Count the work for one whole frame.

    Parameters
    ----------
    onnx : Path
    shape : (int, int)
        Height and width of the frame, px; padded to `multiple` first.
    multiple : int

    Raises
    ------
    EngineError
        If OpenVINO cannot read the network, or it does not take such a frame.
    """
    import openvino

    height, width = (-(-side // multiple) * multiple for side in shape)
    try:
        model = openvino.Core().read_model(str(onnx))
        model.reshape([1, 1, height, width])
        nodes = model.get_ordered_ops()
        flops = weights = 0
        for node in nodes:
            if node.get_type_name() == "Constant":
                weights += math.prod(node.get_output_shape(0))
            else:
                flops += 2 * _products(node)
    except RuntimeError as error:
        raise EngineError(
            f"the work of {onnx} on {width}×{height} px cannot be counted: {error}"
        ) from error
    return Work(float(flops), weights, height * width)


def _products(node: Any) -> int:
    """Number of products that a node adds up; 0 if it is neither convolution nor matrix product."""
    kind = node.get_type_name()
    if kind == "MatMul":
        taken = list(node.get_input_shape(0))
        inner = taken[-2 if node.get_attributes().get("transpose_a") else -1]
        return int(math.prod(node.get_output_shape(0)) * inner)
    if "Convolution" not in kind or len(node.inputs()) < 2:
        return 0
    kernel = [int(length) for length in node.get_input_shape(1)]
    if kind.startswith("Group"):  # the first axis is that of the groups
        kernel = kernel[1:]
    # Convolution (out, in, y, x): each output pixel adds up in*y*x products.  Transposed
    # (in, out, y, x): each input pixel is spread over out*y*x.
    spread = kind.endswith("BackpropData")
    pixels = node.get_input_shape(0) if spread else node.get_output_shape(0)
    return int(math.prod(pixels) * math.prod(kernel[1:]))
