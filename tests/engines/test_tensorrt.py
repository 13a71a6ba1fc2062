"""TensorRT on NVIDIA cards.

ONNX Runtime's CPU provider stands in for the card; the code that compiles, keeps, loads and runs
engines is the real one.  Tests that need a card are marked ``gpu``.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from small_networks import blur_network, small_bundle

from refocusd.config import EngineOptions
from refocusd.engines.cache import EngineCache
from refocusd.engines.choose import build_engine, count_cards
from refocusd.engines.runtimes.card import Card
from refocusd.engines.runtimes.onnxruntime import Graph, Shapes
from refocusd.engines.runtimes.tensorrt import (
    TensorRtEngine,
    TensorRtProvider,
    engine_key,
    engine_shapes,
    probe,
    tensorrt_scale_network,
    unsupported,
)
from refocusd.engines.scaled import ScaledEngine
from refocusd.engines.self_test import check_engine
from refocusd.errors import DeviceLostError, EngineError
from refocusd.models.bundle import ModelBundle, load_bundle

ADA = Card("NVIDIA RTX 4000", (8, 9), "580.82", 8000, False)
MODELS = ("live-nuclei", "live-fluorescence")
no_card = pytest.mark.skipif(count_cards() > 0, reason="there is an NVIDIA card")


class Counting(TensorRtProvider):
    """Compiles for the processor, and counts the compilations."""

    compiled = 0

    def _compiled(self, graph: Graph) -> bytes:
        self.compiled += 1
        return super()._compiled(graph)


def provider(folder: Path, card: Card = ADA) -> Counting:
    (processor,) = (d for d in onnxruntime.get_ep_devices() if d.ep_name == "CPUExecutionProvider")
    return Counting(EngineCache(folder), (processor, card))


def engine_of(
    bundle: ModelBundle, made_by: TensorRtProvider, options: EngineOptions | None = None
) -> Any:
    options = options or EngineOptions()
    if bundle.fine_sigma_px is None:
        return TensorRtEngine(bundle, options, made_by)
    return ScaledEngine(bundle, tensorrt_scale_network(bundle, options, made_by))


@pytest.fixture
def small(tmp_path: Path) -> ModelBundle:
    return small_bundle(blur_network(tmp_path / "blur.onnx", 4))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.engine"))


# -- compiled once, and kept ---------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_models_go_through_what_serves_a_card(tmp_path: Path, name: str) -> None:
    bundle, made_by = load_bundle(name), provider(tmp_path)
    with closing(engine_of(bundle, made_by)) as engine:
        about = engine.description
        assert (about.backend, about.precision, about.device) == ("tensorrt", "f16", ADA.name)
        assert "sm89" in about.key
        assert all(check.good for check in check_engine(bundle, engine))


@pytest.mark.parametrize("name", MODELS)
def test_an_engine_is_compiled_once_and_found_again(tmp_path: Path, name: str) -> None:
    bundle, first = load_bundle(name), provider(tmp_path)
    engine_of(bundle, first).close()
    assert first.compiled == 1
    assert len(entries(tmp_path)) == 1
    again = provider(tmp_path, replace(ADA, driver="590.01", free_mib=100_000))
    engine_of(bundle, again).close()
    assert again.compiled == 0


def test_card_precision_and_shapes_decide_what_is_compiled(
    tmp_path: Path, small: ModelBundle
) -> None:
    folder = tmp_path / "cache"
    for card in (ADA, replace(ADA, capability=(12, 0))):
        for precision in ("f16", "f32"):
            for batch in (1, 4):
                options = EngineOptions(precision=precision, tile_batch=batch)
                engine_of(small, provider(folder, card), options).close()
    assert len(entries(folder)) == 8


def test_an_engine_that_is_refused_is_compiled_again(
    tmp_path: Path, small: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    engine_of(small, provider(folder)).close()
    sha256 = hashlib.sha256(small.onnx.read_bytes()).hexdigest()
    key = engine_key(Graph(b"", sha256, "f16", "raw", engine_shapes(small)), ADA.sm)
    assert EngineCache(folder).get(key) is not None
    EngineCache(folder).put(key, b"an engine of another edition")
    made_by = provider(folder)
    engine_of(small, made_by).close()
    assert made_by.compiled == 1
    assert "which is built again" in caplog.text


def test_what_tensorrt_leaves_to_the_processor_is_reported(
    tmp_path: Path, small: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    engine_of(small, provider(tmp_path / "cache")).close()
    assert "TensorRT leaves Cast, Conv, Relu to the processor" in caplog.text


def test_a_key_names_the_model_and_what_compiled_it() -> None:
    bundle = load_bundle("live-fluorescence")
    content = bundle.onnx.read_bytes()
    shapes = engine_shapes(bundle)
    graph = Graph(b"", hashlib.sha256(content).hexdigest(), "f16", "seen", shapes)
    key = engine_key(graph, "sm86")
    assert (key.source_sha256, key.target, key.precision) == (graph.source_sha256, "sm86", "f16")
    assert "onnxruntime_ep_nv_tensorrt_rtx" in key.runtime
    assert key.shapes == "1x3x16x16 1x3x1024x1024 1x3x2048x2048"


@pytest.mark.parametrize(
    ("step", "batch", "largest"), [(8, 1, 4096), (8, 4, 2048), (32, 3, 2336), (48, 1, 4080)]
)
def test_the_largest_shape_has_as_many_pixels_for_every_batch(
    step: int, batch: int, largest: int
) -> None:
    shapes = Shapes.of(step, 1, batch, 2048, 4096)
    assert shapes.largest == (batch, 1, largest, largest)
    assert shapes.best[2] <= min(2048, largest)
    assert shapes.least == (1, 1, step, step)


# -- frames --------------------------------------------------------------------------------


def test_the_memory_of_the_card_decides_about_tiles(tmp_path: Path) -> None:
    bundle = load_bundle("live-nuclei")
    for free_mib, most_px in ((200_000, 4096), (400, 1400)):
        card = replace(ADA, free_mib=free_mib)
        with closing(engine_of(bundle, provider(tmp_path, card))) as engine:
            assert max(engine.tiles((8192, 8192))[0].shape) <= most_px
            assert max(engine.tiles((8192, 8192))[0].shape) > most_px / 2


def test_a_card_that_draws_the_desktop_gets_small_tiles(tmp_path: Path) -> None:
    bundle = load_bundle("live-nuclei")
    display = provider(tmp_path, replace(ADA, draws_display=True))
    with closing(engine_of(bundle, display)) as engine:
        assert max(engine.tiles((2048, 2048))[0].shape) <= 1024
    asked = EngineOptions(tile_px=1536)
    with closing(engine_of(bundle, display, asked)) as engine:
        assert max(engine.tiles((2048, 2048))[0].shape) > 1024


def test_tiles_and_batches_beyond_the_engine_are_cut_or_refused(tmp_path: Path) -> None:
    bundle = load_bundle("live-nuclei")
    made_by = provider(tmp_path)
    with closing(engine_of(bundle, made_by, EngineOptions(tile_px=16000))) as engine:
        assert max(engine.tiles((9000, 9000))[0].shape) <= 4096
    with pytest.raises(EngineError, match="set a smaller tile_batch"):
        TensorRtEngine(
            replace(bundle, receptive_field_px=500), EngineOptions(tile_batch=60), made_by
        )


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_that_it_lacks_is_refused_by_name(tmp_path: Path, precision: Any) -> None:
    with pytest.raises(EngineError, match=f"f16 or f32, not {precision}"):
        engine_of(load_bundle(MODELS[0]), provider(tmp_path), EngineOptions(precision=precision))


# -- detection -----------------------------------------------------------------------------


@pytest.mark.parametrize("capability", [(8, 6), (8, 9), (12, 0), (12, 1)])
def test_the_cards_of_acquisition_computers_are_served(capability: tuple[int, int]) -> None:
    assert not unsupported(replace(ADA, capability=capability))


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (10, 0)])
def test_a_card_that_tensorrt_for_rtx_does_not_know_is_refused_with_a_way_out(
    capability: tuple[int, int],
) -> None:
    said = unsupported(replace(ADA, capability=capability))
    assert f"compute capability {capability[0]}.{capability[1]}" in said
    assert "set backend to cuda" in said


@no_card
@pytest.mark.parametrize("name", MODELS)
def test_without_a_card_every_model_says_so(name: str) -> None:
    said = probe()
    with pytest.raises(EngineError) as error:
        build_engine(name, EngineOptions(backend="tensorrt"))
    assert str(error.value) == said
    assert "no NVIDIA card answers" in said


@pytest.mark.parametrize(
    ("hidden", "package"),
    [
        ("onnxruntime", "onnxruntime"),
        ("onnxruntime_ep_nv_tensorrt_rtx", "onnxruntime-ep-nv-tensorrt-rtx"),
        ("onnx", "onnx"),
    ],
)
def test_what_is_not_installed_is_named_with_the_command(hidden: str, package: str) -> None:
    """As in a process that sees a card but not the package."""
    code = f"""
