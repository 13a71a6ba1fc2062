"""Arithmetic and bytes of a network, counted from its graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refocusd.errors import EngineError

#: Bytes of a number, by precision.
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Work:
    """What a network has to do for one frame.

    Parameters
    ----------
    flops : float
        Two an accumulated product, of convolutions and matrix products; the rest is small.
    weights : int
        Numbers that the network holds.
    pixels : int
        Of the frame as the network sees it, padding included.
    """

    flops: float
    weights: int
    pixels: int

    def least_bytes(self, precision: str) -> float:
        """What must go through memory: weights once, the frame in and out as float32.

        What lies between two layers need not leave the cache, so this is a true limit.
        """
        return self.weights * BYTES.get(precision, 4) + 2 * 4 * self.pixels


def count_work(onnx: Path, shape: tuple[int, int], multiple: int) -> Work:
    """Count one whole frame's work.

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
    """Products that a node adds up; 0 for one that only moves or scales."""
    kind = node.get_type_name()
    if kind == "MatMul":
        taken = list(node.get_input_shape(0))
        inner = taken[-2 if node.get_attributes().get("transpose_a") else -1]
        return int(math.prod(node.get_output_shape(0)) * inner)
    if "Convolution" not in kind or len(node.inputs()) < 2:
        return 0
    kernel = [int(length) for length in node.get_input_shape(1)]
    if kind.startswith("Group"):  # groups first
        kernel = kernel[1:]
    # Forwards (out, in, y, x): each output pixel adds up in*y*x.  Backwards (in, out, y, x):
    # each input pixel is spread over out*y*x.
    spread = kind.endswith("BackpropData")
    pixels = node.get_input_shape(0) if spread else node.get_output_shape(0)
    return int(math.prod(pixels) * math.prod(kernel[1:]))
