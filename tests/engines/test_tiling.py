"""Tiles cover a frame once, keep their halos, and equal the untiled frame in bounded memory."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import blur_network
from tiling_errors import tiling_error

from refocusd.config import EngineOptions
from refocusd.demo.specimen import Specimen
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.engines.tiling import (
    plan_tiles,
    reflect_into,
    smallest_tile,
)
from refocusd.errors import EngineError
from refocusd.frame import Pixels
from refocusd.models.bundle import ModelBundle, load_bundle

MODEL = "live-nuclei"

sides = st.integers(16, 8192)
#: Width of a tile without its halos, as a share of the frame's longer side: gives at most
#: a few hundred tiles.
shares = st.floats(0.06, 1.2)
multiples = st.sampled_from([1, 4, 16, 32, 64])
halos = st.integers(0, 700)


# -- plans -------------------------------------------------------------------------------


@given(st.tuples(sides, sides), halos, multiples, shares)
@settings(max_examples=300, deadline=None)
def test_tiles_cover_a_frame_exactly_once(
    shape: tuple[int, int], halo: int, multiple: int, share: float
) -> None:
    largest = smallest_tile(halo, multiple) + int(share * max(shape))
    tiles = plan_tiles(shape, largest, halo, multiple)
    # Rows and columns are divided independently; the plan is the grid of both.
    for axis in (0, 1):
        spans = sorted({(tile.write[axis].start, tile.write[axis].stop) for tile in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == shape[axis]
        assert all(left[1] == right[0] for left, right in itertools.pairwise(spans))
    rows, columns = ({(t.write[a].start, t.write[a].stop) for t in tiles} for a in (0, 1))
    assert len(tiles) == len(rows) * len(columns)


@given(st.tuples(sides, sides), halos, multiples, shares)
@settings(max_examples=300, deadline=None)
def test_tiles_have_one_shape_lie_on_the_grid_and_keep_their_halos(
    shape: tuple[int, int], halo: int, multiple: int, share: float
) -> None:
    largest = smallest_tile(halo, multiple) + int(share * max(shape))
    tiles = plan_tiles(shape, largest, halo, multiple)
    assert len({tile.shape for tile in tiles}) == 1
    for tile in tiles:
        for axis, length in enumerate(shape):
            read, write, crop = tile.read[axis], tile.write[axis], tile.crop[axis]
            side = tile.shape[axis]
            assert side <= largest
            assert side % multiple == read.start % multiple == 0
            assert (crop.start, crop.stop) == (write.start - read.start, write.stop - read.start)
            assert read.start == 0 or write.start - read.start >= halo
            assert read.stop == length or read.stop - write.stop >= halo
            # Padding is only added beyond the frame, and only up to the next multiple.
            assert tile.pad[axis] == (-length % multiple if read.stop == length else 0)


@given(st.tuples(sides, sides), halos, multiples)
@settings(max_examples=50, deadline=None)
def test_a_frame_that_fits_is_one_padded_tile(
    shape: tuple[int, int], halo: int, multiple: int
) -> None:
    for tile_px in (0, max(shape) + multiple):
        (tile,) = plan_tiles(shape, tile_px, halo, multiple)
        assert tile.write == tile.read == tile.crop == (slice(0, shape[0]), slice(0, shape[1]))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 70), st.integers(0, 70))
@settings(max_examples=200, deadline=None)
def test_padding_reflects_as_numpy_does(height: int, width: int, below: int, right: int) -> None:
    frame = np.random.default_rng(0).random((height, width), np.float32)
    tile = np.full((height + below, width + right), np.nan, np.float32)
    tile[:height, :width] = frame
    reflect_into(tile, (height, width))
    np.testing.assert_array_equal(tile, np.pad(frame, ((0, below), (0, right)), mode="reflect"))


def test_a_frame_a_little_larger_than_a_tile_does_not_cost_two() -> None:
    tiles = plan_tiles((2080, 2080), 2048, 160, 32)
    assert len(tiles) == 4
    assert tiles[0].shape[0] <= 2080 / 2 + 160 + 32


def test_tiles_without_room_for_their_halos_are_refused() -> None:
    with pytest.raises(EngineError, match="set tile_px to 352"):
        plan_tiles((1000, 1000), 320, 160, 32)


# -- tiled frames ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return load_bundle(MODEL)


@pytest.fixture(scope="module")
def whole(bundle: ModelBundle) -> Iterator[OpenVinoEngine]:
    with closing(OpenVinoEngine(bundle, EngineOptions(precision="f32"))) as engine:
        yield engine


@pytest.fixture(scope="module")
def scene() -> Pixels:
    """Four fields of the demo's specimen at different defocus, side by side."""
    rng = np.random.default_rng(0)
    fields = [Specimen().frame("DAPI", um, 10.0, rng) for um in (0.0, 8.0, 16.0, 30.0)]
    return np.ascontiguousarray(np.block([fields[:2], fields[2:]]))


@pytest.mark.parametrize(
    ("shape", "tile_px", "batch"),
    [
        ((700, 701), 384, 1),
        ((777, 601), 480, 3),
        ((65, 1024), 416, 2),
        ((1023, 352), 352, 1),
    ],
)
def test_a_tiled_frame_is_the_whole_one_within_a_count(
    bundle: ModelBundle,
    whole: OpenVinoEngine,
    scene: Pixels,
    shape: tuple[int, int],
    tile_px: int,
    batch: int,
) -> None:
    raw: Pixels = scene[: shape[0], : shape[1]].copy()
    options = EngineOptions(precision="f32", tile_px=tile_px, tile_batch=batch)
    with closing(OpenVinoEngine(bundle, options)) as tiled:
        assert len(tiled.tiles(shape)) > 1
        error = tiling_error(whole, tiled, raw)
    print(f"{shape}: p99.9 {error.p999_counts}, largest {error.max_counts} counts")  # noqa: T201
    assert error.p999_counts <= 1
    assert error.max_counts <= 4


