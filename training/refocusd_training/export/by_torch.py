"""Builds a TensorRT engine from a bundle's weights by torch-tensorrt, for the card at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refocusd.engines.onnxruntime import Graph
from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_engine_torch"]

INSTALL = 'pip install "refocusd[torch-tensorrt]" in an environment of its own'


def build_engine_torch(model: ModelBundle, graph: Graph) -> bytes:
    """An engine of a bundle's network.

    Parameters
    ----------
    model : ModelBundle
    graph : Graph
        Precision and shapes.

    Raises
    ------
    EngineError
        If torch-tensorrt is missing, or the bundle does not describe its network.
    """
    # Fails on import where torch was built without CUDA.
    try:
        import torch_tensorrt
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"torch-tensorrt does not load ({error}); install it: {INSTALL}; or build from ONNX "
            "(--engine-builder onnx)"
        ) from error
    import torch

    shapes = graph.shapes
    network = _network(model).to("cuda")
    step, batch = model.size_multiple, shapes.largest[0]
    example = torch.zeros(min(2, batch), shapes.best[1], 4 * step, 4 * step, device="cuda")
    dims: dict[int, Any] = {
        side: step * torch.export.Dim(name, min=1, max=shapes.largest[side] // step)
        for side, name in ((2, "high"), (3, "wide"))
    }
    if batch > 1:
        dims[0] = torch.export.Dim("batch", min=1, max=batch)
    whole = _in_half(network) if graph.precision == "f16" else network
    program = torch.export.export(whole, (example,), dynamic_shapes=(dims,))
    payload: bytes = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
        program,
        inputs=[
            torch_tensorrt.Input(
                min_shape=shapes.least,
                opt_shape=shapes.best,
                max_shape=shapes.largest,
                dtype=torch.float32,
                name=graph.input,
            )
        ],
        require_full_compilation=True,  # nothing is left to torch
    )
    return payload


def _network(model: ModelBundle) -> nn.Module:
    """The bundle's network, with its weights."""
    from safetensors.torch import load_file

    from refocusd_training.networks import build_described

    if model.network is None or model.weights is None:
        raise EngineError(
            f"{model.folder} does not describe its network, or has no weights of its own: build from "
            "ONNX (--engine-builder onnx)"
        )
    network = build_described(model.network)
    network.load_state_dict(load_file(model.weights))
    return network.eval()


def _in_half(network: nn.Module) -> nn.Module:
    """The network computed in f16, between f32 in and out."""
    import torch

    class InHalf(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network.half()

        def forward(self, raw: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.network(raw.half())
            return answer.float()

    return InHalf().eval()
