"""The statistics that frames are judged by are fitted, measured and written."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from refocusd_training.trust.examples import Example, Outcome
from refocusd_training.trust.fit import (
    BOUND,
    Looks,
    auroc,
    calibrated,
    chances,
    coverage,
    figures,
    fit_judge,
    fit_looks,
    graded,
    judge_text,
    logistic,
    reliability,
)
from refocusd_training.trust.put import put_into_bundle

from refocusd.demo.specimen import Specimen
from refocusd.engines import verdict
from refocusd.engines.engine import EngineDescription
from refocusd.engines.verdict import Interval, judge_of, shipped_judge
from refocusd.errors import BundleError, InputError
from refocusd.imaging.blur import BlurEstimate
from refocusd.imaging.field_evidence import LOOKS, FieldEvidence, examine_field
from refocusd.imaging.pair_evidence import examine_pair
from refocusd.models.bundle import load_bundle
from refocusd.models.library import find_bundle

pytestmark = pytest.mark.fast


def test_a_quadratic_logistic_score_tells_a_ring_from_its_inside() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (2000, 2))
    outside = np.hypot(*rows.T) > 1.2
    fitted = logistic(rows, outside, ridge=0.1)
    scores = np.array([fitted.score(row) for row in rows])
    assert auroc(scores, outside.astype(float)) > 0.98
    assert 0 <= fitted.chance(rows[0]) <= 1
    assert fitted.chance(np.array([1e9, -1e9])) <= 1


def test_frames_near_the_bound_are_distinguished_by_how_far_they_are_from_it() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (1000, 6))
    true = 0.4 * rows[:, 0] - 0.2 * rows[:, 1]
    margins = true + rng.normal(0, 0.3, 1000)
    fitted = graded(rows[:500], margins[:500], ridge=20.0)
    chance = np.array([fitted.chance(row) for row in rows[500:]])
    wrong = (margins[500:] > 0).astype(float)
    assert auroc(chance, wrong) > auroc(true[500:], wrong) - 0.01
    for row in reliability(chance, wrong):
        if row.frames > 40:
            assert row.low - 0.1 < row.wrong < row.high + 0.1


def test_auroc_is_that_of_mann_and_whitney() -> None:
    assert auroc(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 0.0, 1.0, 1.0])) == 1
    assert auroc(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == 0.5
    assert np.isnan(auroc(np.array([1.0]), np.array([1.0])))


def test_reliability_counts_every_frame_once() -> None:
    chance = np.linspace(0, 1, 101)
    curve = reliability(chance, (chance > 0.5).astype(float))
    assert sum(row.frames for row in curve) == 101
    assert curve[0].wrong == 0
    assert curve[-1].wrong == 1


@pytest.fixture(scope="module")
def field() -> FieldEvidence:
    """Give the evidence of one frame of nuclei."""
    specimen = Specimen()
    raw = specimen.frame("DAPI", specimen.focus.at() + 8, 10.0, np.random.default_rng(0))
    found = examine_field(raw)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def examples(field: FieldEvidence) -> list[Example]:
    """Give frames, of which those that leave much of raw unexplained are wrong."""
    rng = np.random.default_rng(1)
    specimen = Specimen()
    raw = specimen.frame("DAPI", specimen.focus.at() + 8, 10.0, rng)
    blur = BlurEstimate(6.0, 0.2, "frame")
    pair = replace(examine_pair(field, raw, raw, blur), kept=0.5, sharpened=1.0)
    found = []
    for _ in range(200):
        wrong = rng.random() < 0.4
        odd = replace(pair, unexplained=float(rng.uniform(0.1, 0.5) if wrong else 0.002))
        looks = field.looks + rng.normal(0, 0.1, len(LOOKS)).astype(np.float32)
        light = rng.uniform(0, 400, 100).astype(np.float32)
        off = np.abs(rng.normal(0, 3 + 0.1 * light)).astype(np.float32)
        outcome = Outcome(odd, BOUND * (2.0 if wrong else 0.5), off, light)
        own = replace(field, looks=looks)
        found.append(Example(4.0, False, own, 3 * BOUND, {"engine": outcome}))
    return found


@pytest.fixture(scope="module")
def looks(field: FieldEvidence, examples: list[Example]) -> Looks:
    rng = np.random.default_rng(2)
    strange = field.looks + rng.normal(3, 0.1, (40, len(LOOKS)))
    return fit_looks(examples, {"photographs": strange.astype(np.float32)})


def test_a_judge_learns_from_examples_and_is_read_as_it_was_written(
    examples: list[Example], looks: Looks, tmp_path: Path
) -> None:
    judge = fit_judge(examples, looks)
    chance, wrong = chances(judge, examples, "engine")
    assert len(chance) >= 0.98 * len(examples)
    assert auroc(chance, wrong) > 0.99
    assert judge.strange < judge.foreign
    path = tmp_path / "verdict.toml"
    told = figures(judge, examples, "engine")
    path.write_text(judge_text(judge, reliability(chance, wrong), told))
    assert tomllib.loads(path.read_text())["held_out"]["auroc"] == told["auroc"] > 0.99
    read = judge_of(path)
    np.testing.assert_allclose(read.error.weights, judge.error.weights, rtol=1e-4)
    assert read.interval.of(10.0, 8.0) == pytest.approx(judge.interval.of(10.0, 8.0), rel=1e-3)
    assert tomllib.loads(path.read_text())["reliability"][0]["wrong"] == 0


def test_frames_that_became_worse_than_raw_are_learnt_apart(
    examples: list[Example], looks: Looks, tmp_path: Path
) -> None:
    """Wrong and worse differ: if raw is even further from the truth, writing raw does not help."""
    rng = np.random.default_rng(3)
    own = []
    for example in examples:
        outcome = example.outcomes["engine"]
        worse = rng.random() < 0.2
        pair = replace(outcome.pair, fine=1.0 if worse else 0.01)
        raw_error = outcome.error * (0.7 if worse else 1.4)
        own.append(
            replace(example, raw_error=raw_error, outcomes={"engine": replace(outcome, pair=pair)})
        )
    judge = fit_judge(own, looks)
    told = figures(judge, own, "engine")
    assert told["auroc_worse"] > 0.99
    assert told["worse_if_not_untrusted"] < 0.1 * told["worse"]
    path = tmp_path / "verdict.toml"
    path.write_text(judge_text(judge, []))
    read = judge_of(path)
    assert read.worse is not None
    assert judge.worse is not None
    np.testing.assert_allclose(read.worse.weights, judge.worse.weights, rtol=1e-4)
    assert read.most_worse == judge.most_worse
    # None of the others is worse.
    assert fit_judge(examples, looks).worse is None


def test_intervals_are_scaled_until_they_hold_nine_tenths_of_the_pixels_of_other_frames(
    examples: list[Example], looks: Looks
) -> None:
    judge = fit_judge(examples[:100], looks)
    wide = replace(judge, interval=Interval((9.0,) * 4, (9.0,) * 4))
    assert coverage(wide, examples[100:], "engine")["intervals_hold"] > 0.99
    told = calibrated(wide, examples[100:150])
    held = coverage(told, examples[150:], "engine")
    assert held["intervals_hold"] == pytest.approx(0.9, abs=0.02)
    # No frame has a width near this one.
    near = {name for name in held if name.startswith("intervals_hold_at")}
    assert len(near) == 1
    assert held[near.pop()] == held["intervals_hold"]
    _, share = calibrated(judge, examples[100:150]).interval.of(1.0, 6.0)
    assert share == pytest.approx(0.165, rel=0.3), (
        "1.645 standard deviations of a tenth of the light"
    )


def test_frames_that_pass_through_teach_nothing_of_errors(
    examples: list[Example], looks: Looks
) -> None:
    in_focus = [
        replace(
            e,
            outcomes={
                "engine": replace(o, pair=replace(o.pair, kept=1.0, stated_px=1.0, sharpened=0))
            },
        )
        for e in examples
        for o in e.outcomes.values()
    ]
    with pytest.raises(InputError, match="0 refocused frames, of which 0 are wrong"):
        fit_judge(in_focus, looks)


def test_a_verdict_is_put_into_a_bundle_and_its_engine_is_judged_by_it(
    examples: list[Example], looks: Looks, tmp_path: Path
) -> None:
    bundle = tmp_path / "model"
    shutil.copytree(find_bundle("live-fluorescence"), bundle)
    text = judge_text(replace(fit_judge(examples, looks), doubtful=0.125), [])
    for _ in range(2):  # the second time, it is replaced
        assert put_into_bundle(bundle, text) == bundle / "verdict.toml"
    loaded = load_bundle(bundle)
    engine = EngineDescription.of_bundle(loaded, "openvino", "f32", "CPU", "runtime")
    assert judge_of(engine.verdict).doubtful == 0.125
    assert judge_of(EngineDescription("identity", "", "", "", "", "").verdict) is shipped_judge()
    with pytest.raises(BundleError, match="no model bundle"):
        put_into_bundle(tmp_path, text)


def test_a_verdict_that_was_fitted_on_fewer_features_is_still_read(tmp_path: Path) -> None:
    shipped = judge_of(find_bundle("live-fluorescence") / "verdict.toml")
    older = tmp_path / "older.toml"
    shutil.copy(find_bundle("live-fluorescence") / "verdict.toml", older)
    known = verdict.ERROR_FEATURES
    with mock.patch.object(verdict, "ERROR_FEATURES", (*known[:2], "a new one", *known[2:])):
        read = judge_of(older)
    row = np.random.default_rng(0).normal(0, 1, len(known))
    assert read.error.score(np.insert(row, 2, 7.0)) == shipped.error.score(row)


def test_a_verdict_of_other_features_is_left_aside_and_a_damaged_one_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = find_bundle("live-fluorescence") / "verdict.toml"
    other, damaged = tmp_path / "other.toml", tmp_path / "damaged.toml"
    other.write_text(shipped.read_text().replace('"worst flux"', '"flux"'))
    assert judge_of(other) is shipped_judge()
    assert "was fitted for another version" in caplog.text
    damaged.write_text(shipped.read_text().replace("bias", "bypass"))
    with pytest.raises(BundleError, match=r"damaged.toml does not say how to judge frames"):
        judge_of(damaged)
