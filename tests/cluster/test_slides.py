"""Large images are refocused in tiles, without seams and in little memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr
from finished import environment, snapshot, verify
from numpy.typing import NDArray
from plates_on_disk import write_image
from scipy.ndimage import gaussian_filter
from yaozarrs import v05

from refocusd.cli.main import main
from refocusd.cluster import plan as cluster_plan
from refocusd.cluster import slide
from refocusd.cluster.job import engines_of, refocus_position
from refocusd.cluster.order import JobResult, PositionOrder
from refocusd.cluster.slide import TilePlan, refocus_slide
from refocusd.cluster.tiles_done import TilesDone
from refocusd.config import Settings
from refocusd.engines.deconvolution import DeconvolutionEngine
from refocusd.engines.engine import Refocused
from refocusd.engines.scaled import ScaledEngine
from refocusd.errors import InputError
from refocusd.formats import dataset as formats_dataset
from refocusd.formats.dataset import checksum_by_strips
from refocusd.formats.ome_zarr.mirror import slide_layout
from refocusd.formats.ome_zarr.store import reader as store_reader
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import create_sink
from refocusd.formats.tiff import page_layout
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Pixels, checksum
from refocusd.imaging.blur import BlurEstimate
from refocusd.imaging.deconvolve import WholeImage
from refocusd.imaging.normalise import CountsRange

SETTINGS = Settings(backend="openvino", precision="f32", threads=1)


def specimen(side: int, sigma_px: float, seed: int = 1) -> Pixels:
    """Blurred discs on a background."""
    rng = np.random.default_rng(seed)
    sharp = np.zeros((side, side), np.float32)
    for y, x in rng.integers(20, side - 20, (side * side // 3000, 2)):
        sharp[y - 8 : y + 8, x - 8 : x + 8] += rng.uniform(300, 2000)
    blurred = gaussian_filter(sharp, sigma_px)
    return (200 + blurred + rng.normal(0, 6, sharp.shape)).clip(0, 65535).astype(np.uint16)


@pytest.mark.parametrize("numerator", [16, 21, 37, 80, 133])
@pytest.mark.parametrize("length", [3000, 8191, 20_000])
def test_windows_lie_on_one_grid_and_surround_their_regions(numerator: int, length: int) -> None:
    plan = TilePlan.of(numerator, 16, (512, 512))
    size = plan.region_px[0]
    assert plan.side_px * 16 % numerator == 0
    for start in range(0, length, size):
        at = plan.window(start, length)
        stop = min(start + size, length)
        assert at % plan.step_px == 0
        assert at * 16 // numerator % 16 == 0
        assert at == 0 or start - at >= plan.halo_px
        assert at + plan.side_px >= min(stop + plan.halo_px, length)


def test_tiles_make_no_seams(tmp_path: Path) -> None:
    notes = tmp_path / "slide.tiles"
    raw = specimen(1500, 6.0)
    out = np.zeros_like(raw)
    told: list[tuple[BlurEstimate, CountsRange]] = []
    engine = engines_of(SETTINGS).engines[""]
    assert isinstance(engine, ScaledEngine)
    refocus = ScaledEngine.refocus

    def listen(self: ScaledEngine, seen: Pixels, made: Pixels, *more: object) -> object:
        if len(more) == 2:
            told.append(more)  # type: ignore[arg-type]
        return refocus(self, seen, made, *more)  # type: ignore[arg-type]

    def write(pixels: Pixels, rows: slice, columns: slice) -> None:
        out[rows, columns] = pixels

    form = PageFormat(raw.shape[0], raw.shape[1], raw.dtype)
    with (
        mock.patch.object(ScaledEngine, "refocus", listen),
        mock.patch.object(slide, "SIDES", ((np.inf, 480),)),
        mock.patch.object(slide, "SAMPLED", 2),
        mock.patch.object(slide, "SAMPLE_PX", 512),
    ):
        facts = refocus_slide(
            engine, form, (256, 256), lambda *at: raw[at], write, SETTINGS, TilesDone(notes, 0)
        )
    assert facts.written == "refocused"
    assert len(told) > 4
    assert len(set(told)) == 1
    assert_as_untiled(engine, raw, out, *told[0])


def test_deconvolved_tiles_make_no_seams(tmp_path: Path) -> None:
    raw = specimen(800, 6.0)
    out, notes = np.zeros_like(raw), TilesDone(tmp_path / "slide.tiles", 0)
    engine = DeconvolutionEngine()

    def write(pixels: Pixels, rows: slice, columns: slice) -> None:
        out[rows, columns] = pixels

    form = PageFormat(raw.shape[0], raw.shape[1], raw.dtype)
    with (
        mock.patch.object(slide, "SIDES", ((np.inf, 400),)),
        mock.patch.object(slide, "SAMPLED", 2),
        mock.patch.object(slide, "SAMPLE_PX", 320),
    ):
        facts = refocus_slide(engine, form, (256, 256), lambda *at: raw[at], write, SETTINGS, notes)
    assert facts.written == "refocused"
    assert len(notes.tiles) > 4
    begun = notes.begun
    assert begun is not None
    assert begun.iterations > 1
    # In one piece, with a side that is reduced like the tiles.
    side = min(400 * begun.numerator // 16, len(raw))
    whole = np.empty((side, side), raw.dtype)
    shared = WholeImage(begun.offset, begun.pedestal, begun.iterations)
    engine.refocus_part(raw[:side, :side].copy(), whole, begun.sigma_px, shared)
    inner = (slice(0, side - 250),) * 2
    off = np.abs(whole[inner].astype(int) - out[inner].astype(int))
    assert np.percentile(off, 99.9) <= 1
    # The whole frame as usual differs only in that its sum of light is preserved as well.
    alone = np.empty_like(raw)
    engine.refocus(raw, alone)
    assert np.percentile(np.abs(alone.astype(int) - out)[inner], 90) < 0.05 * float(np.ptp(alone))


def assert_as_untiled(
    engine: ScaledEngine, raw: Pixels, out: Pixels, blur: BlurEstimate, counts: CountsRange
) -> None:
    """Assert that tiles have no seams: they equal the engine's result for the whole image."""
    # A side for which the reduction of the whole image is that of the tiles.
    numerator = round(blur.sigma_px / engine.grid[0] * 16)
    side = max(n for n in (480, 640, 720, 800, 960, 1200) if n * numerator // 16 <= len(raw))
    side = side * numerator // 16
    whole = np.empty((side, side), raw.dtype)
    engine.refocus(raw[:side, :side].copy(), whole, blur, counts)
    inner = (slice(0, side - 300),) * 2
    off = np.abs(whole[inner].astype(int) - out[inner].astype(int))
    assert np.percentile(off, 99.9) <= 1


def write_pyramid(path: Path, pixels: NDArray[Any]) -> None:
    """A tiled OME-TIFF whose lower resolutions are in SubIFDs, as Bio-Formats and QuPath write them."""
    options: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "predictor": True}
    about = {
        "axes": "CYX"[-pixels.ndim :],
        "PhysicalSizeX": 0.65,
        "PhysicalSizeXUnit": "µm",
        **({"Channel": {"Name": ["DAPI", "GFP"]}} if pixels.ndim == 3 else {}),
    }
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as writer:
        writer.write(pixels, subifds=2, photometric="minisblack", metadata=about, **options)
        for step in (2, 4):
            lower = pixels[..., ::step, ::step]
            writer.write(lower, subfiletype=1, photometric="minisblack", **options)


