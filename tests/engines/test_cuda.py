"""The torch engine: on a CPU, where it equals OpenVINO's; on a card if there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiling_errors import tiling_error

from benchmarks.gpu import COUNTED_PX, bound_ms, counted
from refocusd.bench.combination import Rates
from refocusd.bench.session import count_work
from refocusd.config import EngineOptions
from refocusd.demo.specimen import Specimen
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.engines.runtimes.torch import TorchEngine, probe
from refocusd.errors import DeviceLostError, EngineError
from refocusd.frame import Pixels
from refocusd.models.bundle import ModelBundle, load_bundle

ROOT = Path(__file__).resolve().parents[2]
F32 = EngineOptions(precision="f32", threads=1)


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return load_bundle("live-nuclei")


@pytest.fixture(scope="module")
def engine(bundle: ModelBundle) -> TorchEngine:
    torch.set_num_threads(1)
    return TorchEngine(bundle, F32, device="cpu")


def frame(height: int, width: int, dtype: type = np.uint16) -> Pixels:
    """Sharp nuclei, repeated to fill the frame."""
    counts = np.resize(Specimen().truth("DAPI"), (height, width))
    return (counts / (1 if dtype is np.uint16 else 16)).clip(0, np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("shape", [(128, 160), (97, 131)])
def test_it_gives_what_openvino_gives(
    engine: TorchEngine, bundle: ModelBundle, shape: tuple[int, int]
) -> None:
    raw = frame(*shape)
    ours, theirs = np.empty_like(raw), np.empty_like(raw)
    ran = engine.refocus(raw, ours)
    other = OpenVinoEngine(bundle, F32)
    assert ran.counts == other.refocus(raw, theirs).counts
    other.close()
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert not np.array_equal(ours, raw)


def test_counts_above_32767_and_8_bits_keep_their_scale(engine: TorchEngine) -> None:
    bright = (frame(64, 64).astype(np.uint32) + 50_000).clip(0, 65535).astype(np.uint16)
    out = np.empty_like(bright)
    engine.refocus(bright, out)
    assert abs(float(out.mean()) - float(bright.mean())) < 500
    small = frame(64, 64, np.uint8)
    out8 = np.empty_like(small)
    engine.refocus(small, out8)
    assert abs(float(out8.mean()) - float(small.mean())) < 5


def test_tiles_equal_the_whole_frame(bundle: ModelBundle, engine: TorchEngine) -> None:
    options = replace_options(tile_px=384, tile_batch=2)
    tiled = TorchEngine(bundle, options, device="cpu")
    raw = frame(400, 500)
    assert len(tiled.tiles((400, 500))) > 1
    error = tiling_error(engine, tiled, raw)
    assert error.p999_counts <= 1


def replace_options(**changes: int) -> EngineOptions:
    return msgspec.structs.replace(F32, **changes)


def test_pixels_that_are_not_finite_are_an_error(bundle: ModelBundle) -> None:
    broken = TorchEngine(bundle, F32, device="cpu")
    with torch.no_grad():
        next(iter(broken._network.parameters())).fill_(float("nan"))
    raw = frame(64, 64)
    with pytest.raises(EngineError, match="not finite"):
        broken.refocus(raw, np.empty_like(raw))


def test_a_bundle_that_does_not_describe_its_network_is_refused(bundle: ModelBundle) -> None:
    with pytest.raises(EngineError, match="does not describe its network"):
        TorchEngine(replace(bundle, network=None), F32, device="cpu")


def test_weights_of_another_network_are_refused(bundle: ModelBundle) -> None:
    assert bundle.network is not None
    other = {**bundle.network, "widths": [8, 16, 24]}
    with pytest.raises(EngineError, match="do not fit the network"):
        TorchEngine(replace(bundle, network=other), F32, device="cpu")


def test_tiles_below_the_receptive_field_are_refused(bundle: ModelBundle) -> None:
    with pytest.raises(EngineError, match="tile_px = 64"):
        TorchEngine(bundle, replace_options(tile_px=64), device="cpu")


def test_a_closed_engine_says_so(bundle: ModelBundle) -> None:
    engine = TorchEngine(bundle, F32, device="cpu")
    engine.close()
    raw = frame(64, 64)
    with pytest.raises(EngineError, match="closed"):
        engine.refocus(raw, np.empty_like(raw))


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch knows CUDA")
def test_a_torch_without_cuda_says_what_installs_one(bundle: ModelBundle) -> None:
    assert "CPU only" in probe()
    with pytest.raises(EngineError, match="pip install torch"):
        TorchEngine(bundle)


def test_a_frame_that_torch_fails_on_is_an_error_and_the_next_one_is_not(
    bundle: ModelBundle,
) -> None:
    engine = TorchEngine(bundle, F32, device="cpu")
    whole, engine._network = engine._network, torch.nn.Conv2d(3, 1, 1)
    raw = frame(64, 64)
    with pytest.raises(EngineError, match="torch failed on 64×64 px of a frame") as raised:
        engine.refocus(raw, np.empty_like(raw))
    assert not isinstance(raised.value, DeviceLostError)
    engine._network = whole
    engine.refocus(raw, np.empty_like(raw))


def test_f32_is_not_tf32(engine: TorchEngine) -> None:
    assert engine.description.precision == "f32"
    assert not torch.backends.cudnn.allow_tf32


def test_the_benchmark_counts_the_work_that_the_onnx_graph_has(bundle: ModelBundle) -> None:
    theirs = count_work(bundle.onnx, (COUNTED_PX, COUNTED_PX), bundle.size_multiple)
    ours = counted(bundle)
    # The graph also contains the defocus head, which torch does not run.
    assert ours.flops <= theirs.flops
    assert ours.flops == pytest.approx(theirs.flops, rel=0.01)
    assert ours.weights == pytest.approx(theirs.weights, rel=0.01)
    # Four times the pixels, and arithmetic is the limit.
    rates = Rates(ours.flops, 1e15, "by hand")
    shape = (2 * COUNTED_PX, 2 * COUNTED_PX)
    assert bound_ms(ours, bundle, shape, "f16", rates) == pytest.approx(4000)


@pytest.mark.slow
@pytest.mark.timeout(600)  # it measures engines in separate processes
def test_the_benchmark_runs_on_a_cpu_and_says_what_it_could_not_measure(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--json", str(file)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["rehearsal"]
    by_torch = [row for row in found["engines"] if row["backend"] == "torch-cpu"]
    models = {"live-nuclei-2", "resnet34-random", load_bundle("live-fluorescence").model_id}
    assert {row["model"] for row in by_torch} == models
    assert all(0 < row["network_p50_ms"] <= row["p99_ms"] for row in by_torch)
    others = [row for row in found["engines"] if row not in by_torch]
    assert others
    assert all(row.get("refused") or row["p50_ms"] > 0 for row in others)


LOST = """
import numpy as np, torch
from refocusd.models.bundle import load_bundle
from refocusd.engines.runtimes.torch import TorchEngine
from refocusd.errors import DeviceLostError
engine = TorchEngine(load_bundle("live-nuclei"))
raw = np.zeros((64, 64), np.uint16)
engine.warm_up(raw.shape)
# An index out of range stops the card for this process.
torch.zeros(1, device="cuda")[torch.tensor([5], device="cuda")]
try:
    engine.refocus(raw, raw.copy())
except DeviceLostError:
    print("lost")
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_card_that_fails_every_call_is_lost() -> None:
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, check=False)
    assert b"lost" in done.stdout, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("shape", [(512, 512), (2048, 2048), (520, 696)])
def test_a_card_gives_what_the_cpu_gives(
    engine: TorchEngine, bundle: ModelBundle, shape: tuple[int, int]
) -> None:
    card = TorchEngine(bundle)
    raw = frame(*shape)
    ours, theirs = np.empty_like(raw), np.empty_like(raw)
    card.warm_up(shape)
    card.refocus(raw, ours)
    engine.refocus(raw, theirs)
    assert np.percentile(np.abs(ours.astype(int) - theirs), 99.9) <= 0.05 * int(np.ptp(theirs))
