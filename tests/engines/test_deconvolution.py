"""The engine without a network: never worse than raw, and honest about the blur."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile

from refocusd.config import EngineOptions, Settings
from refocusd.demo.specimen import Specimen
from refocusd.engines.choose import build_engine
from refocusd.engines.deconvolution import DeconvolutionEngine
from refocusd.frame import Pixels
from refocusd.imaging.quality import best_focus, focus_score, psnr
from refocusd.transport.messages import FrameFacts
from refocusd.worker.refocus import refocus_frame


def written(raw: Pixels) -> tuple[Pixels, FrameFacts]:
    out = np.empty_like(raw)
    return out, refocus_frame(DeconvolutionEngine(), raw, out)


def test_it_is_built_without_a_bundle() -> None:
    engine = build_engine("no such model", EngineOptions(backend="deconvolution"))
    assert engine.description.backend == "deconvolution"
    assert Settings(backend="deconvolution", channel_models={"GFP": "x"}).models == {
        "": "live-fluorescence"
    }


def test_the_facts_of_a_frame_tell_its_blur() -> None:
    raw = Specimen().frame("DAPI", 16.0, 10.0, np.random.default_rng(0))
    _, facts = written(raw)
    assert facts.verdict in ("trusted", "doubtful")
    assert facts.blur_source == "frame"
    assert facts.blur_px is not None
    assert 2 < facts.blur_px < 15
    assert facts.blur_uncertainty is not None
    assert 0 < facts.blur_uncertainty < 1


def test_facts_of_a_worker_that_tells_no_blur_are_still_read() -> None:
    facts = written(np.full((64, 64), 100, np.uint16))[1]
    told = msgspec.to_builtins(facts)
    for name in ("blur_px", "blur_uncertainty", "blur_source"):
        del told[name]
    assert msgspec.convert(told, FrameFacts).blur_px is None


def test_a_frame_in_focus_passes_through_unchanged() -> None:
    raw = Specimen().frame("DAPI", 0.0, 10.0, np.random.default_rng(0))
    out, facts = written(raw)
    np.testing.assert_array_equal(out, raw)
    assert facts.verdict == "passed_through"


@pytest.mark.parametrize(
    "raw",
    [
        np.zeros((64, 64), np.uint16),
        np.full((520, 696), 65535, np.uint16),
        np.random.default_rng(0).poisson(3, (300, 300)).astype(np.uint8),
    ],
    ids=["empty", "saturated", "noise"],
)
def test_what_tells_nothing_passes_through(raw: Pixels) -> None:
    out, facts = written(raw)
    np.testing.assert_array_equal(out, raw)
    assert facts.blur_px is None


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (31, 400)])
def test_frames_too_small_to_tell_pass_through(shape: tuple[int, int]) -> None:
    raw = np.random.default_rng(0).integers(0, 4000, shape, dtype=np.uint16)
    out = np.empty_like(raw)
    assert DeconvolutionEngine().refocus(raw, out).blur is None
    np.testing.assert_array_equal(out, raw)


def test_a_frame_that_is_half_clipped_stays_within_the_scale() -> None:
    raw = Specimen().frame("DAPI", 16.0, 10.0, np.random.default_rng(0))
    out, _ = written(np.minimum(raw, np.uint16(np.percentile(raw, 60))))
    assert out.dtype == np.uint16


@pytest.fixture(scope="module")
def nucleus() -> Pixels:
    """Give the planes of a real nucleus through focus, widefield."""
    folder = os.environ.get("REFOCUSD_TEST_DATA")
    if not folder:
        pytest.skip("REFOCUSD_TEST_DATA is not set: no real images to test with")
    both = tifffile.imread(Path(folder) / "z_stacks" / "neubias_dna_widefield_confocal.tif")
    return np.ascontiguousarray(both[:, 1])


def test_no_real_plane_is_worse_than_raw_and_those_far_from_focus_gain(nucleus: Pixels) -> None:
    sharpest = best_focus([focus_score(plane) for plane in nucleus])
    truth = nucleus[sharpest]
    gains = {}
    for plane in range(0, len(nucleus), 2):
        if plane != sharpest:
            raw = nucleus[plane]
            gains[plane] = psnr(written(raw)[0], truth, affine=True) - psnr(raw, truth, affine=True)
    assert min(gains.values()) > -0.1
    far = [gain for plane, gain in gains.items() if abs(plane - sharpest) > 12]
    assert min(far) > 1.0
