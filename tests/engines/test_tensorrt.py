"""TensorRT: engines are really built here, for cards that are not.

Building needs no card.  What only a card can show, that a built engine runs and how fast,
is marked ``gpu``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from host_device import small_bundle
from onnx import helper
from small_networks import blur_network, write_network

from refocusd.config import EngineOptions
from refocusd.engines.cache import EngineCache
from refocusd.engines.self_test import check_engine
from refocusd.engines.tensorrt import TensorRtEngine, probe
from refocusd.engines.tensorrt.builder import compiled, engine_key, parsed, shape_range
from refocusd.engines.tensorrt.card import Card
from refocusd.engines.tensorrt.edition import Edition, choose_edition, load_edition
from refocusd.engines.tensorrt.half import float_tensors
from refocusd.engines.tensorrt.kernels import compiled_kernels
from refocusd.engines.tensorrt.log import engine_log
from refocusd.errors import DeviceLostError, EngineError
from refocusd.models.bundle import load_bundle

ADA = Card("NVIDIA RTX 4000", (8, 9), 13000, True)
TURING = Card("NVIDIA RTX 2080", (7, 5), 13000, True)
HOPPER = Card("NVIDIA H200", (9, 0), 13000, False)
PRECISIONS = ("f16", "f32")
#: The shipped model that sees frames at full size.
WHOLE = "live-nuclei"


@pytest.fixture(scope="module")
def edition() -> Edition:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    return load_edition(None)


# -- building ------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [WHOLE])
def test_the_shipped_network_is_built_for_cards_that_are_not_here(
    edition: Edition, tmp_path: Path, name: str, precision: str
) -> None:
    bundle, cache = load_bundle(name), EngineCache(tmp_path)
    key, payload = compiled(bundle, edition, None, precision, 1, cache)
    assert key.target == "sm80+"
    assert key.source_sha256 == hashlib.sha256(bundle.onnx.read_bytes()).hexdigest()
    # The weights are in it, in the width asked for.
    weights = bundle.onnx.stat().st_size / (2 if precision == "f16" else 1)
    assert 0.9 * weights < len(payload) < weights + (4 << 20)
    # A card of that kind takes the one that was built without it.
    assert compiled(bundle, edition, ADA, precision, 1, cache) == (key, payload)


def test_a_model_at_the_scale_of_the_blur_is_refused_with_a_way_out(
    edition: Edition, tmp_path: Path
) -> None:
    bundle = load_bundle("live-fluorescence")
    with pytest.raises(EngineError, match="use backend cuda or openvino"):
        compiled(bundle, edition, None, "f16", 1, EngineCache(tmp_path))


@pytest.mark.parametrize("name", [WHOLE])
def test_the_shipped_network_is_converted_whole(edition: Edition, name: str) -> None:
    trt, bundle = edition.module, load_bundle(name)
    _, network, kept = parsed(trt, engine_log(trt), bundle.onnx.read_bytes(), "f16")
    assert float_tensors(trt, network) == {"raw", "refocused"}
    assert sum(weights.size for weights in kept) > 100_000
    assert network.num_inputs == network.num_outputs == 1
    raw, refocused = network.get_input(0), network.get_output(0)
    assert (raw.name, refocused.name) == ("raw", "refocused")
    assert raw.dtype == refocused.dtype == trt.float32
    assert tuple(raw.shape) == (-1, 1, -1, -1)
    half = {
        tensor.dtype
        for layer in map(network.get_layer, range(network.num_layers))
        if layer.type == trt.LayerType.CONVOLUTION
        for tensor in (layer.get_input(0), layer.get_output(0))
    }
    assert half == {trt.float16}


def test_f32_stays_f32(edition: Edition) -> None:
    trt, bundle = edition.module, load_bundle(WHOLE)
    _, network, kept = parsed(trt, engine_log(trt), bundle.onnx.read_bytes(), "f32")
    assert not kept
    assert len(float_tensors(trt, network)) > 20


def test_shape_range_and_card_decide_what_is_built(edition: Edition, tmp_path: Path) -> None:
    bundle = small_bundle(blur_network(tmp_path / "blur.onnx", 4))
    cache = EngineCache(tmp_path / "cache")
    keys = {
        compiled(bundle, edition, card, "f16", batch, cache)[0]
        for card in (ADA, TURING)
        for batch in (1, 4)
    }
    assert len(keys) == 4
    assert {key.target for key in keys} == {"sm75", "sm80+"}
    ranges = {batch: shape_range(8, batch) for batch in (1, 4)}
    assert ranges[1].least == (1, 1, 8, 8)
    assert ranges[1].largest == (1, 1, 4096, 4096)
    assert ranges[4].best == ranges[4].largest == (4, 1, 2048, 2048)


def test_a_damaged_entry_is_built_again(edition: Edition, tmp_path: Path) -> None:
    bundle = small_bundle(blur_network(tmp_path / "blur.onnx", 4))
    cache = EngineCache(tmp_path / "cache")
    key, payload = compiled(bundle, edition, None, "f16", 1, cache)
    damaged = bytearray(cache.path(key).read_bytes())
    damaged[-100] ^= 1
    cache.path(key).write_bytes(damaged)
    _, again = compiled(bundle, edition, None, "f16", 1, cache)
    assert len(again) == pytest.approx(len(payload), rel=0.01)
    assert cache.get(key) == again


def test_the_output_named_refocused_is_the_frame(edition: Edition, tmp_path: Path) -> None:
    shape = ("batch", 1, "height", "width")
    nodes = [
        helper.make_node("Relu", ["raw"], ["defocus"]),
        helper.make_node("Mul", ["defocus", "two"], ["refocused"]),
    ]
    path = write_network(
        tmp_path / "two.onnx",
        nodes,
        {"two": [2.0]},
        {"defocus": shape, "refocused": shape},
    )
    trt = edition.module
    _, network, _ = parsed(trt, engine_log(trt), path.read_bytes(), "f16")
    assert [network.get_output(i).name for i in range(network.num_outputs)] == ["refocused"]


@pytest.mark.parametrize(
    ("precision", "weight", "said"),
    [
        ("bf16", 1.0, "f16 or f32, not bf16"),
        ("int8", 1.0, "f16 or f32, not int8"),
        ("f16", 1e6, "beyond f16"),
    ],
)
def test_what_cannot_be_built_is_said(
    edition: Edition, tmp_path: Path, precision: str, weight: float, said: str
) -> None:
    nodes = [helper.make_node("Mul", ["raw", "much"], ["refocused"])]
    path = write_network(tmp_path / "much.onnx", nodes, {"much": [weight]})
    with pytest.raises(EngineError, match=said):
        compiled(small_bundle(path), edition, None, precision, 1, EngineCache(tmp_path / "cache"))


def test_a_file_that_is_no_network_is_one_error(edition: Edition, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no network at all")
    with pytest.raises(EngineError, match="TensorRT cannot take the network"):
        compiled(small_bundle(tmp_path / "no.onnx"), edition, None, "f16", 1, EngineCache(tmp_path))


def test_export_puts_the_engine_where_the_worker_looks(
    edition: Edition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFOCUSD_CACHE", str(tmp_path / "cache"))
    from refocusd_training.export.tensorrt import export_engine

    bundle = load_bundle(WHOLE)
    key = export_engine(bundle.folder, str(tmp_path / "live.engine"))
    kept = EngineCache().get(key)
    assert kept == (tmp_path / "live.engine").read_bytes()
    assert export_engine(bundle.folder, "cache") == key
    if importlib.util.find_spec("torch_tensorrt") is None:
        with pytest.raises(EngineError, match="torch-tensorrt cannot be loaded"):
            export_engine(bundle.folder, "cache", builder="torch")


# -- what is there -------------------------------------------------------------------------


def test_a_card_that_the_rtx_edition_does_not_know_is_refused_with_a_way_out() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    assert choose_edition(ADA) == choose_edition(TURING) == "tensorrt_rtx"
    with pytest.raises(EngineError, match=r"H200 \(compute capability 9\.0\); set backend to cuda"):
        choose_edition(HOPPER)


def test_the_full_edition_builds_for_one_card_and_driver() -> None:
    full = Edition("tensorrt", "11.0", None)
    shapes = shape_range(32, 1)
    keys = {
        engine_key(b"onnx", full, card, "f16", shapes)
        for card in (HOPPER, ADA, replace(HOPPER, driver=13010))
    }
    assert len(keys) == 3


def test_without_a_card_everything_says_so() -> None:
    said = probe()
    if not said:
        pytest.skip("there is a card, and it works")
    with pytest.raises(EngineError) as error:
        TensorRtEngine(load_bundle(WHOLE), EngineOptions(backend="tensorrt"))
    assert str(error.value) == said


def test_without_tensorrt_the_command_that_installs_it_is_said() -> None:
    """In a process that sees only the base installation."""
    code = (
        "import sys, importlib.abc\n"
        "class Hidden(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('tensorrt', 'tensorrt_rtx', 'cuda', 'torch'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from refocusd.engines.tensorrt import probe\n"
        "print(probe())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert 'pip install "refocusd[tensorrt]"' in said


def test_the_kernels_compile_for_every_card(tmp_path: Path) -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-python is not installed")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError:
        pytest.skip("NVIDIA's run-time compiler is not installed")
    cache = EngineCache(tmp_path)
    codes = {sm: compiled_kernels(sm, cache) for sm in (75, 86, 89, 120)}
    assert all(code.startswith(b"\x7fELF") for code in codes.values())
    assert all(
        name in codes[89]
        for name in (b"normalise_u8", b"normalise_u16", b"restore_u8", b"restore_u16")
    )
    assert len(set(codes.values())) == 4


# -- on a card -----------------------------------------------------------------------------


@pytest.fixture
def engine_on_card() -> Any:
    said = probe()
    if said:
        pytest.skip(said)
    engine = TensorRtEngine(load_bundle(WHOLE), EngineOptions(backend="tensorrt"))
    yield engine
    engine.close()


@pytest.mark.gpu
def test_an_engine_on_a_card_gives_what_the_bundle_says(engine_on_card: TensorRtEngine) -> None:
    bundle = load_bundle(WHOLE)
    assert engine_on_card.description.precision == "f16"
    for shape in ((64, 64), (520, 696), (2048, 2048)):
        engine_on_card.warm_up(shape)
    assert all(check.good for check in check_engine(bundle, engine_on_card))


def test_a_lost_card_is_an_engine_error_of_its_own() -> None:
    assert issubclass(DeviceLostError, EngineError)
