"""The direction of the defocus, derived from distances without a sign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import opened, pump_until, quick_settings, read_all, running, source
from msgspec.structs import replace

from refocusd.daemon.acquisitions.focus.monitor import FocusMonitor, stage_um
from refocusd.daemon.acquisitions.focus.tracker import FocusTracker
from refocusd.daemon.acquisitions.state import Acquisition
from refocusd.daemon.daemon import daemon_status
from refocusd.demo.specimen import Specimen
from refocusd.imaging.defocus import LIMIT_UM, DefocusEstimate
from refocusd.profiles.applied import Applied
from refocusd.profiles.catalogue import Selection
from refocusd.profiles.profile import Measured, Microscope, Profile, PsfSection
from refocusd.transport import messages as wire

DEPTH_UM = 3.7
SIGMA_UM = 0.8


def estimate(distance_um: float, relative: float = 0.03, **changes: Any) -> DefocusEstimate:
    values: dict[str, Any] = {
        "distance_um": min(distance_um, LIMIT_UM),
        "uncertainty_um": float(np.hypot(SIGMA_UM, relative * distance_um)),
        "confidence": 0.9,
        "relative": relative,
        "saturated": distance_um >= LIMIT_UM,
    }
    return DefocusEstimate(**(values | changes))


def looked_at(
    planes: list[float],
    focus_um: float,
    *,
    every_s: float = 1.0,
    seed: int | None = None,
    relative: float = 0.03,
    factor: float = 1.0,
) -> FocusTracker:
    """A tracker after frames at these stage positions, with the focus at `focus_um`."""
    tracker = FocusTracker(DEPTH_UM)
    rng = np.random.default_rng(seed)
    for number, z in enumerate(planes):
        noise = 0.0 if seed is None else rng.normal(0, SIGMA_UM)
        distance = abs(factor * abs(focus_um - z) + noise)
        tracker.add(number * every_s, z, estimate(distance, relative))
    return tracker


@given(
    focus_um=st.floats(-25, 25),
    step_um=st.floats(3, 8),
    up=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_a_stage_that_moves_shows_the_direction(
    focus_um: float, step_um: float, up: bool, seed: int
) -> None:
    step = step_um if up else -step_um
    tracker = looked_at([0.0] * 4 + [step] * 4 + [2 * step] * 4, focus_um, seed=seed)
    advice = tracker.advice
    assert advice is not None
    missing = focus_um - 2 * step
    # A side is only stated if it is right or the focus is nearly reached.
    if advice.direction_known and abs(missing) > 3 * SIGMA_UM:
        assert np.sign(advice.offset_um) == np.sign(missing)
        assert advice.offset_um == pytest.approx(missing, abs=4 * advice.uncertainty_um)
    elif abs(missing) > 6:
        pytest.fail(f"{missing:.1f} um away, and no direction: {advice.text}")


@given(distance_um=st.floats(2, 30), seed=st.integers(0, 10_000), frames=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_stage_that_stands_still_shows_no_direction(
    distance_um: float, seed: int, frames: int
) -> None:
    advice = looked_at([5.0] * frames, 5.0 + distance_um, seed=seed).advice
    assert advice is not None
    assert not advice.direction_known
    assert advice.offset_um >= 0
    if not advice.in_focus:
        assert "moving the stage will show on which side" in advice.text


@pytest.mark.parametrize("side", [-1.0, 1.0], ids=["below", "above"])
def test_both_sides_are_told_apart_in_the_same_words(side: float) -> None:
    advice = looked_at([0.0, 0.0, side * 3.0, side * 3.0], side * 10.0).advice
    assert advice is not None
    assert advice.direction_known
    assert advice.offset_um == pytest.approx(side * 7.0, abs=0.7)
    assert f"move the stage by {side * 7:+.0f}"[:-1] in advice.text


def test_a_common_factor_of_assumed_optics_does_not_mislead() -> None:
    """All distances are 25 % too long: the direction is right, and the uncertainty covers this."""
    advice = looked_at([0.0] * 3 + [4.0] * 3, -9.0, relative=0.2, factor=1.25).advice
    assert advice is not None
    assert advice.direction_known
    assert advice.offset_um == pytest.approx(-13.0, abs=2 * advice.uncertainty_um)


def test_without_a_known_stage_position_no_direction_is_claimed() -> None:
    tracker = FocusTracker(DEPTH_UM)
    for number in range(20):
        advice = tracker.add(number, None, estimate(12.0 - 0.3 * number))
    assert advice is not None
    assert not advice.direction_known
    assert advice.stage_um is None


def test_one_wild_estimate_changes_little() -> None:
    tracker = looked_at([0.0] * 4 + [3.0] * 4, 12.0)
    before = tracker.advice
    after = tracker.add(9.0, 3.0, estimate(30.0))
    assert before is not None
    assert after is not None
    assert after.direction_known
    assert after.offset_um == pytest.approx(before.offset_um, abs=1.0)


def test_a_jump_of_the_focal_plane_is_taken_in_after_a_few_frames() -> None:
    tracker = looked_at([0.0] * 4 + [3.0] * 4, 12.0)
    for number in range(6):
        advice = tracker.add(10.0 + number, 3.0, estimate(25.0))
    assert advice is not None
    assert abs(advice.offset_um) == pytest.approx(25.0, abs=3.0)


def test_another_field_is_another_specimen() -> None:
    tracker = FocusTracker(DEPTH_UM)
    for number, z in enumerate([0.0, 0.0, 3.0, 3.0]):
        tracker.add(number, z, estimate(abs(12.0 - z)), (0.0, 0.0))
    assert tracker.advice is not None
    assert tracker.advice.direction_known
    advice = tracker.add(5.0, 3.0, estimate(7.0), (500.0, 0.0))
    assert advice is not None
    assert not advice.direction_known
    assert advice.estimates == 1


def test_drift_is_found_with_its_sign() -> None:
    """The focus rises by 0.8 um per minute; dithering the stage keeps the side known."""
    rng = np.random.default_rng(3)
    tracker = FocusTracker(DEPTH_UM)
    for number in range(80):
        time_s, z = number * 10.0, 3.0 * (number % 2)
        focus = 12.0 + 0.8 * time_s / 60
        advice = tracker.add(time_s, z, estimate(abs(focus - z) + rng.normal(0, 0.4)))
    assert advice is not None
    assert advice.drift_um_per_min is not None
    assert advice.drift_uncertainty_um_per_min is not None
    error = advice.drift_um_per_min - 0.8
    assert abs(error) < max(0.1, 3 * advice.drift_uncertainty_um_per_min)
    assert "drifts by +0." in advice.text


def test_farther_than_can_be_told_is_said_so() -> None:
    advice = looked_at([0.0] * 3, 50.0).advice
    assert advice is not None
    assert advice.beyond
    assert advice.text.startswith("more than")


def test_estimates_that_say_nothing_and_old_ones_are_left_out() -> None:
    tracker = FocusTracker(DEPTH_UM)
    assert tracker.add(0.0, 0.0, estimate(5.0, confidence=0.0)) is None
    assert tracker.add(0.0, 0.0, estimate(5.0, uncertainty_um=float("nan"))) is None
    assert tracker.add(0.0, 0.0, estimate(float("nan"))) is None
    first = tracker.add(10.0, 0.0, estimate(5.0))
    assert tracker.add(9.0, 0.0, estimate(30.0)) == first


def test_in_focus_is_within_half_the_depth_of_field() -> None:
    advice = looked_at([0.0] * 10, 0.3).advice
    assert advice is not None
    assert advice.in_focus
    assert advice.text.startswith("in focus within")


def test_the_claimed_uncertainty_covers_the_truth() -> None:
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(1000 + seed)
        focus = rng.uniform(-20, 20)
        advice = looked_at([0.0] * 5 + [4.0] * 5, focus, seed=seed).advice
        assert advice is not None
        error = abs(abs(advice.offset_um) - abs(focus - 4.0))
        inside += error <= 2 * advice.uncertainty_um
    assert inside >= 93


# -- in the daemon -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"ZPosition_um_Intended": 3.5, "Z-Position": 9}, 3.5),
        ({"ZPosition_um_Intended": "3.5"}, 3.5),
        ({"ZPosition_um": 2.0}, 2.0),
        ({"RefocusdFocus": {"stage_um": 1.0}, "ZPosition_um_Intended": 3.5}, 1.0),
        ({"RefocusdFocus": 1, "ZPosition_um_Intended": True}, None),
        ({"ZPosition_um_Intended": "nan"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_the_stage_position_is_taken_from_what_can_be_trusted(
    metadata: dict[str, Any], expected: float | None
) -> None:
    assert stage_um(metadata) == expected


def submitted(axes: dict[str, Any], **changes: Any) -> wire.Submit:
    values: dict[str, Any] = {
        "acquisition": "a",
        "axes": json.dumps(axes),
        "slot": None,
        "checksum": 0,
        "metadata": "{}",
        "taken_ns": 0,
    }
    return wire.Submit(**(values | changes))


def announced() -> Acquisition:
    open_ = wire.Open("a", "cells", 64, 64, "uint16", "", "/out", "{}")
    return Acquisition.announced(open_, b"")


def test_nothing_is_estimated_unless_asked(tmp_path: Path) -> None:
    monitor = FocusMonitor(quick_settings(tmp_path))
    assert monitor.ask(announced(), submitted({"time": 0})) is None


def test_estimates_are_rare_and_fields_take_turns(tmp_path: Path) -> None:
    monitor = FocusMonitor(quick_settings(tmp_path, advise_focus=True), every_s=3600.0)
    asked = [
        monitor.ask(announced(), submitted({"time": t, "position": p})) is not None
        for t in range(20)
        for p in range(3)
    ]
    assert asked == [True] + [False] * 59
    monitor = FocusMonitor(quick_settings(tmp_path, correct_focus=True), every_s=0.0)
    assert monitor.ask(announced(), submitted({"time": 0})) is not None
    assert monitor.ask(announced(), submitted({"time": 0}, live=False)) is None


def test_the_frames_pixel_size_goes_into_the_optics(tmp_path: Path) -> None:
    monitor = FocusMonitor(quick_settings(tmp_path, advise_focus=True), every_s=0.0)
    about = monitor.ask(announced(), submitted({"time": 0}, metadata='{"PixelSizeUm":0.33}'))
    assert about is not None
    assert about.pixel_um == 0.33
    assert not about.measured
    for number, none in enumerate(("0", "1e-6", "1e300"), 1):
        metadata = f'{{"PixelSizeUm":{none}}}'
        about = monitor.ask(announced(), submitted({"time": number}, metadata=metadata))
        assert about is not None
        assert about.pixel_um == 0.645


def test_a_calibration_profile_gives_the_optics(tmp_path: Path) -> None:
    psf = PsfSection(
        method="beads",
        model="wave",
        focus_um=Measured(value=0, uncertainty=0.1),
        na=Measured(value=0.47, uncertainty=0.01),
        spherical_waves=Measured(value=0.1, uncertainty=0.02),
        apodisation=Measured(value=0.4, uncertainty=0.1),
        wavelength_um=0.52,
    )
    profile = Profile(
        created="2026-01-01T00:00:00Z", version="0", microscope=Microscope(pixel_um=0.6), psf=psf
    )
    monitor = FocusMonitor(quick_settings(tmp_path, advise_focus=True), every_s=0.0)
    acquisition = announced()
    acquisition.applied = Applied(Selection((profile,)))
    about = monitor.ask(acquisition, submitted({"time": 0}))
    assert about == wire.FocusOptics(0.47, 0.52, 1.0, 0.6, 0.1, 0.4, measured=True)
    # Micro-Manager's window numbers channels, but the metadata name them.
    gfp = replace(profile, microscope=Microscope(pixel_um=0.6, channel="GFP"))
    acquisition.applied = Applied(Selection((gfp,)))
    for name, measured in (("GFP", True), ("DAPI", False)):
        frame = submitted({"channel": 1}, metadata=json.dumps({"Channel": name}))
        found = monitor.ask(acquisition, frame)
        assert found is not None
        assert found.measured == measured


@pytest.mark.parametrize("inline", [False, True], ids=["worker-ring", "worker-socket"])
def test_a_z_series_through_the_daemon_says_where_focus_is(tmp_path: Path, inline: bool) -> None:
    specimen, rng = Specimen(), np.random.default_rng(0)
    more = {"backend": "openvino", "threads": 1, "advise_focus": True, "inline": inline}
    with (
        running(quick_settings(tmp_path, **more)) as daemon,
        source(daemon) as connection,
    ):
        daemon._broker._lifecycle.focus._every_s = 0.0
        upload = opened(connection, tmp_path / "out", side=512)
        for number, z in enumerate([12.0, 10.0, 8.0, 6.0]):
            frame = specimen.frame("DAPI", z, 10.0, rng)
            metadata = json.dumps({"ZPosition_um_Intended": z, "PixelSizeUm": 0.645})
            pump_until(upload, lambda: upload.credit > 0)
            upload.submit(frame, f'{{"time":{number}}}', metadata, number * 10**9)
        upload.close(4)
        pump_until(upload, lambda: upload.closed)
        (detail,) = daemon_status(daemon.endpoint).details
    assert detail.focus is not None
    assert detail.focus.direction_known
    assert detail.focus.offset_um == pytest.approx(-6.0, abs=2.5)
    written = read_all(tmp_path / "out")
    facts = written['{"time":0}'][1]["refocusd"]
    assert facts["defocus_um"] == pytest.approx(12.0, abs=2.0)
    assert facts["defocus_uncertainty_um"] > 0
    assert written['{"time":3}'][1]["refocusd"]["focus"]["direction_known"]


@pytest.mark.parametrize(
    ("asks", "allows"), [(True, True), (True, False), (False, True)], ids=lambda value: str(value)
)
def test_advice_is_sent_only_where_both_sides_want_it(
    tmp_path: Path, asks: bool, allows: bool
) -> None:
    specimen, rng = Specimen(), np.random.default_rng(0)
    more = {"backend": "openvino", "threads": 1, "advise_focus": True, "correct_focus": allows}
    said: list[wire.Advice] = []
    with running(quick_settings(tmp_path, **more)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out", side=512, advise=asks)
        upload._on_advice = said.append
        frame = specimen.frame("DAPI", 9.0, 10.0, rng)
        metadata = json.dumps({"ZPosition_um_Intended": 9.0})
        upload.submit(frame, '{"channel":"DAPI","position":"a1"}', metadata, 1)
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
    assert bool(said) == (asks and allows)
    for advice in said:
        assert (advice.position, advice.channel) == ("a1", "DAPI")
        assert advice.focus.stage_um == 9.0