def test_the_comparison_sees_tiles_without_halos(
    bundle: ModelBundle, whole: OpenVinoEngine, scene: Pixels
) -> None:
    blind = replace(bundle, receptive_field_px=0)
    with closing(OpenVinoEngine(blind, EngineOptions(precision="f32", tile_px=128))) as tiled:
        error = tiling_error(whole, tiled, scene[:512, :512].copy())
    assert error.p999_counts > 1


@pytest.mark.parametrize("shape", [(64, 64), (100, 8192), (520, 696), (2048, 2048), (8192, 8191)])
def test_the_memory_allowed_decides_what_goes_whole(
    bundle: ModelBundle, shape: tuple[int, int]
) -> None:
    with closing(OpenVinoEngine(bundle, EngineOptions(precision="f32", engine_mib=256))) as engine:
        tiles = engine.tiles(shape)
        pixels = tiles[0].shape[0] * tiles[0].shape[1]
        # About 200 bytes per pixel in f32: a frame of 1024² fits into 256 MiB, but no larger one.
        assert pixels <= 1100**2
        assert (len(tiles) == 1) == (shape[0] * shape[1] <= 1100**2)


def test_a_batch_shares_the_memory_allowed(bundle: ModelBundle) -> None:
    for batch in (1, 4):
        options = EngineOptions(precision="f32", engine_mib=512, tile_batch=batch)
        with closing(OpenVinoEngine(bundle, options)) as engine:
            height, width = engine.tiles((4096, 4096))[0].shape
            assert batch * height * width <= 1500**2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (EngineOptions(tile_px=128), "tiles of 352 px or more"),
        (EngineOptions(engine_mib=2), r"needs \d+ MiB"),
        (EngineOptions(precision="f16"), "does not compute in f16"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(
    bundle: ModelBundle, options: EngineOptions, word: str
) -> None:
    with pytest.raises(EngineError, match=word):
        OpenVinoEngine(bundle, options)


# -- memory ------------------------------------------------------------------------------

#: Prints the increase of peak resident memory over that before the frame, in MiB.
PEAK = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from refocusd.config import EngineOptions
from refocusd.models.bundle import load_bundle
from refocusd.engines.runtimes.openvino import OpenVinoEngine

def status(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) / 1024

bundle = load_bundle("live-nuclei")
if len(sys.argv) > 3:
    bundle = replace(bundle, onnx=Path(sys.argv[3]))
side, mib = int(sys.argv[1]), int(sys.argv[2])
raw = np.full((side, side), 500, np.uint16)
raw[::7, ::5] = 1000
out = np.ones_like(raw)
engine = OpenVinoEngine(bundle, EngineOptions(precision="f32", engine_mib=mib))
engine.refocus(raw[:64, :64].copy(), out[:64, :64].copy())
before = status("VmRSS")
engine.refocus(raw, out)
peak = status("VmHWM") - before
assert out.max() > 500
print(peak)
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")


def run(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@on_linux
@pytest.mark.parametrize("mib", [64, 160])
def test_the_shipped_model_keeps_to_the_memory_allowed(mib: int) -> None:
    peak = float(run(PEAK, 1200, mib))
    assert mib / 4 < peak <= mib


@on_linux
def test_the_largest_frame_keeps_to_the_memory_allowed(tmp_path: Path) -> None:
    peak = float(run(PEAK, 8192, 128, blur_network(tmp_path / "blur.onnx", 8)))
    assert peak <= 128


#: Reduces the memory limit until a frame does not fit, and reports how the frame was done.
SHORT = """
import logging, resource, sys
from pathlib import Path
import numpy as np
from refocusd.config import EngineOptions
from refocusd.demo.specimen import Specimen
from refocusd.models.bundle import load_bundle
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.errors import EngineError

logging.basicConfig(stream=sys.stdout, format="%(message)s")
engine = OpenVinoEngine(load_bundle("live-nuclei"), EngineOptions(precision="f32", threads=1))
field = Specimen().frame("DAPI", 8.0, 10.0, np.random.default_rng(0))
raw = np.ascontiguousarray(np.tile(field, (2, 2)))
expected, out = np.empty_like(raw), np.empty_like(raw)
engine.refocus(raw, expected)
engine = OpenVinoEngine(load_bundle("live-nuclei"), EngineOptions(precision="f32", threads=1))
engine.refocus(raw[:64, :64].copy(), out[:64, :64].copy())
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (int(sys.argv[1]) << 20), -1))
try:
    engine.refocus(raw, out)
except EngineError as error:
    print("refused:", error)
else:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    difference = np.abs(out.astype(int) - expected)
    print("done:", np.percentile(difference, 99.9), len(engine.tiles(raw.shape)))
"""


@on_linux
def test_a_frame_that_memory_is_too_short_for_is_done_in_smaller_tiles() -> None:
    said = run(SHORT, 120)
    assert "trying again with less" in said
    done = said.split("done:")[1].split()
    assert float(done[0]) <= 1
    assert int(done[1]) > 1


@on_linux
def test_where_no_tile_fits_one_clear_error_says_so() -> None:
    said = run(SHORT, -200)
    assert "refused: the memory ran out for model live-nuclei-2" in said
    assert "close other programs" in said
