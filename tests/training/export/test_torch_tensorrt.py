"""Engines by torch-tensorrt, in a separate environment, which ``.ci/torch-tensorrt`` creates.

Its torch conflicts with that of training, and takes 6 GB.  No card is needed.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from refocusd.engines.runtimes.onnxruntime import Graph, graph_of
from refocusd.engines.runtimes.tensorrt import engine_shapes
from refocusd.models.bundle import load_bundle

if importlib.util.find_spec("torch_tensorrt") is None:
    pytest.skip(
        "torch-tensorrt is not installed: .ci/torch-tensorrt makes an environment that has it",
        allow_module_level=True,
    )

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", ["live-nuclei", "live-fluorescence"])
def test_every_shipped_network_is_built_as_from_its_onnx(name: str) -> None:
    """Engines from weights and from ONNX have the same ports and the same precision of weights."""
    from refocusd_training.export.by_torch import build_engine_torch
    from refocusd_training.export.tensorrt import build_engine_onnx

    bundle, sizes = load_bundle(name), []
    for precision in ("f16", "f32"):
        graph = graph_of(bundle, precision, engine_shapes(bundle))
        by_torch = build_engine_torch(bundle, graph, "sm89")
        by_onnx = build_engine_onnx(graph, "sm89")
        assert len(by_torch) == pytest.approx(len(by_onnx), rel=0.1)
        for port in (graph.input, "refocused"):
            assert port.encode() in by_torch
            assert port.encode() in by_onnx
        sizes.append(len(by_torch))
    weights = bundle.onnx.stat().st_size
    assert sizes[1] - sizes[0] == pytest.approx(weights / 2, rel=0.25)


def test_the_unet_of_the_reference_method_is_built_for_frames_of_any_size(tmp_path: Path) -> None:
    from onnx import TensorProto, helper
    from refocusd_training.export.by_torch import build_engine_torch
    from refocusd_training.networks import NetworkConfig, build_network, description_of
    from safetensors.torch import save_file

    config = NetworkConfig(name="resnet34")
    network = build_network(config).eval()
    weights = tmp_path / "weights.safetensors"
    save_file({name: one.contiguous() for name, one in network.state_dict().items()}, weights)
    bundle = replace(
        load_bundle("live-nuclei"),
        size_multiple=network.size_multiple,
        weights=weights,
        network=description_of(config),
    )
    port = helper.make_tensor_value_info("refocused", TensorProto.FLOAT, [1])
    ports = helper.make_model(helper.make_graph([], "ports", [], [port])).SerializeToString()
    graph = Graph(ports, "", "f16", "raw", engine_shapes(bundle))
    engine = build_engine_torch(bundle, graph, "sm86")
    half = 2 * sum(one.numel() for one in network.parameters())
    assert half < len(engine) < 1.1 * half
