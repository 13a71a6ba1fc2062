"""Networks on ONNX Runtime's own kernels, through the code that runs them on a card."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from small_networks import blur_network, small_bundle, write_network

from refocusd.config import EngineOptions
from refocusd.demo.specimen import Specimen
from refocusd.engines.runtimes.half import halved
from refocusd.engines.runtimes.onnxruntime import Graph, OnnxRuntimeNetwork
from refocusd.engines.runtimes.openvino import OpenVinoEngine, OpenVinoScaleNetwork
from refocusd.engines.runtimes.tensorrt import engine_shapes
from refocusd.engines.scaled import ScaledEngine
from refocusd.engines.self_test import check_engine
from refocusd.engines.tiled import TiledEngine
from refocusd.errors import DeviceLostError, EngineError
from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate
from refocusd.models.bundle import ModelBundle, load_bundle

F32, F16 = EngineOptions(precision="f32", threads=1), EngineOptions(precision="f16", threads=1)


class CpuProvider:
    """ONNX Runtime's own kernels on the processor; f16 is computed in f32 and rounded."""

    backend = "onnxruntime"
    device = "CPU"
    precisions: tuple[str, ...] = ("f32", "f16")

    runtime = f"onnxruntime-{onnxruntime.__version__}-cpu"

    def session(self, graph: Graph) -> Any:
        how = onnxruntime.SessionOptions()
        how.intra_op_num_threads = 1
        how.log_severity_level = 4
        # An arena would keep the memory of the largest frame.
        how.enable_cpu_mem_arena = False
        return onnxruntime.InferenceSession(graph.model, how, ["CPUExecutionProvider"])


class Short(CpuProvider):
    """A device with memory for a limited number of pixels at a time."""

    def __init__(self, most_px: int, said: str = "Failed to allocate memory") -> None:
        self.most_px, self.said, self.sessions = most_px, said, 0

    def session(self, graph: Graph) -> Any:
        self.sessions += 1
        return _ShortSession(super().session(graph), self)


class _ShortSession:
    def __init__(self, session: Any, provider: Short) -> None:
        self.get_outputs = session.get_outputs
        self._session, self._provider = session, provider

    def run(self, names: None, given: dict[str, Any]) -> Any:
        (batch,) = given.values()
        if batch[:, 0].size > self._provider.most_px:
            raise RuntimeError(self._provider.said)
        return self._session.run(names, given)


class Relieved(Short):
    """A device that runs out of memory only once: ONNX Runtime may hang the second time."""

    def session(self, graph: Graph) -> Any:
        return _RelievedSession(CpuProvider.session(self, graph), self)


class _RelievedSession(_ShortSession):
    def run(self, names: None, given: dict[str, Any]) -> Any:
        import resource

        try:
            return self._session.run(names, given)
        except Exception:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
            raise


def network(
    bundle: ModelBundle, options: EngineOptions = F32, provider: CpuProvider | None = None
) -> OnnxRuntimeNetwork:
    provider = provider or CpuProvider()
    return OnnxRuntimeNetwork(
        bundle, options, provider, engine_shapes(bundle, options.tile_batch or 1)
    )


def tiled(
    bundle: ModelBundle, options: EngineOptions = F32, provider: CpuProvider | None = None
) -> TiledEngine:
    return TiledEngine(
        bundle, options, network(bundle, options, provider), pixel_bytes=200, memory_mib=2048
    )


@pytest.fixture(scope="module")
def whole() -> ModelBundle:
    return load_bundle("live-nuclei")


@pytest.fixture(scope="module")
def scaled() -> ModelBundle:
    return load_bundle("live-fluorescence")


@pytest.fixture(scope="module")
def blurred() -> Pixels:
    return Specimen().frame("DAPI", 8.0, 10.0, np.random.default_rng(0))


@pytest.fixture(scope="module")
def seen(scaled: ModelBundle) -> Any:
    assert scaled.test is not None
    return np.load(scaled.test[0])[:1]


def refocused(engine: Any, raw: Pixels, *known: BlurEstimate) -> Pixels:
    out = np.empty_like(raw)
    engine.refocus(raw, out, *known)
    return out


def apart(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other).max())


# -- the same frames as from OpenVINO -----------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (65, 97), (512, 512)])
def test_frames_at_full_size_come_back_as_from_openvino(
    whole: ModelBundle, blurred: Pixels, shape: tuple[int, int]
) -> None:
    raw: Any = np.ascontiguousarray(blurred[: shape[0], : shape[1]])
    with closing(tiled(whole)) as engine, closing(OpenVinoEngine(whole, F32)) as other:
        assert apart(refocused(engine, raw), refocused(other, raw)) <= 1


@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_show_no_seams(whole: ModelBundle, blurred: Pixels, batch: int) -> None:
    raw = np.ascontiguousarray(np.tile(blurred, (1, 2))[:500, :700])
    options = EngineOptions(precision="f32", threads=1, tile_px=384, tile_batch=batch)
    with closing(tiled(whole)) as engine, closing(tiled(whole, options)) as cut:
        assert len(cut.tiles(raw.shape)) > 3
        difference = np.abs(refocused(engine, raw).astype(int) - refocused(cut, raw))
        assert np.percentile(difference, 99.9) <= 1


