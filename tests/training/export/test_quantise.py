"""An int8 network is made if it loses no quality, and not otherwise."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from refocusd_training.data.samples import Batch
from refocusd_training.export.int8 import (
    INT8_FILE,
    Quantised,
    add_int8,
    calibration,
    quantise_onnx,
)
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.ranges import HELD_OUT
from refocusd_training.simulate.scene import Scene, simulate_frame
from small_networks import write_network

from refocusd.config import EngineOptions
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.errors import EngineError, InputError
from refocusd.imaging.quality import psnr
from refocusd.models.bundle import ModelBundle, load_bundle

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MAXIMUM_DB = 0.05


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return load_bundle("live-nuclei")


@pytest.fixture(scope="module")
def batches(flux: NDArray[np.float32]) -> list[Batch]:
    return calibration([flux], size=128)[:3]


def network_units(scenes: Sequence[Scene]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    raw = [scene.range.normalise(scene.raw) for scene in scenes]
    truth = [(s.truth - np.float32(s.range.offset)) / np.float32(s.range.scale) for s in scenes]
    return np.stack(raw)[:, None], np.stack(truth)[:, None].astype(np.float32)


@pytest.fixture(scope="module")
def judged(flux: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    part = flux[100:356, 100:356]
    return network_units(
        [simulate_frame(part, HELD_OUT[4], Defocus(um), rng) for um in (0.0, 8.0, 16.0, 32.0)]
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual network of four convolutions with random weights; 16 channels."""
    rng = np.random.default_rng(0)
    widths = [1, 16, 16, 16, 1]
    nodes, constants, seen = [], {}, "raw"
    for index, (wide, out) in enumerate(itertools.pairwise(widths)):
        constants[f"w{index}"] = rng.normal(0, 0.6 / np.sqrt(9 * wide), (out, wide, 3, 3))
        nodes.append(
            helper.make_node(
                "Conv", [seen, f"w{index}"], [f"c{index}"], name=f"conv{index}", pads=[1, 1, 1, 1]
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"relu{index}"))
        seen = f"r{index}"
    nodes[-1] = helper.make_node("Add", ["raw", "c3"], ["refocused"], name="sum")
    return write_network(tmp_path_factory.mktemp("small") / "model.onnx", nodes, constants)


def float_and_int8_convolutions(path: Path) -> tuple[set[str], set[str]]:
    graph = onnx.load(path).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    in_int8 = {node.name for node in convolutions if made.get(node.input[0]) == "DequantizeLinear"}
    return {node.name for node in convolutions} - in_int8, in_int8


def test_convolutions_are_quantised_but_those_at_the_ends(
    small: Path, batches: list[Batch], judged: Any, tmp_path: Path
) -> None:
    output = tmp_path / "int8.onnx"
    # Random weights make no picture, so the loss of quality does not matter here.
    found = quantise_onnx(small, output, batches, *judged, max_cost_db=3.0)
    assert (found.quantised, found.convolutions) == (2, 4)
    assert float_and_int8_convolutions(output) == ({"conv0", "conv3"}, {"conv1", "conv2"})
    graph = onnx.load(output).graph
    made = {name: node for node in graph.node for name in node.output}
    # The frame itself is not quantised to 8 bits.
    assert made[graph.output[0].name].input[0] == "raw"


def test_it_runs_at_any_size_near_the_float_one_and_auto_takes_it_or_bf16(
    small: Path, bundle: ModelBundle, batches: list[Batch], judged: Any, tmp_path: Path
) -> None:
    output = tmp_path / "int8.onnx"
    quantise_onnx(small, output, batches, *judged, max_cost_db=3.0)
    both = dataclasses.replace(bundle, onnx=small, variants={"int8": output})
    rng = np.random.default_rng(0)
    with (
        closing(OpenVinoEngine(both, EngineOptions(precision="f32"))) as exact,
        closing(OpenVinoEngine(both)) as automatic,
        closing(OpenVinoEngine(both, EngineOptions(precision="int8"))) as eight_bits,
    ):
        # On processors with bf16, int8 is not worth its loss.
        assert automatic.description.precision in ("int8", "bf16")
        for shape in ((64, 64), (101, 333)):
            raw = rng.poisson(500, shape).astype(np.uint16)
            expected, out = np.empty_like(raw), np.empty_like(raw)
            exact.refocus(raw, expected)
            eight_bits.refocus(raw, out)
            difference = np.abs(out.astype(float) - expected)
            assert 0 < difference.mean() < 0.02 * np.ptp(expected)


