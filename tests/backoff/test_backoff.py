"""Waits between attempts grow up to a limit, vary, and start over after a success."""

from __future__ import annotations

import errno
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refocusd.backoff import BackOff, may_pass
from refocusd.errors import InputError


@given(st.floats(0.01, 10.0), st.floats(1.0, 100.0), st.integers(1, 2000))
def test_waits_double_to_their_limit_and_start_again(
    first: float, times: float, tries: int
) -> None:
    back_off = BackOff(first, first * times)
    whole = first
    for _ in range(tries):
        assert whole / 2 <= back_off.take_s() <= whole
        whole = min(2 * whole, first * times)
    back_off.reset()
    assert back_off.take_s() <= first


def test_two_processes_do_not_return_at_the_same_moment() -> None:
    one, other = (BackOff(0.5, 30.0, jitter=random.Random(seed)) for seed in (1, 2))
    waits = [back_off.take_s() for _ in range(50) for back_off in (one, other)]
    assert len(set(waits)) == 100


def test_an_attempt_that_lasted_makes_the_next_wait_short() -> None:
    back_off = BackOff(0.5, 30.0, healthy_s=10.0)
    for _ in range(10):
        back_off.take_s(lasted_s=9.0)
    assert back_off.take_s(lasted_s=11.0) <= 0.5


def test_the_next_wait_can_be_limited() -> None:
    back_off = BackOff(0.1, 30.0)
    for _ in range(20):
        back_off.take_s()
    back_off.limit(2.0)
    assert back_off.take_s() <= 2.0


@pytest.mark.parametrize(
    ("winerror", "number", "passes"),
    [
        (32, errno.EACCES, True),
        (1450, errno.EINVAL, True),
        (2, errno.ENOENT, False),
        (112, errno.ENOSPC, False),
        # As `open` reports it there.
        (None, errno.EACCES, True),
        (None, errno.EINVAL, False),
    ],
)
def test_a_file_that_is_held_on_windows_is_read_again(
    winerror: int | None, number: int, passes: bool
) -> None:
    held = OSError(number, "what Windows says")
    held.winerror = winerror  # type: ignore[attr-defined, unused-ignore]
    error = InputError("frame 3 cannot be read")
    error.__cause__ = held
    assert may_pass(error) is passes


@pytest.mark.skipif(os.name == "nt", reason="there the same error may pass")
def test_elsewhere_what_is_not_permitted_is_not_tried_again() -> None:
    assert not may_pass(PermissionError(errno.EACCES, "Permission denied"))
