"""Builds TensorRT engines from a bundle before their first use, for cards that need not be here.

There are two builders.  ``onnx`` builds with TensorRT for RTX from the bundle's ONNX, like its plug-in for ONNX
Runtime on first use.  ``torch`` uses weights from safetensors, `torch.export` and torch-tensorrt (`by_torch`).
Both store the engine inside an ONNX file, the form in which the worker loads it.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from refocusd import files
from refocusd.engines.cache import EngineCache, EngineKey
from refocusd.engines.runtimes.onnxruntime import Graph, graph_of
from refocusd.engines.runtimes.tensorrt import PLUGIN, PROVIDER, engine_key, engine_shapes
from refocusd.errors import EngineError
from refocusd.models.bundle import load_bundle

log = logging.getLogger(__name__)

#: Compute capabilities for which engines are built, in the spellings of NVIDIA and of TensorRT.
CARDS = {"sm86": "SM86", "sm89": "SM89", "sm120": "SM120"}
INSTALL = 'pip install "refocusd[train]"'


def export_engines(
    bundle: str | Path,
    output: str,
    *,
    cards: Sequence[str] = tuple(CARDS),
    precision: Literal["f16", "f32"] = "f16",
    batch: int = 1,
    builder: Literal["onnx", "torch"] = "onnx",
) -> list[EngineKey]:
    """Build the engines of a bundle.

    Parameters
    ----------
    bundle : str or Path
        Name of a model, or a bundle's folder.
    output : str
        ``cache``: the user's cache of engines, where the tensorrt backend finds them.  Otherwise a
        folder for ONNX files that contain the engines.
    cards : sequence of str
        Compute capabilities; see `CARDS`.
    precision : {"f16", "f32"}
    batch : int
        Largest number of tiles in a batch.
    builder : {"onnx", "torch"}

    Returns
    -------
    list of EngineKey
        The key of each engine: what it was built from and for.

    Raises
    ------
    EngineError
        If TensorRT or torch-tensorrt is missing or cannot build an engine; for the cache also if the
        plug-in, whose version is part of the key, is missing.
    OutputError
        If a file cannot be written.
    """
    unknown = [name for name in cards if name not in CARDS]
    if unknown or not cards:
        raise EngineError(f"no engines for {', '.join(unknown)}: choose from {', '.join(CARDS)}")
    if output == "cache":
        _check_runner()
    model = load_bundle(bundle)
    graph = graph_of(model, precision, engine_shapes(model, batch))
    cache = EngineCache()
    keys = []
    for card in cards:
        if builder == "torch":
            from refocusd_training.export.by_torch import build_engine_torch

            engine = build_engine_torch(model, graph, card)
        else:
            engine = build_engine_onnx(graph, card)
        content = with_engine_inside(graph, engine, card)
        key = engine_key(graph, card)
        if output == "cache":
            cache.put(key, content)
        else:
            path = Path(output) / f"{model.model_id}-{precision}-{card}.onnx"
            with files.output(path):
                path.write_bytes(content)
        keys.append(key)
    return keys


def _check_runner() -> None:
    """Check that the same TensorRT builds and runs the engine."""
    found = importlib.util.find_spec(PLUGIN)
    if found is None or not found.submodule_search_locations:
        raise EngineError(
            "engines in the cache are told apart by the version of the plug-in that runs them; install it: "
            'pip install ".[tensorrt]", or write files (--engine FOLDER)'
        )
    names = " ".join(path.name for path in Path(found.submodule_search_locations[0]).iterdir())
    runs = re.search(r"tensorrt_rtx(?:\.so\.|_)(\d+)[._](\d+)", names)
    builds = version("tensorrt-rtx").split(".")[:2]
    if runs and list(runs.groups()) != builds:
        log.warning(
            "engines are built by TensorRT %s, and the plug-in runs %s: it may build its own again",
            ".".join(builds),
            ".".join(runs.groups()),
        )


def build_engine_onnx(graph: Graph, card: str) -> bytes:
    """Build an engine with TensorRT for RTX from ONNX, without a card.

    Raises
    ------
    EngineError
        If TensorRT is missing, lacks an operator, or cannot build it.
    """
    try:
        import tensorrt_rtx as trt
    except (ImportError, OSError) as error:
        raise EngineError(
            f"TensorRT for RTX does not load ({error}); install it: {INSTALL}"
        ) from error
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    # With the types that the network states, without a fall-back to others.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.model):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(f"TensorRT cannot take the network: {'; '.join(errors[:3])}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    shapes = graph.shapes
    profile.set_shape(graph.input, shapes.least, shapes.best, shapes.largest)
    config.add_optimization_profile(profile)
    if graph.precision == "f32":
        config.clear_flag(trt.BuilderFlag.TF32)  # has the mantissa of f16
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, CARDS[card]), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError(f"TensorRT cannot build the network in {graph.precision} for {card}")
    return bytes(engine)


def with_engine_inside(graph: Graph, engine: bytes, card: str) -> bytes:
    """The network as an ONNX file that contains only its engine, in the plug-in's format.

    See https://onnxruntime.ai/docs/execution-providers/EP-Context-Design.html.
    """
    import onnx
    from onnx import helper

    model = onnx.load_model_from_string(graph.model)
    node: Any = helper.make_node(
        "EPContext",
        [graph.input],
        [port.name for port in model.graph.output],
        domain="com.microsoft",
        embed_mode=1,
        ep_cache_context=engine,
        main_context=0,
        source=PROVIDER,
        hardware_architecture=card.removeprefix("sm"),
        partition_name="network",
        ep_sdk_version="1.0",
    )
    inside = helper.make_graph([node], "engine", [model.graph.input[0]], list(model.graph.output))
    opsets = [*model.opset_import, helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(
        inside, opset_imports=opsets, ir_version=model.ir_version
    ).SerializeToString()
    return made
