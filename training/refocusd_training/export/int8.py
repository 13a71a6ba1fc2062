"""Makes an int8 network for the CPU, with 8-bit convolutions as far as no quality is lost.

NNCF measures the ranges of the activations on simulated training frames, quantises the
convolutions, and reverts the most sensitive ones to float until the frames are as good
as before (`nncf.quantize_with_accuracy_control`).  The convolutions next to the input and
the output stay in float, and so do all other operations. In particular, additions must stay in float,
because the residual connection would otherwise pass the frame itself through 8 bits.

The result is evaluated once more, as the engine runs it, on other frames.  If it loses
more than 0.05 dB, no int8 network is exported.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from refocusd import files
from refocusd.config import EngineOptions
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.errors import EngineError, InputError
from refocusd.imaging.quality import psnr
from refocusd.models.bundle import ModelBundle
from refocusd_training.data.samples import MIN_SPAN, Batch, SampleStream

log = logging.getLogger(__name__)

#: Name of the int8 network within a bundle.
INT8_FILE = "model-int8.onnx"
#: Largest loss of PSNR against the truth, dB.
MAX_COST_DB = 0.05
#: Share of this loss that NNCF may use on the frames that it sees, because other frames differ.
AIMED_AT = 0.4
#: Number of frames on which ranges are measured, and number of these on which the loss is controlled.
CALIBRATION_FRAMES, CONTROL_FRAMES = 64, 40


@dataclass(frozen=True, slots=True)
class Quantised:
    """Result of quantising a network to 8 bits.

    Parameters
    ----------
    cost_db : float
        Mean PSNR of the float network minus that of this one, on the validation frames.
    worst_db : float
        Largest loss of a frame.
    difference : float
        Largest difference between both networks' outputs for these frames, in network units; the
        bundle's tolerance for int8 must be larger.
    quantised, convolutions : int
        Number of convolutions in 8 bits, and of all convolutions.
    """

    cost_db: float
    worst_db: float
    difference: float
    quantised: int
    convolutions: int


def calibration(
    specimens: Sequence[NDArray[np.float32]], *, size: int = 256, seed: int = 8
) -> list[Batch]:
    """Simulated training frames for measuring ranges; they depend only on the arguments.

    Parameters
    ----------
    specimens : sequence of ndarray of float32, shape (height, width)
        Flux, see `refocusd_training.simulate.specimen.flux_of`.
    size : int
        Side of a frame, px; a multiple of the network's step.
    seed : int
    """
    stream = SampleStream(specimens, size=size, batch=4, bank=8, seed=seed)
    return list(itertools.islice(stream.batches(0), CALIBRATION_FRAMES // 4))


def add_int8(folder: Path, batches: Iterable[Batch], truth: NDArray[np.float32]) -> Quantised:
    """Add `INT8_FILE` to a bundle that is being made and has no description yet.

    Parameters
    ----------
    folder : Path
        Holds ``model.onnx`` and ``validation_raw.npy``.
    batches : iterable of Batch
        Frames from `calibration`, of which the first `CALIBRATION_FRAMES` are used.
    truth : ndarray of float32, shape (n, 1, height, width)
        In-focus frames of ``validation_raw.npy``, in network units.

    Raises
    ------
    EngineError
        If 8 bits cost more than `MAX_COST_DB`, or OpenVINO cannot run them; the folder is
        then unchanged.
    InputError
        If `truth` does not fit.
    """
    raw = np.load(folder / "validation_raw.npy")
    return quantise_onnx(folder / "model.onnx", folder / INT8_FILE, batches, raw, truth)


def quantise_onnx(
    model: Path,
    output: Path,
    batches: Iterable[Batch],
    raw: NDArray[np.float32],
    truth: NDArray[np.float32],
    *,
    max_cost_db: float = MAX_COST_DB,
) -> Quantised:
    """Write an int8 network (ONNX with QuantizeLinear) if it is as good as the float one.

    Parameters
    ----------
    model, output : Path
        ONNX files: the float network, and the one that is written.
    batches : iterable of Batch
        Frames for measuring ranges and for finding sensitive convolutions.
    raw, truth : ndarray of float32, shape (n, 1, height, width)
        Frames for the evaluation: input and in-focus truth, in network units.
    max_cost_db : float
        Largest mean loss of PSNR on these frames, dB.

    Returns
    -------
    Quantised

    Raises
    ------
    EngineError
        If the loss is larger, or OpenVINO cannot run the network; no file is left.
    InputError
        If `raw` and `truth` differ in shape, or too few of the frames show anything.
    """
    if raw.shape != truth.shape or raw.ndim != 4 or not len(raw):
        raise InputError(f"validation frames of shape {raw.shape} do not fit truths {truth.shape}")
    network = onnx.load(model)
    quantised = _quantised(network, list(batches), AIMED_AT * max_cost_db)
    for node in quantised.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(quantised, full_check=True)
    try:
        output.write_bytes(quantised.SerializeToString(deterministic=True))
        costs, difference = _judged(model, output, raw, truth)
        mean, worst = float(costs.mean()), float(costs.max())
        if not mean <= max_cost_db:
            raise EngineError(
                f"int8 costs {mean:.3f} dB on the validation frames (worst {worst:.3f} dB), more than "
                f"{max_cost_db} dB: {model} is not quantised; export it without int8"
            )
    except BaseException:
        files.remove(output, missing_ok=True)
        raise
    total = sum(node.op_type == "Conv" for node in network.graph.node)
    return Quantised(mean, worst, difference, _in_8_bits(quantised.graph), total)


def _quantised(network: Any, batches: Sequence[Batch], max_drop_db: float) -> Any:
    import nncf

    nncf.set_log_level(logging.WARNING)
    (entry,) = network.graph.input
    frames = [frame[None] for batch in batches for frame in batch.raw][:CALIBRATION_FRAMES]
    # The PSNR of a frame that shows nothing is meaningless.
    shown = [
        (raw[None], truth[0])
        for batch in batches
        for raw, truth, span in zip(batch.raw, batch.truth, batch.span, strict=True)
        if span > MIN_SPAN
    ][:CONTROL_FRAMES]
    if not shown:
        raise InputError("all calibration frames are empty; give more of them")

    def quality(candidate: Any, pairs: Iterable[Any]) -> tuple[float, list[float]]:
        request = _request(candidate)
        found = [psnr(_answer(request, raw), truth) for raw, truth in pairs]
        return float(np.mean(found)), found

    kinds = {node.op_type for node in network.graph.node}
    return nncf.quantize_with_accuracy_control(
        network,
        nncf.Dataset(frames, lambda frame: {entry.name: frame}),
        nncf.Dataset(shown),
        quality,
        max_drop=max_drop_db,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(frames),
        ignored_scope=nncf.IgnoredScope(
            names=sorted(_outer_convolutions(network.graph)),
            types=sorted(
                kinds & {"Add", "AveragePool", "Concat", "Gemm", "MatMul", "Mul", "Resize"}
            ),
        ),
        target_device=nncf.TargetDevice.CPU,
    )


def _outer_convolutions(graph: Any) -> set[str]:
    """Names of the convolutions with no other convolution between them and the input or an output."""
    makers = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found: set[str] = set()
    for names, forward in ((graph.input, True), (graph.output, False)):
        waiting, seen = [value.name for value in names], set()
        while waiting:
            name = waiting.pop()
            nodes = users.get(name, []) if forward else [makers[name]] if name in makers else []
            for node in nodes:
                if node.op_type == "Conv":
                    found.add(node.name)
                elif id(node) not in seen:
                    seen.add(id(node))
                    waiting += node.output if forward else node.input
    return found


def _in_8_bits(graph: Any) -> int:
    """Number of convolutions with quantised inputs."""
    made = {name: node.op_type for node in graph.node for name in node.output}
    return sum(
        node.op_type == "Conv" and made.get(node.input[0]) == "DequantizeLinear"
        for node in graph.node
    )


def _request(network: Any) -> Any:
    """Compile a network in memory with float parts in f32, so that only 8 bits cost quality."""
    import openvino

    core = openvino.Core()
    how = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = core.read_model(network.SerializeToString(), b"")
    return core.compile_model(model, "CPU", how).create_infer_request()


def _answer(request: Any, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    answer: NDArray[np.float32] = next(iter(request.infer([raw]).values()))[0, 0]
    return answer


def _judged(
    model: Path, candidate: Path, raw: NDArray[np.float32], truth: NDArray[np.float32]
) -> tuple[NDArray[np.float64], float]:
    """Loss of PSNR of each frame, dB, and the largest difference, with the engine that users run."""
    bundle = ModelBundle(
        folder=model.parent,
        model_id=model.stem,
        sha256="0" * 64,
        low_percentile=0.0,
        high_percentile=100.0,
        size_multiple=1,
        receptive_field_px=0,
        onnx=model,
        variants={"int8": candidate},
    )
    answers = []
    for precision in ("f32", "int8"):
        engine = OpenVinoEngine(bundle, EngineOptions(precision=precision))
        answers.append([engine.infer(frame[0]) for frame in raw])
        engine.close()
    lost = [
        psnr(exact, wanted[0]) - psnr(found, wanted[0])
        for exact, found, wanted in zip(*answers, truth, strict=True)
    ]
    return np.array(lost), float(np.abs(np.subtract(*map(np.stack, answers))).max())
