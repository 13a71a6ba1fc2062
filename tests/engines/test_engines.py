"""Bundles are checked before they are used, and engines keep the counts scale."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ability import cpu_engine
from onnx import helper
from small_networks import FRAME, write_network

from refocusd.config import Backend, EngineOptions
from refocusd.demo.specimen import Specimen
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import Engine
from refocusd.engines.runtimes.openvino import OpenVinoEngine, engine_threads, openvino_precision
from refocusd.engines.verdict import flux_ratio
from refocusd.errors import BundleError, EngineError
from refocusd.frame import Pixels
from refocusd.imaging.normalise import MIN_SCALE, CountsRange, counts_range
from refocusd.imaging.quality import psnr
from refocusd.models.bundle import ModelBundle, load_bundle
from refocusd.models.library import shipped_bundles
from refocusd.worker.refocus import refocus_frame

MODEL = "live-nuclei"


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return load_bundle(MODEL)


@pytest.fixture(scope="module")
def network(bundle: ModelBundle) -> Iterator[Engine]:
    engine = OpenVinoEngine(bundle, EngineOptions(precision="f32"))
    yield engine
    engine.close()


@pytest.fixture(scope="module", params=["openvino", "deconvolution"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Every kind of engine that runs on a CPU."""
    built = build_engine(MODEL, EngineOptions(backend=request.param, precision="f32"))
    yield built
    built.close()


@pytest.fixture(scope="module")
def blurred() -> Pixels:
    """A frame of the demo's specimen, 8 um out of focus."""
    return Specimen().frame("DAPI", 8.0, 10.0, np.random.default_rng(0))


def refocused(engine: Engine, raw: Pixels) -> Pixels:
    out = np.empty_like(raw)
    engine.refocus(raw, out)
    return out


# -- bundles -----------------------------------------------------------------------------


def test_every_shipped_bundle_is_whole_and_small() -> None:
    assert MODEL in shipped_bundles()
    for name in shipped_bundles():
        folder = load_bundle(name).folder
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 14 << 20


