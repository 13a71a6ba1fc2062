"""Builds a TensorRT engine from a bundle's weights by torch-tensorrt, on a machine without a card.

torch-tensorrt uses a card for three things that a build does not need: it queries the compute capability and
the free memory, and it loads the finished engine.  Here, the queries are answered for the stated card, and
the engine is kept without loading it.  TensorRT itself can build for any stated compute capability.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from refocusd.engines.runtimes.onnxruntime import Graph
from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle

if TYPE_CHECKING:
    from torch import nn


INSTALL = 'pip install ".[torch-tensorrt]", in an environment of its own'
#: Free memory that torch-tensorrt is told; conversion to one engine does not depend on it.
_FREE_BYTES = 8 << 30


def build_engine_torch(model: ModelBundle, graph: Graph, card: str) -> bytes:
    """Build an engine of a bundle's network, with the input and the outputs of its ONNX.

    Parameters
    ----------
    model : ModelBundle
    graph : Graph
        Precision, shapes and names.
    card : str
        Compute capability, e.g. ``sm89``.

    Raises
    ------
    EngineError
        If torch-tensorrt is missing or cannot build it, or the bundle does not describe its network.
    """
    import torch

    with _stated(card):
        try:
            import torch_tensorrt
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineError(
                f"torch-tensorrt does not load ({error}); install it: {INSTALL}; or build from ONNX "
                "(--engine-builder onnx)"
            ) from error
        shapes = graph.shapes
        step, batch = model.size_multiple, shapes.largest[0]
        network = _network(model)
        if graph.precision == "f16":
            _halve(network)
        example = torch.zeros(min(2, batch), shapes.best[1], 4 * step, 4 * step)
        dims: dict[int, Any] = {
            side: step * torch.export.Dim(name, min=1, max=shapes.largest[side] // step)
            for side, name in ((2, "high"), (3, "wide"))
        }
        if batch > 1:
            dims[0] = torch.export.Dim("batch", min=1, max=batch)
        program = torch.export.export(_wide(network), (example,), dynamic_shapes=(dims,))
        with _unloaded(card):
            try:
                engine: bytes = (
                    torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                        program,
                        inputs=[
                            torch_tensorrt.Input(
                                min_shape=shapes.least,
                                opt_shape=shapes.best,
                                max_shape=shapes.largest,
                                dtype=torch.float32,
                            )
                        ],
                        device=torch_tensorrt.Device(gpu_id=0),
                        disable_tf32=True,
                        require_full_compilation=True,  # nothing is left to torch
                        arg_input_binding_names=(graph.input,),
                        output_binding_names=_outputs(graph),
                    )
                )
            except (RuntimeError, ValueError) as error:
                raise EngineError(
                    f"torch-tensorrt cannot build {model.model_id} for {card}: {error}"
                ) from error
    return engine


@contextmanager
def _stated(card: str) -> Iterator[None]:
    """Answer queries about the card for the stated one."""
    number = int(card.removeprefix("sm"))
    answers = {
        "torch.cuda.get_device_capability": lambda *_: divmod(number, 10),
        "torch.cuda.mem_get_info": lambda *_: (_FREE_BYTES, _FREE_BYTES),
        "torch.cuda.current_device": lambda: 0,
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch(name, answer))
        yield


@contextmanager
def _unloaded(card: str) -> Iterator[None]:
    """Keep the engine for the stated card, instead of loading it."""
    from torch_tensorrt.dynamo.conversion import _TRTInterpreter as interpreter

    trt = interpreter.trt
    configured = interpreter.TRTInterpreter._populate_trt_builder_config

    def for_card(self: Any, *given: Any, **named: Any) -> Any:
        config = configured(self, *given, **named)
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, card.upper()), 0)
        return config

    def runtime(_log: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=_Kept)

    with (
        mock.patch.object(interpreter.TRTInterpreter, "_populate_trt_builder_config", new=for_card),
        mock.patch.object(trt, "Runtime", new=runtime),
    ):
        yield


class _Kept:
    """A built engine, which replaces a loaded one."""

    def __init__(self, serialized: Any) -> None:
        self._serialized = serialized

    def serialize(self) -> Any:
        return self._serialized

    def get_aliased_input_tensor(self, _name: str) -> None:
        return None


def _outputs(graph: Graph) -> str | tuple[str, ...]:
    """Names of the outputs, in the form in which the network returns them."""
    import onnx

    ports = onnx.load_model_from_string(graph.model).graph.output
    names = tuple(str(port.name) for port in ports)
    return names if len(names) > 1 else names[0]


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


def _halve(network: nn.Module) -> None:
    """Compute convolutions that mix channels, and the layers after them, in f16, as `engines.runtimes.half` does."""
    from torch import nn

    def narrowed(_layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0].half(), *given[1:])

    for layer in network.modules():
        mixing = isinstance(layer, nn.Conv2d) and layer.weight.shape[1] > 1
        if mixing or isinstance(layer, nn.BatchNorm2d):
            layer.half()
            layer.register_forward_pre_hook(narrowed)


def _wide(network: Any) -> nn.Module:
    """The network with all outputs of its ONNX, in f32."""
    import torch

    headed = getattr(network, "defocus", None) is not None

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, seen: torch.Tensor) -> Any:
            answer = self.network.forward_with_defocus(seen) if headed else self.network(seen)
            if isinstance(answer, torch.Tensor):
                return answer.float()
            return tuple(part.float() for part in answer)

    return Wide().eval()
