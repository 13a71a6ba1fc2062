"""The engine at the scale of the blur, with networks whose answers are known."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from refocusd.config import Backend, EngineOptions
from refocusd.demo.specimen import Specimen
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import EngineDescription
from refocusd.engines.scaled import OUTPUTS, ScaledEngine
from refocusd.errors import EngineError
from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate, PsfShape, half_width_sigma
from refocusd.imaging.hot_pixels import without_hot_pixels
from refocusd.imaging.normalise import CountsRange
from refocusd.imaging.optics import Optics, defocus_psf
from refocusd.imaging.quality import psnr
from refocusd.models.bundle import ModelBundle, load_bundle
from refocusd.worker.blurs import Blurs
from refocusd.worker.refocus import refocus_frame

Floats = NDArray[np.float32]


def bundle() -> ModelBundle:
    return replace(load_bundle("live-nuclei"), fine_sigma_px=3.0, size_multiple=16)


class Copying:
    """Returns the frame itself; the first blurs that it finds are `off` times the given ones."""

    description = EngineDescription("openvino", "f32", "CPU", "copying", "copying", "")
    onnx, outputs = Path("copying.onnx"), OUTPUTS

    def __init__(self, *off: float, most_px: int = 1 << 30) -> None:
        self.seen: list[Floats] = []
        self.closed = False
        self._off, self._most_px = list(off), most_px

    def run(self, seen: Floats) -> tuple[Floats, ...]:
        if seen[0, 0].size > self._most_px:
            raise MemoryError("too large")
        self.seen.append(seen.copy())
        frame = seen[0, 0].copy()
        off = self._off.pop(0) if self._off else 1.0
        interval = np.zeros((1, 2, *frame.shape), np.float32)
        return frame[None, None], interval, np.array([[off, 0.13]], np.float32)

    def close(self) -> None:
        self.closed = True


def blurred(defocus_um: float = 16.0) -> Pixels:
    return Specimen().frame("DAPI", defocus_um, 10.0, np.random.default_rng(0))


def test_a_frame_is_reduced_until_its_blur_fits_the_network() -> None:
    network = Copying()
    engine = ScaledEngine(bundle(), network)
    raw = blurred()
    out = np.empty_like(raw)
    engine.refocus(raw, out, BlurEstimate(12.0, 0.2, "optics"))
    (seen,) = network.seen
    height, width = seen.shape[2:]
    assert height % 16 == width % 16 == 0
    # A quarter of the side, plus the margin around it.
    assert raw.shape[0] / 4 + 32 <= height < raw.shape[0] / 4 + 64
    assert seen[0, 1].min() == seen[0, 1].max() == pytest.approx(0.0, abs=0.02)
    assert seen[0, 2].max() == pytest.approx(0.2)


def test_a_narrow_blur_is_stated_and_nothing_is_reduced() -> None:
    network = Copying()
    raw = blurred(4.0)
    out = np.empty_like(raw)
    ScaledEngine(bundle(), network).refocus(raw, out, BlurEstimate(2.0, 0.1, "optics"))
    (seen,) = network.seen
    assert seen[0, 1].max() == pytest.approx(math.log(2.0 / 3.0))
    # At full size the frame comes back unchanged except for rounding and isolated bright pixels.
    assert np.abs(out - without_hot_pixels(raw)).max() <= 1


def test_a_blur_that_is_far_off_is_measured_again_from_where_it_was_found() -> None:
    network = Copying(1.5)
    raw = blurred()
    found = ScaledEngine(bundle(), network).refocus(
        raw, np.empty_like(raw), BlurEstimate(8.0, 0.3, "frame")
    )
    first, second, _written = network.seen
    assert second.shape[2] < first.shape[2]
    assert found.blur is not None
    assert found.blur.sigma_px == pytest.approx(12.0)


def test_a_frame_is_refocused_with_less_than_the_width_that_was_found() -> None:
    network = Copying()
    raw = blurred()
    found = ScaledEngine(bundle(), network).refocus(
        raw, np.empty_like(raw), BlurEstimate(4.0, 0.3, "frame")
    )
    measured, careful = network.seen
    assert careful.shape[2] > measured.shape[2]
    assert careful[0, 2].max() == pytest.approx(0.1)
    assert found.blur is not None
    assert found.blur.sigma_px == pytest.approx(4.0)


def test_what_earlier_frames_showed_saves_the_measurement_until_it_is_old() -> None:
    network = Copying()
    engine, raw = ScaledEngine(bundle(), network), blurred()
    fresh = engine.refocus(raw, np.empty_like(raw), BlurEstimate(9.0, 0.1, "frames"))
    assert len(network.seen) == 1
    assert fresh.blur == BlurEstimate(9.0, 0.1, "frames")
    old = engine.refocus(raw, np.empty_like(raw), BlurEstimate(9.0, 0.3, "frames"))
    assert len(network.seen) == 3
    assert old.blur is not None
    assert old.blur.uncertainty == pytest.approx(0.13)
    assert old.blur.source == "frames"


def test_a_frame_that_departs_from_those_before_it_is_measured() -> None:
    network = Copying(2.0, 2.0)
    raw = blurred()
    found = ScaledEngine(bundle(), network).refocus(
        raw, np.empty_like(raw), BlurEstimate(9.0, 0.1, "frames")
    )
    assert len(network.seen) == 4
    assert found.blur is not None
    assert found.blur.sigma_px == pytest.approx(18.0)


def test_the_width_of_a_large_frame_is_measured_where_there_is_most_to_see() -> None:
    network = Copying()
    raw = np.full((1600, 1500), 100, np.uint16)
    raw[1000:1512, 700:1212] = blurred(4.0)
    ScaledEngine(bundle(), network).refocus(
        raw, np.empty_like(raw), BlurEstimate(2.4, 0.2, "frame")
    )
    measured, written = network.seen
    assert max(measured.shape[2:]) <= 704 + 48
    assert min(written.shape[2:]) >= 1500
    assert measured[0, 0].max() > 0.5


def test_parts_of_an_image_are_reduced_alike_whatever_is_stated() -> None:
    shape = PsfShape((1.0,) * len(PsfShape.CYCLES))
    network, plain = Copying(), Copying()
    raw, given = blurred(), BlurEstimate(12.0, 0.1, "optics")
    for engine in (
        ScaledEngine(bundle(), network, BlurEstimate(9.0, 0.03, "optics", shape)),
        ScaledEngine(bundle(), plain),
    ):
        engine.refocus(raw, np.empty_like(raw), given, CountsRange(100.0, 900.0))
    np.testing.assert_array_equal(network.seen, plain.seen)


def test_a_network_that_never_settles_is_not_asked_for_ever() -> None:
    network = Copying(*[0.7, 1.5] * 9)
    raw = blurred()
    ScaledEngine(bundle(), network).refocus(
        raw, np.empty_like(raw), BlurEstimate(9.0, 0.3, "frame")
    )
    assert len(network.seen) == 5


def test_a_blur_that_somebody_stated_is_kept() -> None:
    network = Copying(1.5)
    raw = blurred()
    engine = ScaledEngine(bundle(), network, BlurEstimate(9.0, 0.1, "optics"))
    found = engine.refocus(raw, np.empty_like(raw), BlurEstimate(4.0, 0.1, "frames"))
    assert found.blur == BlurEstimate(9.0, 0.1, "optics")
    assert len(network.seen) == 1


class Brightening(Copying):
    """Adds one normalised unit to the frame."""

    def run(self, seen: Floats) -> tuple[Floats, ...]:
        light, *others = super().run(seen)
        return light + 1, *others


class Certain(Copying):
    """Is certain about the width."""

    def run(self, seen: Floats) -> tuple[Floats, ...]:
        light, interval, (told,) = super().run(seen)
        return light, interval, np.array([[told[0], 0.06]], np.float32)


@pytest.mark.parametrize(
    ("network", "used"), [(Certain(), True), (Copying(), False), (Certain(0.5), False)]
)
def test_the_form_of_a_psf_that_nobody_checked_needs_a_wide_blur_of_certain_width(
    network: Copying, used: bool
) -> None:
    engine, raw = ScaledEngine(bundle(), network), blurred()
    form = PsfShape(tuple(np.exp(-PsfShape.CYCLES).tolist()))
    found = engine.refocus(raw, np.empty_like(raw), BlurEstimate(12.0, 0.15, "stack", form)).blur
    assert found is not None
    assert (found.source, found.shape) == (("stack", form) if used else ("frame", None))


def test_a_narrow_blur_that_somebody_stated_is_believed() -> None:
    raw = blurred(0.0)
    out = np.empty_like(raw)
    ScaledEngine(bundle(), Brightening(), BlurEstimate(1.2, 0.1, "optics")).refocus(raw, out)
    assert (out != raw).mean() > 0.9


def test_a_frame_in_focus_is_measured_once() -> None:
    network, raw = Copying(), blurred(0.0)
    out = np.empty_like(raw)
    ScaledEngine(bundle(), network).refocus(raw, out, BlurEstimate(1.5, 0.3, "frame"))
    np.testing.assert_array_equal(out, raw)
    assert len(network.seen) == 1


def test_where_frames_are_in_focus_a_part_tells_that_another_one_is() -> None:
    network = Copying()
    raw: Pixels = np.tile(blurred(0.0), (5, 5)).astype(np.uint16)
    out = np.zeros_like(raw)
    ScaledEngine(bundle(), network).refocus(raw, out, BlurEstimate(1.2, 0.2, "frames"))
    np.testing.assert_array_equal(out, raw)
    assert len(network.seen) == 1
    assert network.seen[0].size < raw.size


@pytest.mark.parametrize("off", [0.0, math.inf, math.nan])
def test_a_blur_that_is_not_finite_is_the_models_error(off: float) -> None:
    raw = blurred()
    with pytest.raises(EngineError, match="a blur that is not finite"):
        ScaledEngine(bundle(), Copying(off)).refocus(raw, np.empty_like(raw))


def test_light_is_neither_made_nor_lost_on_the_way() -> None:
    raw = blurred()
    out = np.empty_like(raw)
    ScaledEngine(bundle(), Copying()).refocus(raw, out, BlurEstimate(9.0, 0.2, "optics"))
    assert float(out.mean()) == pytest.approx(float(raw.mean()), rel=1e-3)


@pytest.mark.parametrize("blur", [None, BlurEstimate(0.6, 0.1, "frames")])
def test_what_needs_no_refocusing_passes_through(blur: BlurEstimate | None) -> None:
    raw = np.full((128, 128), 300, np.uint16) if blur is None else blurred(0.0)
    out = np.zeros_like(raw)
    ScaledEngine(bundle(), Copying()).refocus(raw, out, blur)
    np.testing.assert_array_equal(out, raw)


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (33, 35), (521, 697)])
def test_frames_of_any_size_come_back(shape: tuple[int, int]) -> None:
    raw = np.random.default_rng(0).integers(0, 4000, shape, dtype=np.uint16)
    out = np.zeros_like(raw)
    engine = ScaledEngine(bundle(), Copying())
    for sigma in (1.0, 5.0, 60.0):
        engine.refocus(raw, out, BlurEstimate(sigma, 0.1, "optics"))
        assert out.any()


def test_where_memory_runs_out_tiles_give_the_same_frame() -> None:
    raw = np.random.default_rng(0).integers(0, 4000, (1100, 1300), dtype=np.uint16)
    whole, tiled = np.empty_like(raw), np.empty_like(raw)
    blur = BlurEstimate(2.0, 0.1, "optics")
    ScaledEngine(bundle(), Copying()).refocus(raw, whole, blur)
    network = Copying(most_px=600 * 600)
    ScaledEngine(bundle(), network).refocus(raw, tiled, blur)
    np.testing.assert_array_equal(tiled, whole)
    assert len(network.seen) > 4
    with pytest.raises(EngineError, match="the memory ran out"):
        ScaledEngine(bundle(), Copying(most_px=100)).refocus(raw, tiled, blur)


def test_a_closed_engine_refuses_and_its_network_is_closed() -> None:
    network = Copying()
    engine = ScaledEngine(bundle(), network)
    engine.close()
    assert network.closed
    raw = blurred()
    with pytest.raises(EngineError, match="closed"):
        engine.refocus(raw, np.empty_like(raw))


def test_other_models_are_refused() -> None:
    with pytest.raises(EngineError, match="scale of the blur"):
        ScaledEngine(load_bundle("live-nuclei"), Copying())


def test_what_one_frame_tells_serves_the_next_of_its_stream() -> None:
    network = Copying(1.3)
    engine, blurs = ScaledEngine(bundle(), network), Blurs()
    raw = blurred()
    first = refocus_frame(
        engine, raw, np.empty_like(raw), untrusted="mark", stream=blurs.of("a z=1")
    )
    assert first.blur_source == "frame"
    assert blurs.of("a z=2").blur is None
    known = blurs.of("a z=1").known(raw, focus=0.0)
    assert known is not None
    assert known.sigma_px == first.blur_px
    assert first.blur_uncertainty is not None
    assert known.uncertainty > first.blur_uncertainty


def test_a_time_lapse_that_drifts_out_of_focus_is_measured_again() -> None:
    engine = build_engine("live-fluorescence", EngineOptions())
    blurs, specimen = Blurs(), Specimen()
    rng = np.random.default_rng(0)
    off = []
    for time in range(13):
        raw = np.ascontiguousarray(specimen.frame("DAPI", 2.0 * time, 10.0, rng)[:256, :256])
        out = np.empty_like(raw)
        alone = engine.refocus(raw, out).blur
        facts = refocus_frame(engine, raw, out, untrusted="mark", stream=blurs.of("a"))
        assert alone is not None
        assert facts.blur_px is not None
        off.append(abs(np.log(facts.blur_px / alone.sigma_px)))
    assert max(off) < 0.5
    assert np.median(off) < 0.15


def test_streams_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refocusd.worker.blurs.MOST_STREAMS", 3)
    blurs = Blurs()
    for name in "abcd":
        blurs.of(name).learn(BlurEstimate(5.0, 0.2, "frame"), 0.05)
    assert blurs.of("a").blur is None
    assert blurs.of("d").blur is not None
    blurs.of("d").learn(None, 0.05)
    assert blurs.of("d").blur is None


#: The optics of a plate reader: apodised and aberrated.
PLATE = Optics(0.51, 0.461, pixel_um=0.645, spherical_waves=-1.17, apodisation=0.39)


PLAIN = Optics(0.45, 0.461, pixel_um=0.645, spherical_waves=0.5, apodisation=0.3)


def field(
    optics: Optics, defocus_um: float, rows: slice, columns: slice
) -> tuple[Pixels, Floats, Pixels]:
    """A part of a blurred field: light from outside enters across its borders."""
    plane = Specimen().sharp("DAPI").astype(np.float64)
    psf = defocus_psf(optics, defocus_um)
    seen = fftconvolve(np.pad(plane, psf.shape[0] // 2, mode="wrap"), psf, mode="valid")
    light = np.random.default_rng(0).poisson(np.maximum(seen, 0.01)[rows, columns] * 40)
    raw = np.rint(light / 2 + 100).astype(np.uint16)
    truth = np.rint(plane[rows, columns] * 20 + 100).astype(np.uint16)
    return raw, psf, truth


@pytest.mark.parametrize("top", [0, 60, 111])
def test_objects_at_the_border_do_not_mislead_the_width(top: int) -> None:
    raw, psf, _ = field(PLAIN, 32.0, slice(top, top + 200), slice(40, 240))
    engine = build_engine("live-fluorescence", EngineOptions("openvino", "f32", threads=1))
    found = engine.refocus(raw, np.empty_like(raw)).blur
    assert found is not None
    assert found.sigma_px == pytest.approx(half_width_sigma(psf), rel=0.16)


@pytest.mark.parametrize("backend", ["openvino", "deconvolution"])
def test_the_form_of_the_psf_is_worth_more_than_its_width(backend: Backend, tmp_path: Path) -> None:
    raw, psf, truth = field(PLATE, 28.0, slice(0, 448), slice(0, 448))
    tifffile.imwrite(tmp_path / "psf.tif", psf)
    width_px = half_width_sigma(psf)
    assert width_px is not None
    stated = EngineOptions(backend, "f32", threads=1, blur_px=width_px)
    found = []
    for options in (stated, msgspec.structs.replace(stated, psf=str(tmp_path / "psf.tif"))):
        out = np.empty_like(raw)
        build_engine("live-fluorescence", options).refocus(raw, out)
        found.append(psnr(out, truth, affine=True))
    assert found[0] > psnr(raw, truth, affine=True) + 1.0
    assert found[1] > found[0] + 1.0


def test_hot_pixels_are_no_focus_and_no_spots() -> None:
    """A hot pixel is sharp: the network would find no blur, or turn it into a star."""
    raw, spoilt = blurred(), blurred()
    rng = np.random.default_rng(1)
    places = rng.integers(20, min(raw.shape) - 20, (2, 80))
    spoilt[tuple(places)] = 4000
    engine = build_engine("live-fluorescence", EngineOptions("openvino", "f32", threads=1))
    expected, out = np.empty_like(raw), np.empty_like(raw)
    before, found = engine.refocus(raw, expected).blur, engine.refocus(spoilt, out).blur
    assert before is not None
    assert found is not None
    assert found.sigma_px == pytest.approx(before.sigma_px, rel=0.1)
    assert psnr(out, expected.astype(np.float32)) > 30


@pytest.fixture(scope="module")
def nucleus() -> tuple[Pixels, Pixels, list[int]]:
    folder = os.environ.get("REFOCUSD_TEST_DATA")
    path = Path(folder or "", "z_stacks", "neubias_dna_widefield_confocal.tif")
    if not folder or not path.exists():
        pytest.skip("needs the real stacks: set REFOCUSD_TEST_DATA")
    planes = np.ascontiguousarray(tifffile.imread(path)[:, 1])
    return planes, planes[19], [3, 7, 11, 27, 31, 35]


def test_real_planes_out_of_focus_gain(nucleus: tuple[Pixels, Pixels, list[int]]) -> None:
    planes, truth, chosen = nucleus
    engine = build_engine("live-fluorescence", EngineOptions("openvino", "f32", threads=1))
    gains = []
    for plane in chosen:
        raw = planes[plane]
        out = np.empty_like(raw)
        refocus_frame(engine, raw, out)
        gains.append(psnr(out, truth, affine=True) - psnr(raw, truth, affine=True))
    assert min(gains) > 0.5
    assert float(np.mean(gains)) > 1.5