def test_a_network_at_the_scale_of_the_blur_answers_as_by_openvino(
    scaled: ModelBundle, seen: Any
) -> None:
    by_openvino = ScaledEngine(scaled, OpenVinoScaleNetwork(scaled, F32)).answer(seen)
    answer = ScaledEngine(scaled, network(scaled)).answer(seen)
    np.testing.assert_allclose(answer.light, by_openvino.light, atol=2e-3)
    np.testing.assert_allclose(answer.interval, by_openvino.interval, atol=2e-3)
    assert answer.ratio == pytest.approx(by_openvino.ratio, rel=1e-3)
    assert answer.uncertainty == pytest.approx(by_openvino.uncertainty, rel=1e-3)


def test_frames_at_the_scale_of_the_blur_come_back_as_from_openvino(
    scaled: ModelBundle, blurred: Pixels
) -> None:
    engine = ScaledEngine(scaled, network(scaled))
    other = ScaledEngine(scaled, OpenVinoScaleNetwork(scaled, F32))
    scale = float(np.percentile(blurred, 99.9))
    assert apart(refocused(engine, blurred), blurred) > 0.05 * scale
    assert apart(refocused(engine, blurred), refocused(other, blurred)) <= 0.005 * scale


@pytest.mark.parametrize("options", [F32, F16], ids=["f32", "f16"])
@pytest.mark.parametrize("name", ["live-nuclei", "live-fluorescence"])
def test_the_shipped_models_give_what_their_tensors_say(name: str, options: EngineOptions) -> None:
    bundle = load_bundle(name)
    engine: Any
    if bundle.fine_sigma_px is None:
        engine = tiled(bundle, options)
    else:
        engine = ScaledEngine(bundle, network(bundle, options))
    with closing(engine):
        checks = check_engine(bundle, engine)
    assert checks
    assert all(check.good for check in checks), checks


# -- half precision ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["live-nuclei", "live-fluorescence"])
def test_layers_that_mix_channels_are_f16_and_deconvolution_is_not(name: str) -> None:
    bundle = load_bundle(name)
    model = halved(onnx.load(bundle.onnx), bundle.onnx)
    onnx.checker.check_model(model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 15
    uses = Counter(node.input[1] for node in convolutions)
    for weights, count in uses.items():
        half = kinds[weights] == onnx.TensorProto.FLOAT16
        assert half == (shapes[weights][1] > 1 and count == 1)
    # Iterations share their filters.
    assert max(uses.values()) == (61 if name == "live-fluorescence" else 1)
    # Nothing between two of them is converted back and forth.
    assert sum(node.op_type == "Cast" for node in model.graph.node) < 12
    ports = (*model.graph.input, *model.graph.output)
    assert {port.type.tensor_type.elem_type for port in ports} == {onnx.TensorProto.FLOAT}


def mixing_network(path: Path, weight: float) -> Path:
    nodes = [
        helper.make_node("Concat", ["raw", "raw"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "kernel"], ["refocused"]),
    ]
    return write_network(path, nodes, {"kernel": np.full((1, 2, 1, 1), weight)})


def test_weights_beyond_f16_are_refused_with_a_way_out(tmp_path: Path) -> None:
    bundle = small_bundle(mixing_network(tmp_path / "much.onnx", 1e6))
    with pytest.raises(EngineError, match=r"beyond f16.*set precision to f32"):
        tiled(bundle, F16)


def test_f16_is_rounded_and_f32_is_not(tmp_path: Path) -> None:
    bundle = small_bundle(mixing_network(tmp_path / "third.onnx", 1 / 3))
    batch = np.full((1, 1, 8, 8), 1.0, np.float32)
    exact, rounded = (network(bundle, options).run(batch)[0][0, 0, 0, 0] for options in (F32, F16))
    assert exact == pytest.approx(2 / 3, abs=1e-6)
    assert 1e-6 < abs(rounded - 2 / 3) < 1e-3


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_that_it_lacks_is_refused_by_name(whole: ModelBundle, precision: Any) -> None:
    with pytest.raises(EngineError, match=f"f32 or f16, not {precision}; set precision to auto"):
        network(whole, EngineOptions(precision=precision))


# -- other people's networks ---------------------------------------------------------------------


def test_the_output_named_refocused_is_the_frame(tmp_path: Path, blurred: Pixels) -> None:
    shape = ("batch", 1, "height", "width")
    nodes = [
        helper.make_node("Neg", ["raw"], ["defocus"]),
        helper.make_node("Identity", ["raw"], ["refocused"]),
    ]
    path = write_network(
        tmp_path / "two.onnx", nodes, outputs={"defocus": shape, "refocused": shape}
    )
    with closing(tiled(small_bundle(path))) as engine:
        np.testing.assert_array_equal(refocused(engine, blurred), blurred)


def test_a_network_for_one_size_is_taken_at_any(tmp_path: Path, blurred: Pixels) -> None:
    path = write_network(
        tmp_path / "any.onnx", [helper.make_node("Identity", ["raw"], ["refocused"])]
    )
    model = onnx.load(path)
    for port in (model.graph.input[0], model.graph.output[0]):
        for axis, length in zip(port.type.tensor_type.shape.dim, (1, 1, 64, 64), strict=True):
            axis.dim_value = length
    onnx.save(model, path)
    with closing(tiled(small_bundle(path))) as engine:
        np.testing.assert_array_equal(refocused(engine, blurred), blurred)


def test_a_file_that_is_no_network_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no network at all")
    with pytest.raises(EngineError, match="is not an ONNX file"):
        network(small_bundle(tmp_path / "no.onnx"))


def test_a_network_of_two_inputs_is_refused(tmp_path: Path) -> None:
    path = write_network(
        tmp_path / "two.onnx", [helper.make_node("Add", ["raw", "raw"], ["refocused"])]
    )
    model = onnx.load(path)
    model.graph.input.append(
        helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1, 1, 8, 8])
    )
    onnx.save(model, path)
    with pytest.raises(EngineError, match="takes 2 inputs"):
        network(small_bundle(path))