def test_one_that_costs_too_much_is_not_kept(
    small: Path, batches: list[Batch], judged: Any, tmp_path: Path
) -> None:
    raw, _ = judged
    import openvino

    # Judged by the float network's own answers, nothing else can be as good as it.
    compiled = openvino.Core().compile_model(str(small), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = next(iter(compiled([raw]).values()))
    output = tmp_path / "int8.onnx"
    with pytest.raises(EngineError, match=r"int8 costs .* dB.*export it without int8"):
        quantise_onnx(small, output, batches, raw, answers, max_cost_db=0.5)
    assert list(tmp_path.iterdir()) == []


def test_truths_that_do_not_fit_are_refused(
    small: Path, batches: list[Batch], judged: Any, tmp_path: Path
) -> None:
    raw, truth = judged
    with pytest.raises(InputError, match="do not fit"):
        quantise_onnx(small, tmp_path / "int8.onnx", batches, raw, truth[:2])


def test_frames_that_show_nothing_are_refused(small: Path, judged: Any, tmp_path: Path) -> None:
    empty = np.zeros((2, 1, 64, 64), np.float32)
    fields: dict[str, Any] = {f.name: np.zeros(2, np.float32) for f in dataclasses.fields(Batch)}
    batch = Batch(**{**fields, "raw": empty, "truth": empty})
    with pytest.raises(InputError, match="are empty"):
        quantise_onnx(small, tmp_path / "int8.onnx", [batch], *judged)


def test_a_bundle_in_the_making_gains_an_int8_network_that_costs_next_to_nothing(
    small: Path, batches: list[Batch], judged: Any, tmp_path: Path
) -> None:
    raw, truth = judged
    network = onnx.load(small)
    # A network that changes frames only a little, as trained ones do.
    for tensor in network.graph.initializer:
        if tensor.name == "w3":
            faint = 0.01 * numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(faint, "w3"))
    onnx.save(network, tmp_path / "model.onnx")
    np.save(tmp_path / "validation_raw.npy", raw)
    found = add_int8(tmp_path, batches, truth)
    assert isinstance(found, Quantised)
    assert found.cost_db <= MAXIMUM_DB
    assert found.quantised >= 1
    quantised = (tmp_path / INT8_FILE).read_bytes()
    for trace in (b"site-packages", b"/home/", str(tmp_path).encode()):
        assert trace not in quantised


def test_the_shipped_network_loses_next_to_nothing_in_8_bits(
    bundle: ModelBundle, judged: Any
) -> None:
    int8 = bundle.variants["int8"]
    kept_in_float, in_int8 = float_and_int8_convolutions(int8)
    assert len(in_int8) >= (len(kept_in_float) + len(in_int8)) // 3
    assert int8.stat().st_size < 0.5 * bundle.onnx.stat().st_size
    costs = []
    with (
        closing(OpenVinoEngine(bundle, EngineOptions(precision="f32"))) as exact,
        closing(OpenVinoEngine(bundle, EngineOptions(precision="int8"))) as rounded,
    ):
        for frame, truth in zip(*judged, strict=True):
            answers = (engine.infer(frame[0]) for engine in (exact, rounded))
            better, other = (psnr(answer, truth[0]) for answer in answers)
            costs.append(better - other)
    assert np.mean(costs) <= MAXIMUM_DB, costs
