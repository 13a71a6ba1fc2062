"""Verdicts: what is passed through, what is trusted, and why not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from refocusd_training.trust.pictures import brightfield, checkerboard
from scipy.ndimage import gaussian_filter, zoom

from benchmarks.quality.empty_fields import EMPTY, Empty, empty_field
from refocusd.demo.specimen import Specimen
from refocusd.engines.deconvolution import DeconvolutionEngine
from refocusd.engines.verdict import (
    ERROR_FEATURES,
    Judgement,
    Logistic,
    error_features,
    shipped_judge,
)
from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate
from refocusd.imaging.field_evidence import LOOKS, examine_field
from refocusd.imaging.pair_evidence import PairEvidence, examine_pair

pytestmark = pytest.mark.fast


def frame_of_nuclei(defocus_um: float, seed: int = 0) -> Pixels:
    specimen = Specimen()
    z_um = specimen.focus.at() + defocus_um
    return specimen.frame("DAPI", z_um, 10.0, np.random.default_rng(seed))


def said_of_raw(raw: Pixels) -> Judgement | None:
    return shipped_judge().nothing_to_refocus(examine_field(raw))


def said_of_pair(raw: Pixels, out: Pixels, blur: BlurEstimate | None) -> Judgement:
    field = examine_field(raw)
    assert field is not None
    return shipped_judge().of_pair(field, examine_pair(field, raw, out, blur))


@pytest.mark.parametrize("kind", EMPTY)
def test_empty_fields_pass_through_as_empty(kind: Empty) -> None:
    rng = np.random.default_rng(7)
    for _ in range(4):
        said = said_of_raw(empty_field(kind, rng))
        assert said is not None
        assert said.verdict == "passed_through"
        assert said.reasons[0].startswith("empty field: structures of")


@pytest.mark.parametrize("defocus_um", [0.0, 8.0, 24.0])
def test_nuclei_are_something_to_refocus(defocus_um: float) -> None:
    assert said_of_raw(frame_of_nuclei(defocus_um)) is None


@pytest.mark.parametrize("draw", [brightfield, checkerboard])
def test_most_pictures_of_something_else_pass_through(draw: object) -> None:
    rng = np.random.default_rng(3)
    said = [said_of_raw(draw(rng)[0]) for _ in range(8)]  # type: ignore[operator]
    told = [one for one in said if one is not None]
    assert len(told) >= 6
    assert all(one.verdict == "passed_through" for one in told)
    assert any("not fluorescence" in one.reasons[0] for one in told)


def test_frames_too_small_pass_through() -> None:
    assert said_of_raw(np.zeros((16, 16), np.uint16)) == Judgement(
        "passed_through", ("too small to judge",)
    )


def test_a_tenth_of_clipped_pixels_is_never_trusted() -> None:
    raw = frame_of_nuclei(12.0)
    np.minimum(raw, np.uint16(np.percentile(raw, 90)), out=raw)
    out = np.empty_like(raw)
    blur = DeconvolutionEngine().refocus(raw, out).blur
    said = said_of_pair(raw, out, blur)
    assert said.verdict == "untrusted"
    assert "10% of the pixels are clipped" in said.reasons


def certain(chance: float) -> Logistic:
    """A score that gives every frame this probability."""
    first, logit = np.array([0], np.intp), math.log(chance / (1 - chance))
    return Logistic(np.zeros(1), np.ones(1), np.zeros(2), logit, first)


@pytest.mark.parametrize(
    ("clipped", "error", "worse", "verdict", "reason"),
    [
        (0.0, 0.1, 0.01, "trusted", ""),
        (0.0, 0.9, 0.01, "doubtful", "likely wrong (90%), but raw is likely even further"),
        (0.0, 0.9, 0.2, "untrusted", "became worse than raw in 20% of the tests"),
        (0.0, 0.1, 0.1, "trusted", ""),
        (0.0, 0.1, 0.2, "untrusted", "became worse than raw in 20% of the tests"),
        (0.1, 0.1, 0.1, "untrusted", "became worse than raw in 10% of the tests"),
        (0.1, 0.1, 0.01, "doubtful", "10% of the pixels are clipped"),
        (0.3, 0.1, 0.01, "untrusted", "30% of the pixels are clipped"),
    ],
)
def test_a_result_that_is_better_than_raw_is_written_but_not_trusted(
    clipped: float, error: float, worse: float, verdict: str, reason: str
) -> None:
    raw = frame_of_nuclei(12.0)
    if clipped:
        np.minimum(raw, np.uint16(np.percentile(raw, 100 * (1 - clipped))), out=raw)
    out = np.empty_like(raw)
    found = DeconvolutionEngine().refocus(raw, out)
    field = examine_field(raw)
    assert field is not None
    pair = replace(examine_pair(field, raw, out, found.blur), worst_flux=0.0, unexplained=0.0)
    judge = replace(shipped_judge(), error=certain(error), worse=certain(worse))
    said = judge.of_pair(field, pair)
    assert said.verdict == verdict
    assert any(reason in each for each in said.reasons) or not reason
    assert judge.likely_wrong(said) == (verdict == "untrusted" or error > judge.untrusted)
    # An impossible result stays untrusted, whatever the statistics say.
    assert judge.of_pair(field, replace(pair, unexplained=0.3)).verdict == "untrusted"


def test_a_frame_of_interpolated_pixels_is_not_trusted_and_says_why() -> None:
    raw = frame_of_nuclei(12.0)
    raw = np.rint(zoom(raw[:174, :174].astype(np.float32), 4, order=1)).astype(np.uint16)
    out = np.empty_like(raw)
    blur = DeconvolutionEngine().refocus(raw, out).blur
    said = said_of_pair(raw, out, blur)
    assert said.verdict in ("doubtful", "untrusted")
    assert "its pixels were interpolated, smoothed or compressed" in said.reasons


@pytest.mark.parametrize(
    ("blur_px", "smoothness", "processed"),
    [(1.9, 3.0, False), (1.9, 7.0, True), (6.0, 1.7, False), (6.0, 2.0, True)],
)
def test_details_of_a_slight_blur_are_not_mistaken_for_smoothed_noise(
    blur_px: float, smoothness: float, processed: bool
) -> None:
    raw = frame_of_nuclei(12.0)
    out = np.empty_like(raw)
    DeconvolutionEngine().refocus(raw, out)
    field = examine_field(raw)
    assert field is not None
    pair = examine_pair(field, raw, out, BlurEstimate(blur_px, 0.1, "frame"))
    said = shipped_judge().of_pair(replace(field, smoothness=smoothness), pair)
    reason = "its pixels were interpolated, smoothed or compressed"
    assert (reason in said.reasons) == processed
    assert said.verdict != "trusted" or not processed


def test_objects_that_raw_does_not_hold_are_not_trusted() -> None:
    raw = frame_of_nuclei(12.0)
    out = np.empty_like(raw)
    blur = DeconvolutionEngine().refocus(raw, out).blur
    rng = np.random.default_rng(0)
    light = np.zeros(raw.shape)
    light[rng.integers(0, raw.shape[0], 40), rng.integers(0, raw.shape[1], 40)] = 1
    blobs = gaussian_filter(light, 6)
    invented: NDArray[np.float64] = out + blobs / blobs.max() * (int(out.max()) - int(out.min()))
    clean = said_of_pair(raw, out, blur)
    wrong = said_of_pair(raw, np.rint(invented).astype(np.uint16), blur)
    assert clean.error_chance is not None
    assert wrong.error_chance is not None
    assert wrong.error_chance > clean.error_chance
    assert wrong.verdict != "trusted"
    assert any("left unexplained" in reason for reason in wrong.reasons)


def test_a_blurred_frame_that_comes_back_as_it_was_is_not_in_focus() -> None:
    raw = frame_of_nuclei(16.0)
    blur = BlurEstimate(9.0, 0.2, "frame")
    field = examine_field(raw)
    assert field is not None
    pair = examine_pair(field, raw, raw, blur)
    assert not shipped_judge().in_focus(pair)
    said = shipped_judge().of_pair(field, pair)
    assert said.verdict == "untrusted"
    assert any("found nothing to sharpen" in reason for reason in said.reasons)
    narrow = examine_pair(field, raw, raw, BlurEstimate(1.1, 0.2, "frame"))
    assert shipped_judge().in_focus(narrow)


def test_a_verdict_that_is_not_trusted_always_says_why() -> None:
    raw = frame_of_nuclei(20.0)
    judge = replace(shipped_judge(), doubtful=0.0, untrusted=2.0)
    field = examine_field(raw)
    assert field is not None
    said = judge.of_pair(field, examine_pair(field, raw, raw, None))
    assert said.verdict == "doubtful"
    assert said.reasons


def test_the_shipped_thresholds_fit_the_features() -> None:
    judge = shipped_judge()
    assert judge.looks.weights.shape == (2 * len(LOOKS),)
    places = judge.error.places
    assert places is not None
    assert len(ERROR_FEATURES) > places.max()
    assert judge.error.weights.shape == (2 * len(places),)
    assert 0 < judge.doubtful < judge.untrusted < 1
    assert judge.strange < judge.foreign
    raw = frame_of_nuclei(8.0)
    field = examine_field(raw)
    assert field is not None
    pair: PairEvidence = examine_pair(field, raw, raw, None)
    features = error_features(field, pair, 0.0)
    assert features.shape == (len(ERROR_FEATURES),)
    assert np.isfinite(features).all()