def test_a_job_goes_on_with_the_tiles_that_a_killed_one_has_left(tmp_path: Path) -> None:
    raw = specimen(800, 6.0)
    form = PageFormat(raw.shape[0], raw.shape[1], raw.dtype)
    notes = tmp_path / "slide.tiles"
    engine = engines_of(SETTINGS).engines[""]

    def refocus(out: Pixels, most: int, checksum: int = 7) -> list[tuple[int, int]]:
        """Refocus until `most` tiles are written; returns the tiles."""
        written: list[tuple[int, int]] = []

        def write(pixels: Pixels, rows: slice, columns: slice) -> None:
            if len(written) == most:
                raise KeyboardInterrupt
            out[rows, columns] = pixels
            written.append((rows.start, columns.start))

        with suppress(KeyboardInterrupt):
            refocus_slide(
                *(engine, form, (256, 256), lambda *at: raw[at], write, SETTINGS),
                TilesDone(notes, checksum),
            )
        return written

    with (
        mock.patch.object(slide, "SIDES", ((np.inf, 480),)),
        mock.patch.object(slide, "SAMPLED", 2),
        mock.patch.object(slide, "SAMPLE_PX", 512),
    ):
        whole, parts = np.zeros_like(raw), np.zeros_like(raw)
        every = refocus(whole, 10_000)
        notes.unlink()
        first = refocus(parts, 2)
        with notes.open("ab") as file:
            file.write(b"\n[12, 5")  # killed while it recorded a tile
        assert refocus(parts, 10_000) == every[2:]
        assert first == every[:2]
        # A network compiled for a size that came often enough rounds otherwise than the one before it.
        off = np.abs(parts.astype(int) - whole)
        assert off.max() <= 1
        assert np.mean(off > 0) < 0.001
        # What was begun with other pixels does not count.
        assert refocus(parts, 10_000, checksum=8) == every


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """Memory of everything except the network, which sees windows of one size."""
    part = specimen(1024, 6.0)
    engine = engines_of(SETTINGS).engines[""]
    counts, blur = CountsRange(200, 1000), BlurEstimate(6.0, 0.1, "frame")

    def copied(_: ScaledEngine, seen: Pixels, made: Pixels, *__: object) -> Refocused:
        np.copyto(made, seen)
        return Refocused(counts, 1.0, 0, blur)

    def peak(side: int) -> int:
        def read(rows: slice, columns: slice) -> Pixels:
            here = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
            return np.ascontiguousarray(part[np.ix_(here[0] % 1024, here[1] % 1024)])

        form = PageFormat(side, side, part.dtype)
        tracemalloc.start()
        done = TilesDone(tmp_path / str(side), 0)
        facts = refocus_slide(engine, form, (512, 512), read, lambda *_: None, settings, done)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert facts.reasons[-1] == "judged from 16 parts of a large image"
        return most

    settings = msgspec.structs.replace(SETTINGS, untrusted="mark", pass_in_focus=False)
    with mock.patch.object(ScaledEngine, "refocus", copied):
        small = peak(4096)
        assert peak(8192) < 1.1 * small


