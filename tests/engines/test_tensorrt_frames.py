"""A frame's way through a card that the processor plays, with the real kernels.

Pixels are compared with what the CPU engine's code makes of the same frame: equal, to the
last count.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, HostNetwork, kernels_for_host, small_bundle
from numpy.typing import NDArray

from refocusd.config import EngineOptions
from refocusd.engines.tensorrt.engine import TiledEngine
from refocusd.engines.tiling import plan_tiles
from refocusd.errors import EngineError
from refocusd.imaging.normalise import CountsRange
from refocusd.models.bundle import ModelBundle

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return kernels_for_host(tmp_path_factory.mktemp("kernels"))


def unsharp(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """A network of 3×3 px that reaches over both ends of the counts scale."""
    padded = np.pad(tiles, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = tiles.shape[2:]
    around = np.zeros_like(tiles)
    for dy, dx in itertools.product(range(3), range(3)):
        around += padded[:, :, dy : dy + height, dx : dx + width] / np.float32(9)
    answer: NDArray[np.float32] = tiles + np.float32(4) * (tiles - around)
    return answer


def on_the_processor(bundle: ModelBundle, raw: Any) -> tuple[Any, CountsRange, int]:
    """What the frame should become, by the code that the CPU engine normalises with."""
    counts = bundle.counts_range(raw)
    (tile,) = plan_tiles(raw.shape, 0, 0, bundle.size_multiple)
    pad = ((0, tile.pad[0]), (0, tile.pad[1]))
    seen = counts.normalise(np.pad(raw, pad, mode="reflect"))
    answer = unsharp(seen[None, None])[0, 0][tile.crop].copy()
    out = np.empty_like(raw)
    return out, counts, counts.restore(answer, out)


def frame(shape: tuple[int, int], dtype: type) -> Any:
    rng = np.random.default_rng(shape[0])
    top = np.iinfo(dtype).max
    smooth = rng.random((1, shape[1])) * rng.random((shape[0], 1))
    return (smooth * top * 0.9 + rng.random(shape) * top * 0.1).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("shape", "tile_px", "tile_batch"),
    [
        ((64, 64), 0, 0),
        ((61, 83), 0, 0),
        ((9, 200), 0, 0),
        ((150, 131), 48, 0),
        ((150, 131), 48, 4),
    ],
)
def test_counts_come_back_as_from_the_processor(
    kernels: Any, tmp_path: Path, dtype: type, shape: tuple[int, int], tile_px: int, tile_batch: int
) -> None:
    bundle = small_bundle(tmp_path / "none.onnx")
    device = HostDevice(kernels)
    options = EngineOptions(tile_px=tile_px, tile_batch=tile_batch)
    engine = TiledEngine(bundle, options, device, HostNetwork(unsharp))
    raw = frame(shape, dtype)
    kept = raw.copy()
    expected, counts, clipped = on_the_processor(bundle, raw)
    assert clipped > 0
    for _ in range(3):  # plain, recorded, replayed
        out = np.zeros_like(raw)
        done = engine.refocus(raw, out)
        np.testing.assert_array_equal(out, expected)
        assert (done.counts, done.clipped) == (counts, clipped)
    np.testing.assert_array_equal(raw, kept)
    assert device.calls.count("capture") == 1
    engine.close()
    assert (device.memory, device.locked, device.closed) == ({}, {}, True)


def test_rows_of_a_large_frame_travel_while_others_are_computed(
    kernels: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refocusd.engines.tensorrt.runner.CHUNK_BYTES", 4096)
    device = HostDevice(kernels)
    bundle = small_bundle(tmp_path / "none.onnx")
    engine = TiledEngine(bundle, EngineOptions(tile_px=64), device, HostNetwork(unsharp))
    raw = frame((300, 131), np.uint16)
    expected, _, _ = on_the_processor(bundle, raw)
    out = np.zeros_like(raw)
    engine.refocus(raw, out)
    np.testing.assert_array_equal(out, expected)
    doing = [call.split()[0] for call in device.calls]
    first = doing.index("normalise_u16")
    # Some rows were still to come when the first tile was computed, and none was sent before
    # the buffer that it travels in was free.
    assert "upload" in doing[first:]
    sent = [index for index, what in enumerate(doing) if what == "upload"]
    assert all("finish" in doing[before:after] for before, after in itertools.pairwise(sent[1:]))
    engine.close()


def test_shapes_stay_ready_within_the_memory_allowed(kernels: Any, tmp_path: Path) -> None:
    device = HostDevice(kernels)
    network = HostNetwork(unsharp, scratch_per_pixel=100)
    engine = TiledEngine(
        small_bundle(tmp_path / "none.onnx"), EngineOptions(engine_mib=2), device, network
    )
    for side in (64, 72, 80, 88, 96, 104, 64):
        raw = frame((side, side), np.uint16)
        engine.refocus(raw, np.empty_like(raw))
        assert sum(held.nbytes for held in device.memory.values()) <= 2 << 20
    # What does not fit whole goes in tiles.
    raw = frame((256, 256), np.uint16)
    engine.refocus(raw, np.empty_like(raw))
    assert sum(held.nbytes for held in device.memory.values()) <= 2 << 20
    assert len(engine.tiles((256, 256))) > 1
    raw = frame((2000, 2000), np.uint8)
    with pytest.raises(EngineError, match="set engine_mib to more"):
        engine.refocus(raw, np.empty_like(raw))


def test_where_the_memory_runs_out_tiles_get_smaller_once(
    kernels: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = small_bundle(tmp_path / "none.onnx")
    device = HostDevice(kernels)
    network = HostNetwork(unsharp, scratch_per_pixel=100)
    engine = TiledEngine(bundle, EngineOptions(), device, network)
    raw = frame((256, 256), np.uint16)
    out = np.empty_like(raw)
    device.memory_bytes = 4 << 20  # somebody else took the rest
    engine.refocus(raw, out)
    np.testing.assert_array_equal(out, on_the_processor(bundle, raw)[0])
    assert network.shapes[-1][2] <= 128
    assert "trying again with less" in caplog.text
    device.memory_bytes = 1 << 10
    with pytest.raises(EngineError, match="memory ran out for model small"):
        engine.refocus(frame((300, 300), np.uint16), np.empty((300, 300), np.uint16))
    assert not device.memory
    device.memory_bytes = 1 << 30
    engine.refocus(raw, out)
    np.testing.assert_array_equal(out, on_the_processor(bundle, raw)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_an_error(
    kernels: Any, tmp_path: Path, value: float
) -> None:
    def broken(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        answer = tiles.copy()
        answer[0, 0, 5, 7] = value
        return answer

    bundle = small_bundle(tmp_path / "none.onnx")
    engine = TiledEngine(bundle, EngineOptions(), HostDevice(kernels), HostNetwork(broken))
    raw = frame((64, 64), np.uint16)
    with pytest.raises(EngineError, match="not finite"):
        engine.refocus(raw, np.empty_like(raw))


def test_a_constant_frame_stays_as_it_is(kernels: Any, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "none.onnx")
    engine = TiledEngine(bundle, EngineOptions(), HostDevice(kernels), HostNetwork(unsharp))
    raw = np.full((70, 70), 65535, np.uint16)
    out = np.empty_like(raw)
    engine.refocus(raw, out)
    np.testing.assert_array_equal(out, raw)


def test_a_card_that_draws_the_desktop_gets_small_tiles(kernels: Any, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "none.onnx")
    device, network = HostDevice(kernels, 8 << 30), HostNetwork(unsharp)
    alone = TiledEngine(bundle, EngineOptions(), device, network)
    shared = TiledEngine(bundle, EngineOptions(), device, network, display=True)
    assert len(alone.tiles((2048, 2048))) == 1
    assert max(tile.shape[0] for tile in shared.tiles((2048, 2048))) <= 1024


def test_wrong_frames_and_tiles_are_refused(kernels: Any, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "none.onnx")
    device, network = HostDevice(kernels), HostNetwork(unsharp)
    engine = TiledEngine(bundle, EngineOptions(), device, network)
    floats: Any = np.zeros((64, 64), np.float32)
    with pytest.raises(EngineError, match="uint8 or uint16"):
        engine.refocus(floats, floats)
    with pytest.raises(EngineError, match="tile_px = 8"):
        TiledEngine(bundle, EngineOptions(tile_px=8), device, network)
