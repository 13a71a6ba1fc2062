"""A TensorRT network computed in half precision.

TensorRT (from 11 and RTX 1 on) computes in the types that the network states, so its
weights are stated in f16 here.  What goes in and comes out stays f32: counts are
normalised before they meet 16 bits, and the last rounding is that to counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import EngineError

__all__ = ["float_tensors", "halve"]

Kept = list[NDArray[np.float16]]


def halve(trt: Any, network: Any) -> Kept:
    """State weights and computation of a parsed network in f16, in place.

    Parameters
    ----------
    trt : module
        ``tensorrt`` or ``tensorrt_rtx``.
    network : INetworkDefinition
        One input and one output, both f32.

    Returns
    -------
    list of ndarray of float16
        Weights that TensorRT refers to: to be kept until the network is built.

    Raises
    ------
    EngineError
        If a weight is beyond f16, or something is still computed in f32.
    """
    kept: Kept = []
    raw = network.get_input(0)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    narrowed = network.add_cast(raw, trt.float16)
    narrowed.name = "raw_to_f16"
    for layer in layers:
        for index in range(layer.num_inputs):
            tensor = layer.get_input(index)
            if tensor is not None and tensor.name == raw.name:
                layer.set_input(index, narrowed.get_output(0))
        _halve_layer(trt, layer, kept)
    answer = network.get_output(0)
    name = answer.name
    network.unmark_output(answer)
    answer.name = f"{name}_f16"
    widened = network.add_cast(answer, trt.float32)
    widened.name = f"{name}_to_f32"
    widened.get_output(0).name = name
    network.mark_output(widened.get_output(0))
    left = float_tensors(trt, network) - {raw.name, name}
    if left:
        raise EngineError(
            f"the network computes {', '.join(sorted(left)[:3])} in f32 whatever is asked for; set "
            "precision to f32"
        )
    return kept


def float_tensors(trt: Any, network: Any) -> set[str]:
    """Names of the tensors of a network that are f32."""
    inputs = map(network.get_input, range(network.num_inputs))
    found = {tensor.name for tensor in inputs if tensor.dtype == trt.float32}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for tensor in map(layer.get_output, range(layer.num_outputs)):
            if tensor is not None and tensor.dtype == trt.float32:
                found.add(tensor.name)
    return found


def _halve_layer(trt: Any, layer: Any, kept: Kept) -> None:
    """State what a layer holds itself, its weights or the type that it makes, in f16."""
    kinds = trt.LayerType
    if layer.type in (kinds.CONVOLUTION, kinds.DECONVOLUTION):
        convolves = layer.type == kinds.CONVOLUTION
        layer.__class__ = trt.IConvolutionLayer if convolves else trt.IDeconvolutionLayer
        names: tuple[str, ...] = ("kernel", "bias")
    elif layer.type == kinds.SCALE:
        layer.__class__ = trt.IScaleLayer
        names = ("shift", "scale", "power")
    elif layer.type == kinds.CONSTANT:
        layer.__class__ = trt.IConstantLayer
        names = ("weights",)
    elif layer.type == kinds.CAST:
        layer.__class__ = trt.ICastLayer
        if layer.to_type == trt.float32:
            layer.to_type = trt.float16
        return
    else:
        return
    for name in names:
        weights = np.array(getattr(layer, name))
        if weights.size == 0 or weights.dtype != np.float32:
            continue  # none, or the whole numbers that shapes are made of
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(weights, np.float16)
        if not np.isfinite(half).all():
            raise EngineError(f"weights of {layer.name} are beyond f16; set precision to f32")
        kept.append(half)
        setattr(layer, name, trt.Weights(half))
