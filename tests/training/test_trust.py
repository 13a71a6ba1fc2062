"""What frames are judged by is fitted, measured and written."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refocusd_training.trust.examples import Example, Outcome
from refocusd_training.trust.fit import (
    BOUND,
    auroc,
    chances,
    fit_judge,
    logistic,
    reliability,
    write_judge,
)

from refocusd.demo.specimen import Specimen
from refocusd.engines.verdict import ERROR_FEATURES
from refocusd.imaging.field_evidence import LOOKS, FieldEvidence, examine_field
from refocusd.imaging.pair_evidence import examine_pair

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


def test_a_judge_learns_from_examples_and_is_written_as_it_is_read(
    field: FieldEvidence, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    specimen = Specimen()
    raw = specimen.frame("DAPI", specimen.focus.at() + 8, 10.0, rng)
    pair = examine_pair(field, raw, raw, None)
    examples = []
    for _ in range(120):
        wrong = rng.random() < 0.4
        odd = replace(pair, unexplained=float(rng.uniform(0.1, 0.5) if wrong else 0.002))
        error = BOUND * (2.0 if wrong else 0.5)
        looks = field.looks + rng.normal(0, 0.1, len(LOOKS)).astype(np.float32)
        own = replace(field, looks=looks)
        examples.append(Example(4.0, False, own, 3 * BOUND, {"engine": Outcome(odd, error)}))
    others = {"photographs": field.looks + rng.normal(3, 0.1, (40, len(LOOKS))).astype(np.float32)}
    judge = fit_judge(examples, others)
    chance, wrong_ones = chances(judge, examples, "engine")
    assert auroc(chance, wrong_ones) > 0.99
    assert judge.strange < judge.foreign
    path = tmp_path / "verdict.toml"
    write_judge(judge, reliability(chance, wrong_ones), path)
    told = tomllib.loads(path.read_text())
    assert len(told["error"]["weights"]) == 2 * len(ERROR_FEATURES)
    assert len(told["looks"]["mean"]) == len(LOOKS)
    assert told["limits"]["bound"] == BOUND
    assert sum(row["frames"] for row in told["reliability"]) == 120