def test_a_network_without_an_interval_is_none_at_the_scale_of_the_blur(
    scaled: ModelBundle, whole: ModelBundle
) -> None:
    with pytest.raises(EngineError, match="no output blur, interval"):
        ScaledEngine(scaled, network(whole))


# -- what can go wrong on a card -----------------------------------------------------------


def test_where_memory_runs_out_smaller_tiles_give_the_same_frame(
    tmp_path: Path, blurred: Pixels, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = small_bundle(blur_network(tmp_path / "blur.onnx", 4))
    short = Short(200 * 200)
    with closing(tiled(bundle)) as engine, closing(tiled(bundle, provider=short)) as small:
        assert apart(refocused(engine, blurred), refocused(small, blurred)) == 0
        assert "trying again with less" in caplog.text
        made = short.sessions
        assert made > 1
        refocused(small, blurred)
        assert short.sessions == made


def test_where_no_tile_fits_one_clear_error_says_so(whole: ModelBundle, blurred: Pixels) -> None:
    with (
        closing(tiled(whole, provider=Short(100))) as engine,
        pytest.raises(EngineError, match=r"memory ran out for model live-nuclei-2.*close other"),
    ):
        refocused(engine, blurred)


def test_memory_that_runs_out_at_the_scale_of_the_blur_costs_tiles(scaled: ModelBundle) -> None:
    raw = Specimen().frame("DAPI", 8.0, 10.0, np.random.default_rng(0))
    raw = np.ascontiguousarray(np.tile(raw, (2, 2))[:900, :1000])
    known = BlurEstimate(2.5, 0.1, "optics")
    plain = ScaledEngine(scaled, network(scaled))
    short = ScaledEngine(scaled, network(scaled, provider=Short(600 * 600)))
    difference = np.abs(refocused(plain, raw, known).astype(int) - refocused(short, raw, known))
    assert np.percentile(difference, 99.9) <= 0.01 * np.percentile(raw, 99.9)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA failure 700: an illegal memory access was encountered",
        "CUDA error 719: unspecified launch failure",
        "uncorrectable ECC error encountered",
    ],
)
def test_a_lost_card_ends_the_worker(whole: ModelBundle, blurred: Pixels, said: str) -> None:
    with (
        closing(tiled(whole, provider=Short(100, said))) as engine,
        pytest.raises(DeviceLostError, match="check the card's driver"),
    ):
        refocused(engine, blurred)


def test_other_failures_name_the_frame(whole: ModelBundle, blurred: Pixels) -> None:
    with (
        closing(tiled(whole, provider=Short(100, "no idea"))) as engine,
        pytest.raises(EngineError, match="failed on 512×512 px of a frame: no idea"),
    ):
        refocused(engine, blurred)


SHORT = """
import resource, sys
from pathlib import Path
import numpy as np
from test_onnxruntime import Relieved, tiled
from refocusd.models.bundle import load_bundle

raw = np.random.default_rng(0).integers(100, 4000, (1000, 1000), dtype=np.uint16)
engine = tiled(load_bundle("live-nuclei"), provider=Relieved(0))
engine.refocus(raw[:64, :64].copy(), raw[:64, :64].copy())
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (70 << 20), -1))
engine.refocus(raw, np.empty_like(raw))
print(len(engine.tiles(raw.shape)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="takes memory away by resource limits")
def test_onnx_runtime_says_that_memory_ran_out_as_expected_here() -> None:
    """The words by which exhausted memory is recognised are the real ones."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT],
        check=False, capture_output=True, text=True, timeout=100,
        cwd=Path(__file__).parent, env=dict(_with_support()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1


def _with_support() -> Iterator[tuple[str, str]]:
    import os

    support = str(Path(__file__).parent.parent / "support")
    yield from os.environ.items()
    yield "PYTHONPATH", os.pathsep.join([support, *filter(None, sys.path)])