def test_a_slide_of_a_store_is_written_with_its_pyramid(tmp_path: Path) -> None:
    raw, out = tmp_path / "slide.zarr", tmp_path / "slide_refocused.zarr"
    write_image(raw, axes="yx", levels=3, chunks=(16, 16))
    pixels = np.asarray(zarr.open_array(raw / "0")[:])
    with open_dataset(raw) as dataset:
        keys = dataset.axes_keys()
        create_sink("ndtiff", out, dataset.summary).close()
    order = PositionOrder(
        *(str(raw), str(out), "", keys, "00000000-0000-0000-0000-000000000001", "r"),
        *(Settings(backend="identity"), "{}", []),
    )
    with (
        mock.patch.object(store_reader, "SLIDE_PX", 1024),
        mock.patch.object(formats_dataset, "STRIP_PX", 10),
    ):
        (done,) = JobResult.unpack(refocus_position(order.pack())).attempts
        assert (done.state, done.reason) == ("passed_through", "identity engine")
        assert done.checksum == done.raw_checksum == checksum(pixels)
        assert JobResult.unpack(refocus_position(order.pack())).found == 1
    with open_dataset(out) as dataset:
        assert dataset.axes_keys() == keys
        np.testing.assert_array_equal(dataset.read(keys[0]).pixels, pixels)
    halves = pixels.reshape(24, 2, 32, 2).mean(axis=(1, 3))
    half = np.asarray(zarr.open_array(out / "1")[:])
    np.testing.assert_allclose(half, halves, atol=0.51)
    quarter = np.asarray(zarr.open_array(out / "2")[:])
    np.testing.assert_allclose(quarter, half.reshape(12, 2, 16, 2).mean(axis=(1, 3)), atol=0.51)
    assert json.loads(keys[0]) == {"time": 0}


def test_a_slide_needs_no_cluster_and_is_never_read_as_a_whole(tmp_path: Path) -> None:
    raw, out = tmp_path / "slide.zarr", tmp_path / "slide_refocused.zarr"
    write_image(raw, axes="yx", levels=2, chunks=(16, 16))
    pixels = np.asarray(zarr.open_array(raw / "0")[:])
    whole = AssertionError("a slide was read as a whole")
    with (
        mock.patch.object(store_reader, "SLIDE_PX", 1024),
        mock.patch.object(store_reader.StoreReader, "_pixels", side_effect=whole),
        mock.patch.dict(os.environ, environment(tmp_path), clear=True),
    ):
        assert main(["process", str(raw)]) == 0
        status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    np.testing.assert_array_equal(np.asarray(zarr.open_array(out / "0")[:]), pixels)
    assert not list(out.rglob("*.tiles"))


