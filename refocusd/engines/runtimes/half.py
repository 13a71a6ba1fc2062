"""Converts the convolutions of an ONNX network to half precision.

TensorRT computes in the types that the network states.  Layers that mix channels take most of the time:
they, and the operators that pass on their results, become f16.  Everything else stays f32, above all
Richardson-Lucy, whose iterations drift with rounding.  Inputs and outputs stay f32.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refocusd.errors import EngineError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


#: Operators that compute in the type of their inputs, with the inputs that have that type.
_FOLLOWING = {
    **dict.fromkeys(("Relu", "LeakyRelu", "AveragePool", "MaxPool", "DepthToSpace"), (0,)),
    **dict.fromkeys(("Reshape", "Transpose", "Resize", "Slice", "Split", "Identity"), (0,)),
    **dict.fromkeys(("Add", "Mul", "PRelu"), (0, 1)),
    "Pad": (0, 2),
    "Clip": (0, 1, 2),
    "BatchNormalization": (0, 1, 2, 3, 4),
}
_MIXING = ("Conv", "ConvTranspose")
_LARGEST = float(np.finfo(np.float16).max)


def halved(model: ModelProto, source: Path) -> ModelProto:
    """Convert the layers that mix channels to f16.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place, and returned.
    source : Path
        File that it comes from, for error messages.

    Raises
    ------
    EngineError
        If a weight is beyond the range of f16.
    """
    return _Halving(model, source).done()


class _Halving:
    def __init__(self, model: ModelProto, source: Path) -> None:
        import onnx

        self._onnx = onnx
        self._model, self._source = model, source
        self._graph: GraphProto = model.graph
        self._constants: dict[str, TensorProto] = {t.name: t for t in self._graph.initializer}
        self._uses = Counter(n.input[1] for n in self._graph.node if n.op_type in _MIXING)
        self._half: dict[str, str] = {}
        self._wide: set[str] = set()
        self._nodes: list[NodeProto] = []

    def done(self) -> ModelProto:
        nodes = list(self._graph.node)
        for node in nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        for node in nodes:
            places = self._halved_inputs(node)
            if places:
                self._narrow(node, places)
            else:
                for name in node.input:
                    self._widen(name)
            self._nodes.append(node)
        for output in self._graph.output:
            self._widen(output.name)
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        return self._model

    def _halved_inputs(self, node: NodeProto) -> tuple[int, ...]:
        """Inputs that become f16; none if the node stays f32."""
        if node.op_type in _MIXING:
            weights = self._constants.get(node.input[1])
            together = weights.dims[0 if node.op_type == "ConvTranspose" else 1] if weights else 0
            # Weights that several nodes use are the filter of an iteration, not a layer's weights.
            layer = together > 1 and self._uses[node.input[1]] == 1
            return tuple(range(len(node.input))) if layer else ()
        places = _FOLLOWING.get(node.op_type, ())
        if node.op_type == "Concat":
            places = tuple(range(len(node.input)))
        places = tuple(i for i in places if i < len(node.input) and node.input[i])
        names = [node.input[index] for index in places]
        follows = any(name in self._half for name in names) and all(
            name in self._half or self._is_float(name) for name in names
        )
        return places if follows else ()

    def _is_float(self, name: str) -> bool:
        tensor = self._constants.get(name)
        return tensor is not None and tensor.data_type == self._onnx.TensorProto.FLOAT

    def _narrow(self, node: NodeProto, places: tuple[int, ...]) -> None:
        for index in places:
            name = node.input[index]
            if name and name not in self._half:
                self._half[name] = f"{name}_f16"
                if self._is_float(name):
                    self._graph.initializer.append(self._rounded(name))
                else:
                    self._cast(name, self._half[name], self._onnx.TensorProto.FLOAT16)
                    self._wide.add(name)
            node.input[index] = self._half.get(name, "")
        for index, name in enumerate(node.output):
            self._half[name] = node.output[index] = f"{name}_f16"

    def _rounded(self, name: str) -> TensorProto:
        values = self._onnx.numpy_helper.to_array(self._constants[name])
        if values.size and float(np.abs(values).max()) > _LARGEST:
            raise EngineError(
                f"{self._source} has weights beyond f16 ({np.abs(values).max():g}); set precision to f32"
            )
        self._wide.add(name)
        return self._onnx.numpy_helper.from_array(values.astype(np.float16), self._half[name])

    def _widen(self, name: str) -> None:
        """Convert a result computed in f16 to f32, under its original name."""
        if name in self._half and name not in self._wide:
            self._wide.add(name)
            self._cast(self._half[name], name, self._onnx.TensorProto.FLOAT)

    def _cast(self, name: str, into: str, kind: int) -> None:
        self._nodes.append(self._onnx.helper.make_node("Cast", [name], [into], to=kind))
