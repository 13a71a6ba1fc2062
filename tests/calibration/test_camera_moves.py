"""Moves of a real Micro-Manager core are planned, limited, verified and recorded."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from refocusd_calibration.stage.microscope import ask
from refocusd_calibration.stage.moves import run_series
from refocusd_calibration.stage.plan import (
    Move,
    MoveLimits,
    check_moves,
    plane_moves,
    print_moves,
)
from rich.console import Console

from refocusd.demo.microscope import DemoMicroscope
from refocusd.errors import ConfigError, InputError
from refocusd.formats.open_dataset import open_dataset

pytestmark = pytest.mark.fast

LIMITS = MoveLimits(-10, 10, longest_exposure_ms=100)


@pytest.fixture
def core(demo_microscope: DemoMicroscope) -> Iterator[Any]:
    """Give the demo's core at z = 0 with the shutter closed; its state is restored afterwards."""
    core = demo_microscope.core
    exposure_ms, z_um, shutter = core.get_exposure(), core.get_position(), core.get_shutter_open()
    # The shutter may be open or closed at first.
    core.set_shutter_open(False)
    core.set_position(0.0)
    core.wait_for_device(core.get_focus_device())
    yield core
    core.set_exposure(exposure_ms)
    core.set_position(z_um)
    core.set_shutter_open(shutter)


def test_planes_are_taken_where_and_in_the_order_asked_for(core: Any, tmp_path: Path) -> None:
    core.set_position(2.5)
    core.set_exposure(33.0)
    # Up and down again: a plane may come twice.
    z_um = [-4.0, 0.0, 4.0, 0.0, -4.0]
    moves = plane_moves(z_um, exposure_ms=5, repeats=2, channel="DAPI")
    path = run_series(moves, tmp_path, "planes", limits=MoveLimits(-5, 5), settle_ms=0)
    with open_dataset(path) as recording:
        plan = recording.plan()
        assert sorted((int(axes["z"]), int(axes["time"])) for axes in plan.axes) == [
            (plane, time) for plane in range(5) for time in range(2)
        ]
        for axes in plan.axes:
            said = recording.metadata(axes)
            assert said["ZPosition_um_Intended"] == z_um[int(axes["z"])]
            assert said["Exposure"] == 5.0
            assert axes["channel"] == "DAPI"
    # The state from before.
    assert core.get_position() == pytest.approx(2.5)
    assert core.get_exposure() == pytest.approx(33.0)


def test_a_second_series_does_not_touch_the_first(core: Any, tmp_path: Path) -> None:
    moves = plane_moves([0.0, 1.0], exposure_ms=5)
    taken = [run_series(moves, tmp_path, "planes", limits=LIMITS, settle_ms=0) for _ in range(2)]
    assert taken[0] != taken[1]
    for path in taken:
        with open_dataset(path) as recording:
            assert len(recording) == 2


def test_shutter_and_exposure_are_set_for_each_move_and_put_back(core: Any, tmp_path: Path) -> None:
    seen = []
    core.set_auto_shutter(True)
    moves = [
        Move(5.0, frames=2, shutter="closed", axes=(("exposure", 0),)),
        Move(20.0, frames=1, shutter="open", axes=(("exposure", 1),)),
    ]
    path = run_series(
        moves,
        tmp_path,
        "series",
        limits=LIMITS,
        settle_ms=0,
        on_frame=lambda: seen.append((core.get_exposure(), core.get_shutter_open())),
    )
    assert seen == [(5.0, False), (5.0, False), (20.0, True)]
    with open_dataset(path) as recording:
        said = [recording.metadata(key)["Exposure"] for key in recording.axes_keys()[:3]]
    assert said == [5.0, 5.0, 20.0]
    assert core.get_auto_shutter()
    assert not core.get_shutter_open()