def test_tiles_of_a_pyramidal_tiff_make_no_seams(tmp_path: Path) -> None:
    raw, pixels = tmp_path / "slide.ome.tif", specimen(1500, 6.0)
    write_pyramid(raw, pixels)
    told: list[Any] = []
    refocus = ScaledEngine.refocus

    def listen(self: ScaledEngine, seen: Pixels, made: Pixels, *more: Any) -> object:
        told.extend([more] if len(more) == 2 else [])
        return refocus(self, seen, made, *more)

    whole = AssertionError("a slide was read as a whole")
    settings = {"REFOCUSD_BACKEND": "openvino", "REFOCUSD_PRECISION": "f32"}
    with (
        mock.patch.object(page_layout, "SLIDE_PX", 1 << 20),
        mock.patch.object(page_layout.PageLayout, "read", side_effect=whole),
        mock.patch.object(ScaledEngine, "refocus", listen),
        mock.patch.object(slide, "SIDES", ((np.inf, 480),)),
        mock.patch.object(slide, "SAMPLED", 2),
        mock.patch.object(slide, "SAMPLE_PX", 512),
        mock.patch.dict(os.environ, environment(tmp_path, **settings), clear=True),
    ):
        assert main(["process", str(raw), "--threads", "1"]) == 0
        status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    out = np.asarray(zarr.open_array(tmp_path / "slide_refocused.zarr" / "0")[0, 0, 0])
    assert len(told) > 4
    assert len(set(told)) == 1
    assert not np.array_equal(out, pixels)
    engine = engines_of(SETTINGS).engines[""]
    assert isinstance(engine, ScaledEngine)
    assert_as_untiled(engine, pixels, out, *told[0])


def test_channels_and_pixel_size_of_a_large_tiff_go_into_an_ome_zarr(tmp_path: Path) -> None:
    raw, out = tmp_path / "slide.ome.tif", tmp_path / "slide_refocused.zarr"
    pixels = np.stack([specimen(300, 2.0, seed) for seed in (1, 2)])
    write_pyramid(raw, pixels)
    with (
        mock.patch.object(page_layout, "SLIDE_PX", 1 << 15),
        mock.patch.object(slide_layout, "CHUNK_PX", 100),
        mock.patch.dict(os.environ, environment(tmp_path), clear=True),
    ):
        assert main(["process", str(raw)]) == 0
        before = snapshot(out)
        assert main(["process", str(raw)]) == 0
        assert snapshot(out) == before
        status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    image = yaozarrs.validate_zarr_store(out).ome_metadata()
    assert isinstance(image, v05.Image)
    assert image.omero is not None
    assert [channel.label for channel in image.omero.channels] == ["DAPI", "GFP"]
    levels = image.multiscales[0].datasets
    assert [level.scale_transform.scale[-1] for level in levels] == [0.65, 1.3, 2.6]
    assert [zarr.open_array(out / level.path).shape[-1] for level in levels] == [300, 150, 75]
    np.testing.assert_array_equal(np.asarray(zarr.open_array(out / "0")[0, :, 0]), pixels)
    with open_dataset(out) as frames:
        channels = [json.loads(key)["channel"] for key in frames.axes_keys()]
        assert channels == ["DAPI", "GFP"]


def test_a_dry_run_measures_a_part_of_a_slide(tmp_path: Path) -> None:
    raw, figures = tmp_path / "slide.tif", tmp_path / "plan.json"
    tifffile.imwrite(raw, specimen(400, 2.0), tile=(64, 64))
    whole = AssertionError("a slide was read as a whole")
    with (
        mock.patch.object(page_layout, "SLIDE_PX", 1 << 15),
        mock.patch.object(cluster_plan, "SLIDE_PART_PX", 100),
        mock.patch.object(page_layout.PageLayout, "read", side_effect=whole),
        mock.patch.dict(os.environ, environment(tmp_path), clear=True),
    ):
        asked = ["process", str(raw), "--cluster", "local", "--dry-run", "--json", str(figures)]
        assert main(asked) == 0
    (plan,) = json.loads(figures.read_text())["plans"]
    assert (plan["jobs"], plan["frames"]) == (1, 1)
    assert plan["output"] == str(tmp_path / "slide_refocused.zarr")


