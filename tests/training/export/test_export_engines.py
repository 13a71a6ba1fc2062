"""Engines are really built here, for cards that are absent.

Building needs no card; only a card can show that a built engine runs.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
from refocusd_training.export.tensorrt import build_engine_onnx, export_engines
from small_networks import blur_network, small_bundle

from refocusd.cli.main import main
from refocusd.engines.cache import EngineCache
from refocusd.engines.runtimes.onnxruntime import graph_of
from refocusd.engines.runtimes.tensorrt import PROVIDER, engine_key, engine_shapes
from refocusd.errors import EngineError
from refocusd.models.bundle import load_bundle

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
MODELS = ("live-nuclei", "live-fluorescence")


@pytest.mark.parametrize("precision", ["f16", "f32"])
@pytest.mark.parametrize("name", MODELS)
def test_tensorrt_takes_every_shipped_network_whole(name: str, precision: str) -> None:
    """The whole graph is in one engine of the requested precision; the processor does nothing."""
    bundle = load_bundle(name)
    graph = graph_of(bundle, precision, engine_shapes(bundle))
    engine = build_engine_onnx(graph, "sm89")
    # Nor is it there twice, except for programs, of which each Richardson-Lucy iteration has some.
    assert 0.9 * len(graph.model) < len(engine) < len(graph.model) + (16 << 20)


@pytest.mark.parametrize("name", MODELS)
def test_engines_for_stated_cards_lie_where_the_worker_looks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFOCUSD_CACHE", str(tmp_path))
    bundle = load_bundle(name)
    keys = export_engines(bundle.folder, "cache", cards=("sm86", "sm120"))
    graph = graph_of(bundle, "f16", engine_shapes(bundle))
    assert keys == [engine_key(graph, "sm86"), engine_key(graph, "sm120")]
    for key in keys:
        content = EngineCache().get(key)
        assert content is not None
        made = onnx.load_model_from_string(content)
        (node,) = made.graph.node
        assert (node.op_type, node.domain) == ("EPContext", "com.microsoft")
        about = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        assert about["source"].decode() == PROVIDER
        assert about["embed_mode"] == 1
        assert len(about["ep_cache_context"]) > 1 << 20
        original = onnx.load(bundle.onnx).graph
        assert list(node.input) == [original.input[0].name]
        assert list(node.output) == [port.name for port in original.output]


def test_engines_of_a_model_are_written_as_files_by_the_command(tmp_path: Path) -> None:
    flags = ["--bundle", MODELS[0], "--engine", str(tmp_path / "engines"), "--for", "sm89"]
    assert main(["train", "export", *flags]) == 0
    (file,) = (tmp_path / "engines").iterdir()
    assert file.name == "live-nuclei-2-f16-sm89.onnx"


@pytest.mark.parametrize(
    "flags",
    [[], ["--run", "a"], ["--bundle", "a"], ["--bundle", "a", "--run", "b", "--output", "c"]],
)
def test_a_run_or_a_bundle_is_exported_and_not_both(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "export", *flags]) != 0
    assert "--engine" in capsys.readouterr().err


def test_another_tensorrt_than_the_plugin_runs_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REFOCUSD_CACHE", str(tmp_path))
    export_engines(MODELS[0], "cache", cards=("sm86",))
    assert "may build its own again" not in caplog.text
    monkeypatch.setattr("refocusd_training.export.tensorrt.version", lambda _: "1.6.1.120")
    export_engines(MODELS[0], "cache", cards=("sm86",))
    assert "built by TensorRT 1.6, and the plug-in runs 1.7" in caplog.text


def test_the_cache_needs_the_plugin_that_will_run_the_engines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"install it: pip install.*tensorrt"):
        export_engines(MODELS[0], "cache", cards=("sm86",))


def test_a_card_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no engines for sm75: choose from sm86, sm89, sm120"):
        export_engines(load_bundle(MODELS[0]).folder, str(tmp_path), cards=("sm75",))


def test_a_network_that_tensorrt_does_not_know_is_one_error(tmp_path: Path) -> None:
    bundle = small_bundle(blur_network(tmp_path / "blur.onnx", 4))
    graph = graph_of(bundle, "f32", engine_shapes(bundle))
    damaged = graph.model.replace(b"Relu", b"Nope")
    with pytest.raises(EngineError, match="TensorRT cannot take the network"):
        build_engine_onnx(type(graph)(damaged, "", "f32", graph.input, graph.shapes), "sm89")


@pytest.mark.skipif(
    importlib.util.find_spec("torch_tensorrt") is not None, reason="torch-tensorrt is installed"
)
def test_without_torch_tensorrt_the_command_that_installs_it_is_shown(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="torch-tensorrt does not load"):
        export_engines(load_bundle(MODELS[0]).folder, "cache", cards=("sm89",), builder="torch")
