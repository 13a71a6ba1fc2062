"""Memory that a pixel of a frame takes in a network, estimated from its graph."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from refocusd.errors import EngineError

#: oneDNN keeps this many channels together, and pads others up to it.
CHANNELS_TOGETHER = 16
#: What is estimated from the graph is exceeded by up to 12 % (measured with OpenVINO: f32 and bf16,
#: 512² to 2048²; live network 196 B/px estimated, 170-189 measured; a network of 64 to 160 channels
#: at full resolution 1028 estimated, 1143-1155 measured).
MARGIN = 1.25


def pixel_bytes(onnx: Path, step: int, size: int) -> float:
    """Memory that a pixel takes: what a frame needs, over its pixels.

    The largest sum of tensors that are alive at a time when the nodes are computed in
    order, with channels padded as oneDNN does, plus input and answer.

    Parameters
    ----------
    onnx : Path
        A network that takes (count, 1, height, width).
    step : int
        Multiple of the sides that it takes.
    size : int
        Bytes of a number.

    Raises
    ------
    EngineError
        If the network cannot be read, or does not take frames of any size.
    """
    import openvino

    side = -(-512 // step) * step
    try:
        model = openvino.Core().read_model(str(onnx))
        model.reshape([1, 1, side, side])
    except RuntimeError as error:
        raise EngineError(
            f"the network takes no frames of {side}×{side} px ({error}); refocusd needs one that "
            f"takes any multiple of {step}"
        ) from error
    return MARGIN * (_peak_numbers(model.get_ordered_ops()) / side**2 * size + 8)


def _peak_numbers(nodes: list[Any]) -> int:
    """Numbers that are alive at a time, at most."""
    order = {node.get_friendly_name(): index for index, node in enumerate(nodes)}
    dying = [0] * len(nodes)
    alive = peak = 0
    for index, node in enumerate(nodes):
        if node.get_type_name() != "Constant":
            for port in node.outputs():
                users = [target.get_node() for target in port.get_target_inputs()]
                if not users:
                    continue
                shape = [int(length) for length in port.get_shape()]
                if len(shape) == 4 and shape[1] > 1:
                    shape[1] = -(-shape[1] // CHANNELS_TOGETHER) * CHANNELS_TOGETHER
                taken = math.prod(shape)
                alive += taken
                dying[max(order[user.get_friendly_name()] for user in users)] += taken
        peak = max(peak, alive)
        alive -= dying[index]
    return peak
