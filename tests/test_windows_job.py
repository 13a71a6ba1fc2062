"""The Windows job fails for faults of the product, but not for those of Wine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a job for Linux")

ATTEMPT = Path(__file__).parents[1] / ".ci" / "attempt.sh"
AGAIN = "echo windows: once more, alone:; "
ASSERTION = "echo 'FAILED tests/a.py::b - assert 1 == 2'; "
DIED = "echo 'FAILED tests/a.py::c'; "
LATE = "echo 'FAILED tests/a.py::d - AssertionError: the end: not within 100 s'; "


def attempt(script: str, tmp_path: Path, limit_s: int = 60) -> tuple[int, str]:
    """Run a job with one step; returns exit status and output."""
    job = 'set -euo pipefail; limit=$1 least=0 log=$2; clear_up() { :; }; . "$3"; attempt step bash -c "$4"'
    done = subprocess.run(
        ["bash", "-c", job, "job", str(limit_s), str(tmp_path / "log"), str(ATTEMPT), script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_step_that_passes_is_reported(tmp_path: Path) -> None:
    status, said = attempt("echo fine", tmp_path)
    assert status == 0
    assert "fine" in said
    assert "windows: step: passed" in said


@pytest.mark.parametrize(
    "script",
    [
        "echo Traceback; exit 1",
        "exit 3",
        f"{AGAIN}{ASSERTION}exit 1",
        f"echo 'wine: Unhandled page fault'; {AGAIN}{DIED}{LATE}{ASSERTION}exit 1",
    ],
)
def test_a_fault_of_the_product_fails(script: str, tmp_path: Path) -> None:
    status, said = attempt(script, tmp_path)
    assert status == 1
    assert "skipped" not in said


@pytest.mark.parametrize(
    "script",
    [
        "echo 'wine: Unhandled page fault on read access'; exit 5",
        "echo 'refocusd: error: no worker was ready within 120 s'; exit 2",
        "exit 75",
        f"{ASSERTION}{AGAIN}{DIED}{LATE}exit 1",
    ],
)
def test_what_may_be_wines_is_tried_twice_and_skipped_with_its_reason(
    script: str, tmp_path: Path
) -> None:
    status, said = attempt(script, tmp_path)
    assert status == 0
    assert said.count("for a reason that may be Wine's") == 2
    assert "windows: skipped: step: " in said


def test_what_passes_the_second_time_has_passed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    crash = f"[ -e {mark} ] && exit; touch {mark}; echo wine: Unhandled exception; exit 1"
    status, said = attempt(crash, tmp_path)
    assert status == 0
    assert "windows: step: passed" in said
    assert "skipped" not in said


def test_a_step_that_hangs_ends_with_the_time_of_the_job(tmp_path: Path) -> None:
    status, said = attempt("sleep 90", tmp_path, limit_s=2)
    assert status == 0
    assert "skipped: step: not done within the 2 s" in said