@pytest.mark.parametrize(
    ("moves", "limits", "message"),
    [
        (
            plane_moves([0, 11], exposure_ms=5),
            LIMITS,
            r"move 2 goes to z = 11 um, outside .*nothing",
        ),
        (plane_moves([0, 1], exposure_ms=200), LIMITS, "move 1 exposes for 200 ms; at most"),
        (plane_moves([0, 1], exposure_ms=0), LIMITS, "exposes for 0 ms"),
        (plane_moves([0, 1], exposure_ms=5), MoveLimits(), "no limits are set"),
        (plane_moves([0, 1], exposure_ms=5, repeats=0), LIMITS, "takes 0 frames"),
        (plane_moves([0, float("nan")], exposure_ms=5), LIMITS, "outside the limits"),
        ([], LIMITS, "no move"),
        (plane_moves([0], exposure_ms=5), MoveLimits(3, -3), "are not a range"),
    ],
)
def test_a_series_beyond_its_limits_moves_nothing(
    core: Any, tmp_path: Path, moves: list[Move], limits: MoveLimits, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_moves(moves, limits)
    with pytest.raises(ConfigError, match=message):
        run_series(moves, tmp_path, "series", limits=limits)
    assert core.get_position() == 0.0
    assert list(tmp_path.iterdir()) == []


def test_moves_with_equal_axes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="same axes"):
        run_series([Move(5.0), Move(9.0)], tmp_path, "series", limits=LIMITS)


def test_a_stage_that_refuses_is_an_error(
    core: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # The demo stage ends at 300 um; the engine prints the error and continues.
    with pytest.raises(InputError, match=r"move 2 to z = 400 um.*kept in"):
        run_series(
            plane_moves([0.0, 400.0, 1.0], exposure_ms=5),
            tmp_path,
            "far",
            limits=MoveLimits(-1, 1000),
            settle_ms=0,
        )
    capfd.readouterr()
    assert core.get_position() == 0.0


def test_a_stage_that_stops_short_is_an_error(
    core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Targets above 5 um are ignored without an error, as with a stage locked by a focus drive.
    move = core.set_position

    goals = []

    def stuck(stage: str, z_um: float) -> None:
        goals.append(z_um)
        if z_um < 5:
            move(stage, z_um)

    monkeypatch.setattr(core, "set_position", stuck)
    with pytest.raises(InputError, match=r"sent to 6\.000 um but stopped at 3\.000 um"):
        run_series(
            plane_moves([0.0, 3.0, 6.0, 9.0], exposure_ms=5),
            tmp_path,
            "stuck",
            limits=LIMITS,
            settle_ms=0,
        )
    assert goals == [0.0, 3.0, 6.0, 0.0], "nothing moves any more, but back"
    # Frames that were taken are kept.
    with open_dataset(tmp_path / "stuck_1") as recording:
        assert len(recording) == 2


def test_an_interrupted_series_goes_no_further_and_puts_everything_back(
    core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core.set_position(1.5)
    taken: list[float] = []
    went_to: list[float] = []
    move = core.set_position

    def moved(stage: str, z_um: float) -> None:
        went_to.append(z_um)
        move(stage, z_um)

    def interrupted() -> None:
        taken.append(core.get_position())
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)  # handled in the main thread; this is the engine's

    monkeypatch.setattr(core, "set_position", moved)
    moves = plane_moves([float(z) for z in range(-8, 9)], exposure_ms=5)
    with pytest.raises(InputError, match=r"the series was interrupted; .* kept in"):
        run_series(moves, tmp_path, "cut", limits=LIMITS, settle_ms=0, on_frame=interrupted)
    assert taken[:3] == [-8.0, -7.0, -6.0]
    # The main thread may handle the signal late; the series has 17 frames.
    assert len(taken) < 17
    assert went_to == [*taken, 1.5]
    assert core.get_position() == pytest.approx(1.5)
    with open_dataset(tmp_path / "cut_1") as recording:
        assert len(recording) == len(taken)


def test_a_channel_that_does_not_exist_is_refused(core: Any, tmp_path: Path) -> None:
    moves = plane_moves([0.0], exposure_ms=5, channel="Infrared")
    with pytest.raises(ConfigError, match=r"no channel 'Infrared'.*DAPI"):
        run_series(moves, tmp_path, "planes", limits=LIMITS)


def test_every_move_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    planned = plane_moves([-1.5, 2.25], exposure_ms=40, repeats=3, channel="DAPI")
    moves = [replace(move, shutter="open") for move in planned]
    print_moves(moves, LIMITS, console=Console(width=120))
    printed = capsys.readouterr().out
    assert "2 moves, 6 frames" in printed
    for word in ("-1.500", "2.250", "40", "open", "DAPI", "-10 to 10 um", "100 ms", "0.2 s"):
        assert word in printed


def test_nobody_to_ask_is_an_error_and_yes_is_an_answer() -> None:
    ask("Is the light off?", yes=True)
    with pytest.raises(ConfigError, match=r"Is the light off\? .*--yes"):
        ask("Is the light off?", yes=False)