def test_an_output_that_was_not_begun_in_tiles_is_not_continued_in_tiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "slide.tif"
    tifffile.imwrite(raw, specimen(400, 2.0), tile=(64, 64))
    with mock.patch.dict(os.environ, environment(tmp_path), clear=True):
        # As a version without tiles wrote it; then the frame is lost.
        assert main(["process", str(raw)]) == 0
        (pixels,) = (tmp_path / "slide_refocused").glob("*.tif")
        pixels.write_bytes(pixels.read_bytes()[:1000])
        with mock.patch.object(page_layout, "SLIDE_PX", 1 << 15):
            assert main(["process", str(raw)]) == 2
    assert "was not created as an OME-Zarr" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (32, 48), "compression": "lzw", "predictor": True},
        {"tile": (16, 16)},
        {"tile": (256, 256), "compression": "zstd"},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"rowsperstrip": 1000},
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_parts_of_a_tiff_are_those_of_the_whole_image(
    tmp_path: Path, options: dict[str, Any], order: Any
) -> None:
    pixels = specimen(150, 2.0)[:, :131].copy()
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, byteorder=order, metadata=None, **options)
    with (
        mock.patch.object(page_layout, "SLIDE_PX", 1 << 12),
        open_dataset(path, max_frame_bytes=pixels.nbytes) as frames,
    ):
        (key,) = frames.axes_keys()
        large_strip_or_tile = options in ({"tile": (256, 256), "compression": "zstd"},)
        assert frames.is_slide(key) is not large_strip_or_tile
        np.testing.assert_array_equal(frames.read(key).pixels, pixels)
        for rows, columns in [((0, 150), (0, 131)), ((31, 33), (47, 131)), ((149, 150), (0, 1))]:
            part = slice(*rows), slice(*columns)
            np.testing.assert_array_equal(frames.read_part(key, *part), pixels[part])


def test_a_tiff_in_tiles_may_be_larger_than_what_is_read_as_a_whole(tmp_path: Path) -> None:
    pixels = specimen(150, 2.0)
    tiles, strips_ = tmp_path / "tiles.tif", tmp_path / "strips.tif"
    tifffile.imwrite(tiles, pixels, tile=(32, 32))
    tifffile.imwrite(strips_, pixels)
    with mock.patch.object(page_layout, "SLIDE_PX", 1 << 12):
        with open_dataset(tiles, max_frame_bytes=1000) as frames:
            (key,) = frames.axes_keys()
            assert frames.checksum(key) == checksum(pixels)
            with pytest.raises(InputError, match="above the limit of 1000 bytes for what is read"):
                frames.read(key)
        with pytest.raises(InputError, match="above the limit of 1000"):
            open_dataset(strips_, max_frame_bytes=1000)


def test_only_frames_in_parts_may_be_larger_than_what_is_read_as_a_whole(tmp_path: Path) -> None:
    raw = tmp_path / "slide.zarr"
    write_image(raw, axes="yx", levels=1, chunks=(16, 16))
    too_large = pytest.raises(InputError, match="above the limit of 1000 bytes")
    with (
        mock.patch.object(store_reader, "SLIDE_PX", 1024),
        store_reader.StoreReader(raw, max_frame_bytes=1000) as frames,
    ):
        (key,) = frames.axes_keys()
        assert frames.checksum(key) == checksum(np.asarray(zarr.open_array(raw / "0")[:]))
        with too_large:
            frames.read(key)
    with mock.patch.object(store_reader, "SLIDE_PX", 16), too_large:
        store_reader.StoreReader(raw, max_frame_bytes=1000)


def test_a_checksum_by_strips_is_that_of_the_whole() -> None:
    pixels = specimen(3000, 2.0)[:, :700].copy()
    form = PageFormat(pixels.shape[0], pixels.shape[1], pixels.dtype)
    assert checksum_by_strips(form, lambda *at: pixels[at]) == checksum(pixels)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_slide_goes_through_a_worker_and_is_verified(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    raw, out = tmp_path / "slide.zarr", tmp_path / "slide_refocused.zarr"
    write_image(raw, axes="yx", levels=1)
    pixels = np.resize(specimen(1024, 6.0).astype(np.uint8), (8200, 8200))
    zarr.create_array(raw / "0", data=pixels, chunks=(1024, 1024), overwrite=True)
    with mock.patch.dict(os.environ, environment(tmp_path), clear=True):
        arguments = ["process", str(raw), "--cluster", "local", "--max-jobs", "1"]
        assert main(arguments) == 0
    np.testing.assert_array_equal(np.asarray(zarr.open_array(out / "0")[:]), pixels)
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