@pytest.fixture
def copy(bundle: ModelBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


def test_a_copy_anywhere_is_the_same_model(copy: Path, bundle: ModelBundle) -> None:
    assert load_bundle(copy).sha256 == bundle.sha256


def test_one_changed_bit_is_found(copy: Path) -> None:
    data = bytearray((copy / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.onnx is not the file.*sha256"):
        load_bundle(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match=r"incomplete: weights\.safetensors"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("schema: 1", "schema: 99", "schema 99"),
        ("refocusd:\n", "another:\n", "config.refocusd"),
        ("size_multiple: 32", "size_multiple: -1", "size_multiple"),
        ("model.onnx: ", "../model.onnx: ", "bare file name|does not list model.onnx"),
        ("low_percentile: 1.0", "low_percentile: 99.95", "below"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    copy: Path, old: str, new: str, word: str
) -> None:
    rdf = copy / "rdf.yaml"
    text = rdf.read_text(encoding="utf-8")
    head, mark, tail = text.rpartition("\nconfig:")
    assert old in tail
    rdf.write_text(head + mark + tail.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BundleError, match=word):
        load_bundle(copy)


@pytest.mark.parametrize("text", ["", "[", "a: !!python/object/apply:os.system ['true']", "3"])
def test_what_is_no_description_is_refused_and_never_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "rdf.yaml").write_text(text)
    with pytest.raises(BundleError):
        load_bundle(tmp_path)


def test_a_missing_bundle_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=MODEL):
        load_bundle(tmp_path / "absent")


# -- engines -----------------------------------------------------------------------------


def test_an_engine_makes_a_blurred_frame_sharper(engine: Engine, blurred: Pixels) -> None:
    from refocusd.imaging.quality import psnr

    truth = Specimen().truth("DAPI")
    assert psnr(refocused(engine, blurred), truth) > psnr(blurred, truth) + 1.0


def test_raw_is_left_as_it_was_and_type_and_shape_are_kept(engine: Engine, blurred: Pixels) -> None:
    before = blurred.copy()
    out = refocused(engine, blurred)
    np.testing.assert_array_equal(blurred, before)
    assert (out.dtype, out.shape) == (blurred.dtype, blurred.shape)


def test_background_and_flux_stay(engine: Engine, blurred: Pixels) -> None:
    out = refocused(engine, blurred)
    offset = counts_range(blurred).offset
    assert flux_ratio(blurred, out, offset) == pytest.approx(1.0, abs=0.05)
    assert np.percentile(out, 5) == pytest.approx(np.percentile(blurred, 5), abs=15)


def test_a_gain_and_an_offset_of_the_camera_carry_through(engine: Engine, blurred: Pixels) -> None:
    """Twice the counts plus 1000 give twice the refocused counts plus 1000."""
    out = refocused(engine, blurred).astype(int)
    louder = refocused(engine, (blurred * 2 + 1000).astype(np.uint16)).astype(int)
    assert np.abs(louder - (out * 2 + 1000)).max() <= 3


def test_hot_pixels_come_out_as_no_spots(engine: Engine, blurred: Pixels) -> None:
    rng = np.random.default_rng(1)
    places = tuple(rng.integers(20, min(blurred.shape) - 20, (2, 80)))
    spoilt = blurred.copy()
    spoilt[places] = 4000
    given = spoilt.copy()
    out, expected = refocused(engine, spoilt), refocused(engine, blurred)
    np.testing.assert_array_equal(spoilt, given)
    assert psnr(out, expected.astype(np.float32)) > 30


@pytest.mark.parametrize("shape", [(64, 64), (65, 97), (100, 333), (520, 696), (31, 17)])
def test_any_size_is_taken(engine: Engine, blurred: Pixels, shape: tuple[int, int]) -> None:
    tiled = np.tile(blurred, (2, 2))[: shape[0], : shape[1]]
    assert refocused(engine, np.ascontiguousarray(tiled)).shape == shape


def test_eight_bit_frames_are_taken(engine: Engine, blurred: Pixels) -> None:
    eight = (blurred / blurred.max() * 255).astype(np.uint8)
    assert refocused(engine, eight).dtype == np.uint8


@pytest.mark.parametrize("value", [0, 100, 65535])
def test_a_constant_frame_stays_constant(engine: Engine, value: int) -> None:
    flat = np.full((128, 128), value, np.uint16)
    assert np.abs(refocused(engine, flat).astype(int) - value).max() <= 2


def test_an_empty_field_stays_empty(engine: Engine) -> None:
    """Noise alone must not become structure."""
    noise = np.random.default_rng(0).normal(100, 4, (256, 256)).round().astype(np.uint16)
    out = refocused(engine, noise)
    assert out.std() <= noise.std()
    assert out.max() <= noise.max() + 4


def test_bf16_is_as_good_as_f32_where_the_processor_has_it(
    bundle: ModelBundle, network: Engine, blurred: Pixels
) -> None:
    from refocusd.imaging.quality import psnr

    half = cpu_engine(bundle, "bf16")
    truth = Specimen().truth("DAPI")
    loss = psnr(refocused(network, blurred), truth) - psnr(refocused(half, blurred), truth)
    half.close()
    assert loss <= 0.05


class Processor:
    """A processor that supports these types."""

    def __init__(self, *types: str) -> None:
        self._types = types

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return list(self._types)


@pytest.mark.parametrize(
    ("types", "with_int8", "chosen", "hint"),
    [
        (("FP32", "INT8", "BF16"), True, "bf16", "bf16"),
        (("FP32", "BF16"), False, "bf16", "bf16"),
        (("FP32", "INT8"), True, "int8", "f32"),
        (("FP32", "INT8"), False, "f32", "f32"),
        (("FP32",), True, "f32", "f32"),
    ],
)
def test_auto_takes_what_the_processor_has(
    bundle: ModelBundle, types: tuple[str, ...], with_int8: bool, chosen: str, hint: str
) -> None:
    variants = {"int8": bundle.onnx} if with_int8 else {}
    found = openvino_precision(Processor(*types), replace(bundle, variants=variants), "auto")
    assert found == (chosen, hint)


@pytest.mark.parametrize("wanted", ["bf16", "int8"])
def test_a_precision_that_the_processor_lacks_is_refused_by_name(
    bundle: ModelBundle, wanted: str
) -> None:
    with pytest.raises(EngineError, match=f"does not compute in {wanted}"):
        openvino_precision(Processor("FP32"), bundle, wanted)


def engine_of(bundle: ModelBundle, network: Path) -> OpenVinoEngine:
    """An engine with another network in place of the bundle's."""
    return OpenVinoEngine(replace(bundle, onnx=network), EngineOptions(precision="f32"))


def test_the_output_named_refocused_is_taken_and_others_do_no_harm(
    bundle: ModelBundle, blurred: Pixels, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["raw"], ["defocus"]),
        helper.make_node("Identity", ["raw"], ["refocused"]),
    ]
    outputs = {"defocus": ("batch", 1, 1, 1), "refocused": FRAME}
    network = write_network(tmp_path / "two.onnx", nodes, outputs=outputs)
    with closing(engine_of(bundle, network)) as two:
        np.testing.assert_array_equal(refocused(two, blurred), blurred)


@pytest.mark.parametrize("operator", ["Log", "Sqrt"])
def test_pixels_that_are_not_finite_are_one_error_and_the_next_frame_is_taken(
    bundle: ModelBundle, blurred: Pixels, tmp_path: Path, operator: str
) -> None:
    nodes = [helper.make_node(operator, ["raw"], ["refocused"])]
    network = write_network(tmp_path / "nan.onnx", nodes)
    ramp = np.linspace(100, 4000, 128 * 128).astype(np.uint16).reshape(128, 128)
    with closing(engine_of(bundle, network)) as broken:
        with pytest.raises(EngineError, match=r"live-nuclei-2.*not finite"):
            refocused(broken, ramp)
        # At and above the offset the answers are finite, so only the frame failed.
        if operator == "Sqrt":
            assert refocused(broken, np.full((64, 64), 7, np.uint16)).mean() == 7


def test_a_network_that_returns_another_size_is_refused(
    bundle: ModelBundle, blurred: Pixels, tmp_path: Path
) -> None:
    nodes = [helper.make_node("AveragePool", ["raw"], ["refocused"], kernel_shape=[2, 2])]
    network = write_network(tmp_path / "half.onnx", nodes)
    with (
        closing(engine_of(bundle, network)) as half,
        pytest.raises(EngineError, match="not a refocusing network"),
    ):
        refocused(half, blurred)


def test_a_network_for_one_size_only_is_refused_or_taken_at_any(
    bundle: ModelBundle, blurred: Pixels, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(
        write_network(tmp_path / "any.onnx", [helper.make_node("Identity", ["raw"], ["refocused"])])
    )
    for value in (model.graph.input[0], model.graph.output[0]):
        for axis, length in zip(value.type.tensor_type.shape.dim, (1, 1, 64, 64), strict=True):
            axis.dim_value = length
    onnx.save(model, tmp_path / "fixed.onnx")
    with closing(engine_of(bundle, tmp_path / "fixed.onnx")) as fixed:
        np.testing.assert_array_equal(refocused(fixed, blurred), blurred)
    nodes = [helper.make_node("Reshape", ["raw", "to"], ["refocused"])]
    network = write_network(tmp_path / "one.onnx", nodes, integers={"to": [1, 1, 64, 64]})
    with pytest.raises(EngineError, match=r"does not take frames of|not a refocusing network"):
        refocused(engine_of(bundle, network), blurred)


@pytest.mark.parametrize(
    "raw",
    [
        np.zeros((64, 64), np.int16),
        np.zeros((64, 64), np.float32),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((0, 64), np.uint16),
    ],
    ids=["int16", "float32", "RGB", "empty"],
)
def test_what_is_no_frame_is_refused(engine: Engine, raw: Any) -> None:
    with pytest.raises(EngineError, match="2-D frames of uint8 or uint16"):
        engine.refocus(raw, np.empty_like(raw))


def test_an_output_that_does_not_fit_is_refused(engine: Engine, blurred: Pixels) -> None:
    for out in (np.empty((64, 64), np.uint16), np.empty(blurred.shape, np.uint8)):
        with pytest.raises(EngineError, match="same shape and type"):
            engine.refocus(blurred, out)


@pytest.mark.parametrize("backend", ["openvino", "deconvolution"])
def test_a_closed_engine_says_so(backend: Backend, blurred: Pixels) -> None:
    engine = build_engine(MODEL, EngineOptions(backend=backend, precision="f32"))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        refocused(engine, blurred)


def test_int8_needs_a_network_made_for_it(bundle: ModelBundle) -> None:
    with pytest.raises(EngineError, match=r"int8"):
        OpenVinoEngine(replace(bundle, variants={}), EngineOptions(precision="int8"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads threads from /proc")
def test_its_threads_come_after_the_acquisition() -> None:
    """They inherit the priority of the worker that builds the engine."""
    script = """
import os
from pathlib import Path
import numpy as np
from refocusd.config import EngineOptions
from refocusd.models.bundle import load_bundle
from refocusd.engines.runtimes.openvino import OpenVinoEngine, engine_threads
from refocusd.processes.priority import yield_to_acquisition

before = {task.name for task in Path("/proc/self/task").iterdir()}
start = os.getpriority(os.PRIO_PROCESS, 0)
yield_to_acquisition(3)
OpenVinoEngine(load_bundle("live-nuclei"), EngineOptions(threads=2)).warm_up((256, 256))
new = {int(task.name) for task in Path("/proc/self/task").iterdir()} - {int(b) for b in before}
assert new, "no threads were started"
print({os.getpriority(os.PRIO_PROCESS, task) - start for task in new})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=50
    )
    assert done.stdout.strip() == "{3}"


def test_threads_leave_the_acquisition_its_core() -> None:
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    assert engine_threads() == (usable if usable <= 2 else usable - 1)
    assert engine_threads(7) == 7


def test_the_key_tells_model_runtime_and_precision(network: Engine, bundle: ModelBundle) -> None:
    about = network.description
    assert about.model_sha256 == bundle.sha256
    assert about.key.startswith(bundle.sha256[:16])
    assert about.key.endswith("f32")


def test_the_identity_changes_nothing(blurred: Pixels) -> None:
    engine = build_engine("", EngineOptions(backend="identity"))
    out = np.empty_like(blurred)
    facts = refocus_frame(engine, blurred, out)
    np.testing.assert_array_equal(out, blurred)
    assert facts.verdict == "passed_through"


# -- normalisation -----------------------------------------------------------------------


def test_the_range_is_that_of_the_percentiles() -> None:
    pixels = np.arange(1000, dtype=np.uint16).repeat(16).reshape(100, 160)
    found = counts_range(pixels, 1.0, 99.9)
    assert found.offset == pytest.approx(10, abs=1)
    assert found.scale == pytest.approx(989, abs=2)


def test_a_large_frame_is_sampled_to_the_same_range() -> None:
    pixels = np.random.default_rng(0).poisson(500, (2048, 2048)).astype(np.uint16)
    exact = np.percentile(pixels, [1.0, 99.9])
    found = counts_range(pixels)
    assert found.offset == pytest.approx(exact[0], abs=1.5)
    assert found.offset + found.scale == pytest.approx(exact[1], abs=1.5)


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_flat_frame_is_not_stretched(value: int) -> None:
    assert counts_range(np.full((32, 32), value, np.uint16)).scale == MIN_SCALE


def test_counts_survive_the_way_there_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (100, 90)).astype(np.uint16)
    counts = CountsRange(offset=113.0, scale=4097.0)
    into, out = np.empty(pixels.shape, np.float32), np.empty_like(pixels)
    assert counts.restore(counts.normalise(pixels, into), out) == 0
    np.testing.assert_array_equal(out, pixels)


def test_what_lies_beyond_the_counts_scale_is_cut_and_counted() -> None:
    values = np.array([[-1.0, 0.0, 0.5, 255.0, 256.0, 1e9]], np.float32)
    out = np.empty(values.shape, np.uint8)
    assert CountsRange(0.0, 1.0).restore(values, out) == 3
    np.testing.assert_array_equal(out, [[0, 0, 0, 255, 255, 255]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found(value: float) -> None:
    values = np.zeros((50, 50), np.float32)
    values[49, 3] = value
    with pytest.raises(EngineError, match="not finite"):
        CountsRange(0.0, 1.0).restore(values, np.empty((50, 50), np.uint16))