import sys, importlib.abc
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {hidden!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == {hidden!r} else find_spec(name)
from refocusd.engines.runtimes import tensorrt
from refocusd.engines.runtimes.card import Card
tensorrt.find_card = lambda bus_id="": Card("NVIDIA RTX 4000", (8, 9), "580.82", 8000, False)
print(tensorrt.probe())
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert said.startswith(f"{package} is not installed")
    assert 'pip install "refocusd[tensorrt]"' in said


@no_card
def test_the_plugin_without_a_driver_is_one_clear_error() -> None:
    """Tests the real one in a separate process, because it loads 300 MB."""
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the plug-in is not installed")
    code = """
from refocusd.engines.runtimes.tensorrt import _plugin_device
from refocusd.errors import EngineError
try:
    _plugin_device()
except EngineError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    ).stdout
    assert "update the NVIDIA driver" in said


# -- on a card -----------------------------------------------------------------------------


@pytest.fixture(params=MODELS)
def engine_on_card(request: pytest.FixtureRequest) -> Iterator[Any]:
    said = probe()
    if said:
        pytest.skip(said)
    engine = build_engine(request.param, EngineOptions(backend="tensorrt"))
    yield engine
    engine.close()


@pytest.mark.gpu
def test_an_engine_on_a_card_gives_what_the_bundle_says(
    engine_on_card: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(engine_on_card.description.model_id.rpartition("-")[0])
    for shape in ((64, 64), (520, 696), (2048, 2048)):
        engine_on_card.warm_up(shape)
    assert all(check.good for check in check_engine(bundle, engine_on_card))
    assert "leaves" not in caplog.text


@pytest.mark.gpu
def test_frames_from_a_card_are_those_from_the_processor(engine_on_card: Any) -> None:
    from refocusd.demo.specimen import Specimen

    raw = Specimen().frame("DAPI", 8.0, 10.0, np.random.default_rng(0))
    other = build_engine(
        engine_on_card.description.model_id.rpartition("-")[0], EngineOptions("openvino", "f32")
    )
    found, expected = np.empty_like(raw), np.empty_like(raw)
    engine_on_card.refocus(raw, found)
    other.refocus(raw, expected)
    other.close()
    apart = np.percentile(np.abs(found.astype(int) - expected), 99.9)
    assert apart <= 0.02 * np.percentile(raw, 99.9)


def test_a_lost_card_is_an_engine_error_of_its_own() -> None:
    assert issubclass(DeviceLostError, EngineError)
