"""The shipped bundle is complete, as good as it states, and free of visible artefacts."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import tifffile
import yaml
from ability import cpu_engine
from numpy.typing import NDArray
from refocusd_training.data.split import load_split, split_digest
from refocusd_training.evaluation.cases import held_out_cases, scene_of
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.ranges import HELD_OUT
from refocusd_training.simulate.scene import Scene, simulate_frame
from safetensors.numpy import load_file

from refocusd.config import EngineOptions
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.frame import Pixels
from refocusd.imaging.quality import psnr
from refocusd.models.bundle import ModelBundle, load_bundle

NAME = "live-nuclei"


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return load_bundle(NAME)


@pytest.fixture(scope="module")
def rdf(bundle: ModelBundle) -> dict[str, Any]:
    text = (bundle.folder / "rdf.yaml").read_text(encoding="utf-8")
    described: dict[str, Any] = yaml.safe_load(text)
    return described


@pytest.fixture(scope="module")
def engine(bundle: ModelBundle) -> OpenVinoEngine:
    return OpenVinoEngine(bundle, EngineOptions(precision="f32"))


def refocused(engine: OpenVinoEngine, raw: Pixels) -> Pixels:
    out = np.empty_like(raw)
    engine.refocus(raw, out)
    return out


def gain_db(engine: OpenVinoEngine, scene: Scene) -> float:
    return psnr(refocused(engine, scene.raw), scene.truth) - psnr(scene.raw, scene.truth)


def test_every_file_is_summed_and_the_whole_is_small(
    bundle: ModelBundle, rdf: dict[str, Any]
) -> None:
    sums = rdf["config"]["refocusd"]["files"]
    present = {path.name for path in bundle.folder.iterdir()}
    assert present == {*sums, "rdf.yaml"}
    for name, expected in sums.items():
        assert hashlib.sha256((bundle.folder / name).read_bytes()).hexdigest() == expected
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) <= 15e6


def test_the_description_names_its_training(rdf: dict[str, Any]) -> None:
    ours = rdf["config"]["refocusd"]
    training = ours["training"]
    assert ours["network"]["name"] == "live"
    assert set(ours["tolerance"]) == {"f32", "f16", "bf16", "int8"}
    card = load_bundle(NAME).card
    assert training["limits"]
    assert all(limit in card for limit in training["limits"])
    assert "nucleus-like blobs that are not there" in card
    assert training["split_sha256"] == split_digest()
    assert training["images"] == sum(entry.side == "train" for entry in load_split())
    assert training["steps"] == training["planned_steps"]
    metrics = rdf["config"]["refocusd"]["metrics"]
    assert set(metrics["by_defocus_um"]) == {"0", "4", "8", "16", "32"}
    assert f"{metrics['defocus']['mae_um']:.1f} µm off on average" in card


def test_nothing_of_the_machine_it_was_made_on_is_inside(bundle: ModelBundle) -> None:
    for path in bundle.folder.iterdir():
        content = path.read_bytes()
        for trace in (b"site-packages", b"/home/", tempfile.gettempdir().encode() + b"/"):
            assert trace not in content, f"{path.name} holds {trace!r}"


def test_onnx_and_safetensors_hold_the_same_weights(bundle: ModelBundle) -> None:
    import onnx
    from onnx.numpy_helper import to_array

    weights = load_file(bundle.folder / "weights.safetensors")
    graph = onnx.load(bundle.onnx).graph
    stored = {
        tensor.name.removeprefix("network."): to_array(tensor) for tensor in graph.initializer
    }
    for name, value in weights.items():
        np.testing.assert_array_equal(stored[name], value)


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8", "auto"])
def test_engines_reproduce_the_validation_tensors(
    bundle: ModelBundle, rdf: dict[str, Any], precision: Any
) -> None:
    chosen = cpu_engine(bundle, precision)
    raws = np.load(bundle.folder / "validation_raw.npy")
    expected = np.load(bundle.folder / "validation_refocused.npy")
    tolerance = rdf["config"]["refocusd"]["tolerance"][chosen.description.precision]
    for raw, wanted in zip(raws, expected, strict=True):
        np.testing.assert_allclose(chosen.infer(raw[0]), wanted[0], atol=tolerance)


@pytest.mark.parametrize("setting", HELD_OUT[::2], ids=lambda setting: setting.name)
def test_microscopes_it_never_saw_are_refocused(
    engine: OpenVinoEngine, flux: NDArray[np.float32], setting: Any
) -> None:
    rng = np.random.default_rng(11)
    # In focus, single frames need not gain, because clean ones cannot (see the model card).
    floors = {8.0: 0.5, 16.0: 1.0, 32.0: 0.0}
    for level, floor in floors.items():
        scene = simulate_frame(flux[:384, :384], setting, Defocus(level), rng)
        assert gain_db(engine, scene) >= floor, f"{setting.name} at {level} um"


def test_specimens_and_microscopes_it_never_saw_gain_what_is_promised(
    engine: OpenVinoEngine, test_data: Path
) -> None:
    cases = held_out_cases(test_data, limit=7)
    floors = {0.0: -0.1, 8.0: 1.0, 16.0: 1.0, 32.0: 0.0}
    for level, floor in floors.items():
        scenes = [scene_of(case, level) for case in cases]
        after = [refocused(engine, scene.raw) for scene in scenes]
        gains, fitted = (
            [
                psnr(out, scene.truth, affine=affine) - psnr(scene.raw, scene.truth, affine=affine)
                for scene, out in zip(scenes, after, strict=True)
            ]
            for affine in (False, True)
        )
        assert np.mean(gains) >= floor, f"at {level} um: {gains}"
        assert np.mean(fitted) >= floor, f"after the affine fit, at {level} um: {fitted}"


def peak_over_neighbours_db(difference: NDArray[np.float64], fy: float, fx: float) -> float:
    """Power at one frequency, in cycles per pixel, over the median around it."""
    height, width = (side // 16 * 16 for side in difference.shape)
    part = difference[:height, :width] - difference.mean()
    power = np.abs(np.fft.fft2(part * np.outer(np.hanning(height), np.hanning(width)))) ** 2
    centre = round(fy * height), round(fx * width)
    rolled = np.roll(power, (10 - centre[0], 10 - centre[1]), axis=(0, 1))[:21, :21]
    peak = rolled[9:12, 9:12].max()
    rolled[8:13, 8:13] = np.nan
    return float(10 * np.log10(peak / np.nanmedian(rolled)))


def grid_share(frame: NDArray[np.float64], period: int, axis: int) -> float:
    """Amplitude of a pattern that repeats over the whole frame, relative to the frame's range."""
    rough = frame - scipy.ndimage.gaussian_filter1d(frame, 0.7 * period, axis=axis)
    profile = rough.mean(axis=1 - axis)[32:-32]
    profile = profile[: len(profile) // 16 * 16].reshape(-1, 16).mean(axis=0)
    amplitude = 2 * np.abs(np.fft.rfft(profile))[16 // period] / 16
    return float(amplitude / (np.percentile(frame, 99.9) - np.percentile(frame, 0.1)))


GRID = [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5), (0.25, 0.0), (0.0, 0.25), (0.25, 0.25)]


def assert_no_grid(raw: Pixels, out: Pixels, what: str) -> None:
    difference = out.astype(np.float64) - raw
    # Without repetition, the largest of nine bins is 5 to 8 dB above the median.
    peaks = [peak_over_neighbours_db(difference, fy, fx) for fy, fx in GRID]
    assert np.median(peaks) < 9, f"{what}: {peaks}"
    assert max(peaks) < 15, f"{what}: {peaks}"
    for period in (2, 4, 8):
        for axis in (0, 1):
            share = grid_share(out.astype(np.float64), period, axis)
            assert share < 1e-3, f"{what}: period {period} px, axis {axis}: {share:.2%}"


def test_the_grid_measures_see_a_grid(engine: OpenVinoEngine, flux: NDArray[np.float32]) -> None:
    scene = simulate_frame(flux, HELD_OUT[0], Defocus(8.0), np.random.default_rng(1))
    out = refocused(engine, scene.raw).astype(np.float64)
    span = np.percentile(out, 99.9) - np.percentile(out, 0.1)
    columns = 0.005 * span * np.cos(np.pi / 2 * np.arange(out.shape[1]))
    gridded = np.rint(np.maximum(out + columns, 0)).astype(np.uint16)
    with pytest.raises(AssertionError, match="over"):
        assert_no_grid(scene.raw, gridded, "over")


def test_simulated_frames_show_no_grid(engine: OpenVinoEngine, flux: NDArray[np.float32]) -> None:
    for level in (0.0, 8.0, 24.0):
        scene = simulate_frame(flux, HELD_OUT[4], Defocus(level), np.random.default_rng(1))
        assert_no_grid(scene.raw, refocused(engine, scene.raw), f"{level} um")


def test_real_defocused_fields_show_no_grid_and_keep_their_background(
    engine: OpenVinoEngine, test_data: Path
) -> None:
    paths = sorted((test_data / "bbbc006" / "defocused_z00_w1").glob("*.tif"))
    assert paths
    for path in paths[:4]:
        raw = tifffile.imread(path).astype(np.uint16)
        out = refocused(engine, raw)
        assert_no_grid(raw, out, path.name)
        span = np.percentile(raw, 99.9) - np.percentile(raw, 0.1)
        assert abs(np.percentile(out, 1) - np.percentile(raw, 1)) < 0.1 * span
        assert out.max() < raw.max() + 2.5 * span


@pytest.mark.parametrize("counts", [0, 100, 4095, 65535])
def test_a_flat_frame_stays_flat(engine: OpenVinoEngine, counts: int) -> None:
    out = refocused(engine, np.full((200, 210), counts, np.uint16)).astype(int)
    assert np.abs(out - counts).max() <= 2


def test_an_empty_field_stays_empty(engine: OpenVinoEngine) -> None:
    raw = np.random.default_rng(0).poisson(100, (520, 696)).astype(np.uint16)
    out = refocused(engine, raw).astype(float)
    assert out.mean() == pytest.approx(raw.mean(), abs=1.0)
    assert out.std() < 0.5 * raw.std()


def test_other_pictures_are_not_blown_up(engine: OpenVinoEngine, test_data: Path) -> None:
    stack = tifffile.imread(test_data / "z_stacks" / "isl_phase_contrast_z0-12.tif")
    raw = np.ascontiguousarray(stack[6], dtype=np.uint16)
    out = refocused(engine, raw).astype(float)
    # It was not trained on phase contrast: it need not help, but must stay in the frame's range.
    assert abs(out.mean() - raw.mean()) < 0.1 * (np.percentile(raw, 99) - np.percentile(raw, 1))
    assert out.std() < 2 * raw.std()


@pytest.mark.skipif(os.cpu_count() == 1, reason="tiles are compared on two threads")
def test_the_receptive_field_is_what_the_bundle_says(
    engine: OpenVinoEngine, bundle: ModelBundle, flux: NDArray[np.float32]
) -> None:
    scene = simulate_frame(flux, HELD_OUT[5], Defocus(16.0), np.random.default_rng(2))
    whole = scene.range.normalise(scene.raw)
    halo = -(-bundle.receptive_field_px // 32) * 32
    assert 64 + 2 * halo < 512, "the sample is too small to test this halo"
    start = (512 - 64) // 2 // 32 * 32 - halo
    part = slice(max(start, 0), start + 2 * halo + 64)
    tile = np.ascontiguousarray(whole[part, part])
    core = slice(halo, halo + 64)
    expected = engine.infer(whole)[part, part][core, core]
    assert np.abs(engine.infer(tile)[core, core] - expected).max() < 3e-3
