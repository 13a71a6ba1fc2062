"""ONNX networks of a few nodes, of kinds that the shipped bundles do not contain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from refocusd.models.bundle import ModelBundle

#: Shape with any batch size, height and width.
FRAME: tuple[str | int, ...] = ("batch", 1, "height", "width")


def write_network(
    path: Path,
    nodes: Sequence[Any],
    constants: dict[str, Any] | None = None,
    outputs: dict[str, tuple[str | int, ...]] | None = None,
    integers: dict[str, list[int]] | None = None,
) -> Path:
    """Write nodes that lead from ``raw`` to `outputs` (default ``refocused``) as ONNX."""
    described = outputs or {"refocused": FRAME}
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("raw", onnx.TensorProto.FLOAT, FRAME)],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in described.items()
        ],
        [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in (constants or {}).items()
        ]
        + [
            numpy_helper.from_array(np.asarray(value, np.int64), name)
            for name, value in (integers or {}).items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def blur_network(path: Path, channels: int) -> Path:
    """Two 3×3 convolutions with `channels` in between; the second averages the first."""
    spread = np.full((channels, 1, 3, 3), 1 / 9)
    gather = np.zeros((1, channels, 3, 3))
    gather[:, :, 1, 1] = 1 / channels
    nodes = [
        helper.make_node("Conv", ["raw", "spread"], ["wide"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["wide"], ["kept"]),
        helper.make_node("Conv", ["kept", "gather"], ["refocused"], pads=[1, 1, 1, 1]),
    ]
    return write_network(path, nodes, {"spread": spread, "gather": gather})


def small_bundle(onnx: Path, step: int = 8, field: int = 3) -> ModelBundle:
    """Describe a bundle that contains one network."""
    return ModelBundle(
        onnx.parent, "small", "0" * 64, 1.0, 99.9, step, field, onnx, normalisation="percentiles"
    )
