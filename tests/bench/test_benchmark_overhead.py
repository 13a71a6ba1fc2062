"""The overhead benchmark runs on the real parts, and its statistics are right."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.overhead.acquisition import Condition
from benchmarks.overhead.goals import goals
from benchmarks.shared.statistics import Pair, percentiles, slow_down

ROOT = Path(__file__).resolve().parents[2]
#: The name of every number in the file must contain one of these words.
UNITS = {"ms", "s", "percent", "mib", "gib", "px", "frames", "count"}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All three parts, as small as possible, in a separate process: a core is one per process."""
    folder = tmp_path_factory.mktemp("overhead")
    file = folder / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "overhead"), "--quick"]
    command += ["--sides", "64", "--engines", "identity", "none", "--paces", "fastest"]
    command += ["--sinks", "disk", "--seconds", "0.2", "--frames", "40"]
    command += ["--disk", str(folder), "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    # Only the figures remain.
    assert [path.name for path in folder.iterdir()] == [file.name]
    return found


@pytest.mark.slow
def test_every_part_is_measured_and_no_frame_is_lost(figures: dict[str, Any]) -> None:
    hooked, alone = figures["acquisition"]
    assert (hooked["engine"], alone["engine"]) == ("identity", "none")
    assert hooked["frames_live"] + hooked["frames_caught_up"] == hooked["frames_acquired"] > 0
    assert alone["frames_live"] + alone["frames_caught_up"] == 0
    assert [row["way"] for row in figures["transport"]] == ["ring", "tcp"]
    (sustained,) = figures["sustained"]
    every = [*figures["acquisition"], *figures["transport"], sustained]
    assert sum(row["frames_unaccounted"] + row["frames_failed"] for row in every) == 0
    rates = [row[key] for row in every for key in row if key.endswith("frames_per_s")]
    assert len(rates) >= 2 * 2 + 2 * 3 + 2
    assert all(0 < rate < 1e5 for rate in np.hstack(rates))
    written = [row["overhead_p50_ms"] for row in (hooked, *figures["transport"])]
    assert all(0 < ms < 10_000 for ms in written)


@pytest.mark.slow
def test_bursts_alternate_between_hook_first_and_hook_last(figures: dict[str, Any]) -> None:
    for row in figures["acquisition"]:
        assert [pair["hook_first"] for pair in row["pairs"]] == [True, False]


@pytest.mark.slow
def test_every_number_has_its_unit_in_its_name(figures: dict[str, Any]) -> None:
    measured = {key: figures[key] for key in ("machine", "acquisition", "transport", "sustained")}
    names = set(_names_of_numbers("", measured))
    assert len(names) > 40
    assert {name for name in names if not UNITS & set(name.split("_"))} == set()


@pytest.mark.slow
def test_the_hardware_and_the_versions_are_named(figures: dict[str, Any]) -> None:
    machine = figures["machine"]
    assert machine["cpu_model"]
    assert machine["cores_logical_count"] >= 1
    assert machine["ram_gib"] > 0
    assert {"pycromanager", "pymmcore", "pyzmq"} <= machine["versions"].keys()


def test_a_constant_slow_down_is_found_exactly() -> None:
    found = slow_down([_pair(1.02 * t, t) for t in (1.0, 2.0, 3.0)])
    assert (found.low, found.mean, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_the_interval_is_that_of_student_on_the_logarithms() -> None:
    """By hand: logarithms 0 and 0.1 have mean and standard error 0.05; t(0.975, 1) = 12.706."""
    found = slow_down([_pair(1.0, 1.0), _pair(math.exp(0.1), 1.0)])
    assert found.mean == pytest.approx(100 * (math.exp(0.05) - 1))
    assert found.low == pytest.approx(100 * (math.exp(0.05 - 12.7062 * 0.05) - 1), rel=1e-4)
    assert found.high == pytest.approx(100 * (math.exp(0.05 + 12.7062 * 0.05) - 1), rel=1e-4)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        with_hook, without = 1.03 * np.exp(0.05 * rng.normal(size=8)), np.ones(8)
        found = slow_down([_pair(a, b) for a, b in zip(with_hook, without, strict=True)])
        covered += found.low <= 3.0 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_one_pair_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two or more"):
        slow_down([_pair(1.0, 1.0)])


def test_percentiles_of_nothing_are_none_not_zero() -> None:
    assert set(percentiles("overhead", []).values()) == {None}
    assert percentiles("overhead", [1.0, 3.0])["overhead_p50_ms"] == 2.0


def test_a_burst_fits_the_memory_whatever_the_frame_size() -> None:
    bursts = [Condition("identity", side, "fastest").burst_mib for side in (512, 2048, 8192)]
    assert max(bursts) <= 1024
    assert Condition("identity", 512, "paced").frames == 300


def test_a_goal_that_was_not_measured_is_not_met() -> None:
    row = {"side_px": 512, "pace": "paced", "engine": "identity", "frames_unaccounted": 1}
    row |= {"slow_down_high95_percent": 2.9, "overhead_p99_ms": None}
    met = {goal["goal"]: goal["met"] for goal in goals({"acquisition": [row]})}
    assert list(met.values()) == [True, False, False]


def _pair(with_hook_s: float, without_hook_s: float) -> Pair:
    return Pair(with_hook_s, without_hook_s, 0.0, 0.0, hook_first=True)


def _names_of_numbers(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _names_of_numbers(key, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names_of_numbers(name, inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name
