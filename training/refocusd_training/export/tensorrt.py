"""Builds engines from a bundle before their first use.

Two builders.  ``onnx``: TensorRT itself, as `refocusd.engines.tensorrt` builds on first
use.  ``torch``: weights from safetensors, `torch.export`, torch-tensorrt; what comes of it
is the raw engine, no pickle.  Either way it is kept as the worker looks for it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refocusd.engines.cache import EngineCache, EngineKey
from refocusd.engines.tensorrt.builder import INPUT, compiled, engine_key, shape_range
from refocusd.engines.tensorrt.card import Card, find_card
from refocusd.engines.tensorrt.edition import Edition, load_edition
from refocusd.errors import EngineError, OutputError
from refocusd.models.bundle import ModelBundle, load_bundle

if TYPE_CHECKING:
    from torch import nn

__all__ = ["export_engine"]

log = logging.getLogger(__name__)

INSTALL = 'pip install "refocusd[torch-tensorrt]" --extra-index-url https://pypi.nvidia.com'


def export_engine(
    bundle: Path,
    output: str,
    *,
    precision: Literal["f16", "f32"] = "f16",
    batch: int = 1,
    builder: Literal["onnx", "torch"] = "onnx",
) -> EngineKey:
    """Build the engine of a bundle.

    Parameters
    ----------
    bundle : Path
        Folder of a bundle.
    output : str
        ``cache``: the user's cache of engines, where the tensorrt backend finds it.  Else the
        file that the engine is written to, as TensorRT reads it.
    precision : {"f16", "f32"}
    batch : int
        Tiles at once, at most.
    builder : {"onnx", "torch"}

    Returns
    -------
    EngineKey
        What the engine was built from and for.  Without a card here: any card from Ampere on.

    Raises
    ------
    EngineError
        If TensorRT, torch-tensorrt or a card that it needs is missing, or it cannot build it.
    OutputError
        If the file cannot be written.
    """
    model = load_bundle(bundle)
    card = _card()
    edition = load_edition(card)
    cache = EngineCache()
    if builder == "onnx":
        key, payload = compiled(model, edition, card, precision, batch, cache)
    else:
        key, payload = _by_torch(model, edition, card, precision, batch)
        cache.put(key, payload)
    if output != "cache":
        try:
            Path(output).write_bytes(payload)
        except OSError as error:
            raise OutputError(f"{output} cannot be written: {error.strerror}") from error
    return key


def _card() -> Card | None:
    try:
        return find_card()
    except EngineError as error:
        log.info("%s: the engine is built for cards that this computer does not have", error)
        return None


def _by_torch(
    model: ModelBundle, edition: Edition, card: Card | None, precision: str, batch: int
) -> tuple[EngineKey, bytes]:
    # Fails on import where torch was built without CUDA.
    try:
        import torch_tensorrt
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"torch-tensorrt cannot be loaded ({error}); install it on a machine with an NVIDIA card: "
            f"{INSTALL}; or build from ONNX (--engine-builder onnx)"
        ) from error
    import torch

    shapes = shape_range(model.size_multiple, batch)
    key = engine_key(model.onnx.read_bytes(), edition, card, precision, shapes)
    network = _network(model).to("cuda")
    step = model.size_multiple
    example = torch.zeros(min(2, batch), 1, 4 * step, 4 * step, device="cuda")
    dims: dict[int, Any] = {
        side: step * torch.export.Dim(name, min=1, max=shapes.largest[side] // step)
        for side, name in ((2, "high"), (3, "wide"))
    }
    if batch > 1:
        dims[0] = torch.export.Dim("batch", min=1, max=batch)
    whole = _in_half(network) if precision == "f16" else network
    program = torch.export.export(whole, (example,), dynamic_shapes=(dims,))
    payload: bytes = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
        program,
        inputs=[
            torch_tensorrt.Input(
                min_shape=shapes.least,
                opt_shape=shapes.best,
                max_shape=shapes.largest,
                dtype=torch.float32,
                name=INPUT,
            )
        ],
        require_full_compilation=True,  # nothing is left to torch
    )
    return key, payload


def _network(model: ModelBundle) -> nn.Module:
    """The bundle's network, with its weights.

    Raises
    ------
    EngineError
        If the bundle does not say what it is.
    """
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
