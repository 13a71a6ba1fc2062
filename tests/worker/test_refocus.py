"""One frame through an engine: what is written, depending on the settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks.quality.empty_fields import empty_field
from refocusd.config import Untrusted
from refocusd.demo.specimen import Specimen
from refocusd.engines.deconvolution import DeconvolutionEngine
from refocusd.engines.engine import EngineDescription, Refocused
from refocusd.engines.verdict import Logistic, judge_of
from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate, fused
from refocusd.imaging.normalise import counts_range
from refocusd.imaging.trust_map import AS_ACQUIRED, trust_shape
from refocusd.worker.blurs import Blurs
from refocusd.worker.refocus import refocus_frame

pytestmark = pytest.mark.fast


class Inventor:
    """An engine that returns something other than the frame, and counts its calls."""

    description = EngineDescription("openvino", "f32", "CPU", "inventor", "inventor", "")

    def __init__(self) -> None:
        self.frames = 0

    def warm_up(self, shape: tuple[int, int]) -> None: ...

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        self.frames += 1
        light = np.random.default_rng(0).random(raw.shape) < 2e-4
        spots = gaussian_filter(light.astype(np.float32), 5)
        np.copyto(out, (100 + 4000 * spots / spots.max()).astype(raw.dtype))
        return Refocused(counts_range(raw), 1.0, 0)

    def close(self) -> None: ...


def blurred() -> Pixels:
    specimen = Specimen()
    z_um = specimen.focus.at() + 8.0
    return specimen.frame("DAPI", z_um, 10.0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("untrusted", "written"),
    [("mark", "refocused"), ("pass", "raw"), ("deconvolve", "deconvolved"), ("skip", "nothing")],
)
def test_what_is_not_trusted_is_written_as_the_settings_say(
    untrusted: Untrusted, written: str
) -> None:
    raw = blurred()
    out = np.empty_like(raw)
    facts = refocus_frame(Inventor(), raw, out, untrusted=untrusted)
    assert facts.written == written
    assert facts.reasons
    if written in ("raw", "nothing"):
        np.testing.assert_array_equal(out, raw)
        assert facts.verdict == "untrusted"
    elif written == "deconvolved":
        expected = np.empty_like(raw)
        DeconvolutionEngine().refocus(raw, expected)
        np.testing.assert_array_equal(out, expected)
        assert facts.verdict == "doubtful"
        assert facts.blur_px is not None
    else:
        assert facts.verdict == "untrusted"
        assert (out != raw).mean() > 0.5


def test_what_is_likely_wrong_but_better_than_raw_is_written_without_an_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Raw would be further from the truth, but the counts of the result cannot be relied on."""
    shipped = judge_of(None)
    logit, first = 3.0, np.array([0], np.intp)
    likely, never = (
        Logistic(np.zeros(1), np.ones(1), np.zeros(2), sign * logit, first) for sign in (1, -1)
    )
    judge = replace(shipped, error=likely, worse=never)
    monkeypatch.setattr("refocusd.worker.refocus.judge_of", lambda _path: judge)
    monkeypatch.setattr("refocusd.worker.refocus.shipped_judge", lambda: judge)
    raw = blurred()
    out = np.empty_like(raw)
    trust = np.empty(trust_shape(raw.shape), np.uint8)
    facts = refocus_frame(DeconvolutionEngine(), raw, out, trust=trust)
    assert (facts.verdict, facts.written) == ("doubtful", "refocused")
    assert any("raw is likely even further" in reason for reason in facts.reasons)
    assert facts.interval_counts is None
    assert trust.min() >= 100 * judge.doubtful
    trusted = replace(judge, error=never)
    monkeypatch.setattr("refocusd.worker.refocus.judge_of", lambda _path: trusted)
    assert refocus_frame(DeconvolutionEngine(), raw, out).interval_counts is not None


def test_a_deconvolution_in_place_of_a_network_keeps_to_a_blur_that_is_known() -> None:
    raw = blurred()
    known = BlurEstimate(4.0, 0.05, "profile")
    out, expected = np.empty_like(raw), np.empty_like(raw)
    facts = refocus_frame(Inventor(), raw, out, stream=Blurs().of("nuclei", known))
    assert facts.written == "deconvolved"
    alone = DeconvolutionEngine().refocus(raw, expected).blur
    assert alone is not None
    assert facts.blur_px != alone.sigma_px
    blur = DeconvolutionEngine().refocus(raw, expected, fused(known, alone)).blur
    assert blur is not None
    assert facts.blur_px == blur.sigma_px
    np.testing.assert_array_equal(out, expected)


def test_an_empty_field_never_reaches_the_engine() -> None:
    raw = empty_field("dim blobs", np.random.default_rng(1))
    engine, out = Inventor(), np.empty_like(raw)
    trust = np.empty(trust_shape(raw.shape), np.uint8)
    facts = refocus_frame(engine, raw, out, trust=trust)
    assert (trust == AS_ACQUIRED).all()
    assert engine.frames == 0
    assert (facts.verdict, facts.written) == ("passed_through", "raw")
    assert facts.reasons[0].startswith("empty field")
    np.testing.assert_array_equal(out, raw)


def test_without_passing_through_an_empty_field_is_written_by_the_engine_only_if_marked() -> None:
    raw = empty_field("flat", np.random.default_rng(1))
    out = np.empty_like(raw)
    facts = refocus_frame(Inventor(), raw, out, pass_in_focus=False, untrusted="mark")
    assert facts.written == "refocused"
    assert facts.verdict == "untrusted"
    facts = refocus_frame(Inventor(), raw, out, pass_in_focus=False)
    assert facts.written == "raw"


def test_the_half_of_a_frame_that_is_in_focus_is_kept_to_the_last_bit() -> None:
    specimen = Specimen()
    near, far = (
        specimen.frame("DAPI", specimen.focus.at() + um, 10.0, np.random.default_rng(0))
        for um in (0.0, 14.0)
    )
    half = near.shape[1] // 2
    raw = np.where(np.arange(near.shape[1]) < half, near, far)
    out = np.empty_like(raw)
    trust = np.empty(trust_shape(raw.shape), np.uint8)
    facts = refocus_frame(DeconvolutionEngine(), raw, out, trust=trust)
    assert facts.written == "refocused"
    assert (trust[:, : half // 16 - 4] == AS_ACQUIRED).all()
    assert (trust[:, half // 16 + 6 :] <= 100).all()
    assert 0.3 < facts.kept_share < 0.7
    assert any("in focus already" in reason for reason in facts.reasons)
    np.testing.assert_array_equal(out[:, : half - 64], raw[:, : half - 64])
    changed = np.abs(out.astype(int) - raw)[:, half + 96 :]
    assert changed.mean() > 3
    # The border is blended: it has no step that is in neither raw nor the result.
    steps = np.abs(np.diff(out.astype(float), axis=1)).mean(axis=0)
    assert (
        steps[half - 70 : half + 70].max()
        < 3 * np.abs(np.diff(raw.astype(float), axis=1)).mean(axis=0)[half - 70 : half + 70].max()
    )
