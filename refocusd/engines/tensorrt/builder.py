"""A bundle's ONNX compiled by TensorRT, and kept in the cache of engines."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

from refocusd.engines.cache import EngineCache, EngineKey
from refocusd.engines.tensorrt.card import Card
from refocusd.engines.tensorrt.edition import Edition
from refocusd.engines.tensorrt.half import Kept, halve
from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle

__all__ = ["INPUT", "OUTPUT", "ShapeRange", "compiled", "engine_key", "parsed", "shape_range"]

log = logging.getLogger(__name__)

INPUT = "raw"
#: Name of the output that is the refocused frame; the first where none is named so.
OUTPUT = "refocused"
#: Shape that kernels are chosen for: a frame of a scientific camera.
BEST_PX = 2048
#: Side of the largest square that goes through the network at once.
LARGEST_PX = 4096
PRECISIONS = ("f16", "f32")


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """Shapes (batch, 1, height, width) that an engine takes.

    Parameters
    ----------
    least, best, largest : tuple of int
        Of each side by itself.
    """

    least: tuple[int, int, int, int]
    best: tuple[int, int, int, int]
    largest: tuple[int, int, int, int]

    def __str__(self) -> str:
        return " ".join("x".join(map(str, s)) for s in (self.least, self.best, self.largest))


def shape_range(step: int, batch: int) -> ShapeRange:
    """Shapes for a network whose sides are multiples of `step`, in px.

    The largest holds as many pixels for every batch.
    """
    largest = max(int(LARGEST_PX / math.sqrt(batch)) // step, 1) * step
    best = min(max(BEST_PX // step, 1) * step, largest)
    return ShapeRange((1, 1, step, step), (batch, 1, best, best), (batch, 1, largest, largest))


def engine_key(
    onnx: bytes, edition: Edition, card: Card | None, precision: str, shapes: ShapeRange
) -> EngineKey:
    """What an engine is kept under."""
    return EngineKey(
        "engine",
        hashlib.sha256(onnx).hexdigest(),
        f"{edition.name} {edition.version}",
        edition.target(card),
        precision,
        str(shapes),
    )


def compiled(
    bundle: ModelBundle,
    edition: Edition,
    card: Card | None,
    precision: str,
    batch: int,
    cache: EngineCache | None = None,
) -> tuple[EngineKey, bytes]:
    """The engine of a bundle, from the cache or built now.

    Parameters
    ----------
    bundle : ModelBundle
    edition : Edition
    card : Card, optional
        That runs it.  None: any that the RTX edition builds for without seeing it.
    precision : {"f16", "f32"}
    batch : int
        Tiles at once, at most.
    cache : EngineCache, optional
        The user's unless given.

    Raises
    ------
    EngineError
        If TensorRT cannot build it.
    """
    if bundle.fine_sigma_px is not None:
        raise EngineError(
            f"model {bundle.model_id} works at the scale of the blur, which TensorRT does not serve yet; "
            "use backend cuda or openvino"
        )
    if precision not in PRECISIONS:
        raise EngineError(
            f"TensorRT engines compute in f16 or f32, not {precision}; set precision to auto"
        )
    try:
        onnx = bundle.onnx.read_bytes()
    except OSError as error:
        raise EngineError(f"{bundle.onnx} cannot be read: {error.strerror}") from error
    shapes = shape_range(bundle.size_multiple, batch)
    key = engine_key(onnx, edition, card, precision, shapes)

    def build() -> bytes:
        begun = time.perf_counter()
        payload = _built(onnx, edition, key, shapes, bundle.model_id)
        log.info(
            "%s in %s: built by %s in %.1f s, %.1f MiB",
            bundle.model_id,
            precision,
            key.runtime,
            time.perf_counter() - begun,
            len(payload) / 2**20,
        )
        return payload

    return key, (cache or EngineCache()).get_or_build(key, build)


def parsed(trt: Any, logger: Any, onnx: bytes, precision: str) -> tuple[Any, Any, Kept]:
    """An ONNX network as TensorRT's, in a precision.

    Returns
    -------
    (Builder, INetworkDefinition, list)
        One input ``raw`` and one output ``refocused``, both f32, and what the network refers to.

    Raises
    ------
    EngineError
        If it is no refocusing network, or TensorRT lacks one of its operators.
    """
    builder = trt.Builder(logger)
    # Types as the network states them: nothing falls back to another.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(f"TensorRT cannot take the network: {'; '.join(errors[:3])}")
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    if network.num_inputs != 1 or not outputs:
        raise EngineError(
            f"the network takes {network.num_inputs} inputs and gives {len(outputs)} outputs; a "
            "refocusing network takes one frame and gives one"
        )
    answer = next((tensor for tensor in outputs if tensor.name == OUTPUT), outputs[0])
    for tensor in outputs:
        if tensor.name != answer.name:
            network.unmark_output(tensor)
    answer.name, network.get_input(0).name = OUTPUT, INPUT
    return builder, network, halve(trt, network) if precision == "f16" else []


def _built(
    onnx: bytes, edition: Edition, key: EngineKey, shapes: ShapeRange, model_id: str
) -> bytes:
    from refocusd.engines.tensorrt.log import engine_log

    trt = edition.module
    logger = engine_log(trt)
    builder, network, kept = parsed(trt, logger, onnx, key.precision)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, shapes.least, shapes.best, shapes.largest)
    config.add_optimization_profile(profile)
    if key.precision == "f32":
        config.clear_flag(trt.BuilderFlag.TF32)  # has the mantissa of f16
    if edition.rtx and key.target == "sm75":
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM75, 0)
    plan = builder.build_serialized_network(network, config)
    del kept
    if plan is None:
        raise EngineError(
            f"TensorRT cannot build {model_id} in {key.precision}: {logger.last_error or 'no reason given'}; "
            "set backend to openvino"
        )
    return bytes(plan)
