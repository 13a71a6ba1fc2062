"""The closed loop: the network's output moves a real stage, on a real MMCore."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from live import quick_settings, read_all

import refocusd
from refocusd.daemon.daemon import Daemon
from refocusd.demo.microscope import DemoMicroscope
from refocusd.demo.specimen_camera import CHANNEL_GROUP
from refocusd.errors import ConfigError
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.imaging.defocus import DEFAULT_OPTICS, depth_of_field_um
from refocusd.sources.focus_hook import METADATA_KEY, FocusHook
from refocusd.sources.focus_limits import FocusLimits
from refocusd.transport import messages as wire
from refocusd.transport.records import FocusAdvice

#: Half of this on either side counts as in focus.
DEPTH_UM = depth_of_field_um(DEFAULT_OPTICS)
#: Quicker than the default, but as careful.
QUICK: dict[str, Any] = {"estimates": 2, "interval_s": 0.0}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that refocuses, advises and may correct the focus."""
    settings = quick_settings(
        tmp_path_factory.mktemp("daemon"), backend="openvino", threads=1, correct_focus=True
    )
    with Daemon(settings) as daemon:
        daemon.wait_ready()
        # Every frame, because an acquisition of seconds stands for one of hours.
        daemon._broker._lifecycle.focus._every_s = 0.0
        yield daemon


def events(frames: int, z_um: float | None, every_s: float = 0.25) -> list[dict[str, Any]]:
    """A time series at one height; None leaves the stage where it is."""
    made: list[dict[str, Any]] = []
    for number in range(frames):
        event: dict[str, Any] = {
            "axes": {"time": number},
            "min_start_time": number * every_s,
            "config_group": [CHANNEL_GROUP, "DAPI"],
        }
        if z_um is not None:
            event["z"] = z_um
        made.append(event)
    return made


def acquire(made: list[dict[str, Any]], **arguments: Any) -> list[dict[str, Any]]:
    """Run one acquisition; returns the raw frames' metadata in order of time."""
    from pycromanager import Acquisition

    with Acquisition(show_display=False, **arguments) as acquisition:
        acquisition.acquire(made)
        raw = Path(acquisition.get_dataset().path)
    with closing(NDTiffReader(raw)) as reader:
        found = [dict(reader.read(key).metadata) for key in reader.axes_keys()]
    return sorted(found, key=lambda metadata: int(metadata["Axes"]["time"]))


def heights(metadata: list[dict[str, Any]]) -> list[float]:
    return [each[METADATA_KEY]["stage_um"] for each in metadata if METADATA_KEY in each]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start_um", "named"),
    [(10.0, True), (-8.0, False)],
    ids=["from above, events name z", "from below, events name no z"],
)
def test_the_stage_converges_to_within_the_depth_of_field(
    tmp_path: Path, daemon: Daemon, demo_microscope: DemoMicroscope, start_um: float, named: bool
) -> None:
    limits = FocusLimits(-20.0, 20.0, step_um=4.0, probe_um=2.0, **QUICK)
    source = refocusd.Source(daemon.endpoint, correct_focus=limits)
    demo_microscope.core.set_position(start_um)
    made = events(36, start_um if named else None)
    metadata = acquire(made, **source.hooks(str(tmp_path), "cells"))
    counts = source.wait(90.0)
    z = heights(metadata)
    assert source.focus is not None
    assert source.focus.halted == ""
    assert len(z) == len(made)
    # The demo's specimen is in focus at 0.
    assert abs(z[-1]) <= DEPTH_UM / 2, [f"{each:.1f}" for each in z]
    assert all(abs(b - a) <= limits.step_um + 0.01 for a, b in itertools.pairwise(z))
    assert all(limits.low_um <= each <= limits.high_um for each in z)
    assert counts is not None
    assert counts.pending == counts.failed == 0
    assert source.focus.moves <= 8


# -- limits and stops, with advice in the daemon's form ---------------------------------


class Stage:
    """A core with a focus stage only, which may misbehave."""

    def __init__(self, z_um: float = 0.0) -> None:
        self.z_um = z_um
        self.sent: list[float] = []
        self.stuck = False
        self.error: Exception | None = None

    def get_position(self) -> float:
        return self.z_um

    def set_position(self, z_um: float) -> None:
        self.sent.append(z_um)
        if self.error is not None:
            raise self.error
        if not self.stuck:
            self.z_um = z_um

    def get_focus_device(self) -> str:
        return "Z"

    def wait_for_device(self, name: str) -> None:
        assert name == "Z"


def said(offset_um: float, stage_um: float, **changes: Any) -> wire.Advice:
    values: dict[str, Any] = {
        "offset_um": offset_um,
        "uncertainty_um": 0.8,
        "direction_known": True,
        "confidence": 0.9,
        "estimates": 5,
        "stage_um": stage_um,
        "depth_of_field_um": DEPTH_UM,
        "in_focus": abs(offset_um) <= DEPTH_UM / 2,
    }
    return wire.Advice("a", "", "", FocusAdvice(**(values | changes)))


def hooked(stage: Stage, **changes: Any) -> tuple[FocusHook, Any]:
    values: dict[str, Any] = {"low_um": -20.0, "high_um": 20.0, **QUICK, **changes}
    hook = FocusHook(FocusLimits(**values), core=lambda: stage)
    return hook, hook.around(None)


def event(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"axes": {"time": number}, **more}


def test_a_move_goes_the_way_of_the_advice_step_by_step() -> None:
    stage = Stage(10.0)
    hook, run = hooked(stage, step_um=4.0)
    for remaining in (-10.0, -6.0, -2.5):
        hook.advise(said(remaining, stage.z_um))
        run(event())
    assert stage.sent == [6.0, 2.0, -0.5]
    assert not hook.halted


def test_an_advice_is_acted_upon_once() -> None:
    stage = Stage(10.0)
    hook, run = hooked(stage)
    hook.advise(said(-4.0, 10.0))
    for number in range(5):
        run(event(number))
    assert stage.sent == [6.0]


def test_no_limit_is_left_whatever_is_advised() -> None:
    stage = Stage(3.0)
    hook, run = hooked(stage, low_um=-2.0, high_um=5.0, total_um=4.0, step_um=3.0)
    for number in range(10):
        hook.advise(said(-30.0, stage.z_um))
        run(event(number))
    assert min(stage.sent) == -1.0  # 4 um from its start
    assert not hook.halted
    stage = Stage(3.0)
    hook, run = hooked(stage, low_um=-2.0, high_um=5.0, step_um=3.0)
    for number in range(10):
        hook.advise(said(30.0, stage.z_um))
        run(event(number))
    assert max(stage.sent) == 5.0


def test_a_position_outside_the_limits_is_the_users_own() -> None:
    stage = Stage(50.0)
    hook, run = hooked(stage)
    hook.advise(said(-40.0, 50.0))
    run(event())
    assert stage.sent == []


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": 0.1},
        {"estimates": 1},
        {"direction_known": False},
        {"uncertainty_um": 9.0},
        {"stage_um": 3.0},
        {"stage_um": None},
        {"offset_um": 3.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_not_sure_enough_moves_nothing(change: dict[str, Any]) -> None:
    stage = Stage(0.0)
    hook, run = hooked(stage)
    values = {"offset_um": 8.0, "stage_um": 0.0} | change
    hook.advise(said(values.pop("offset_um"), values.pop("stage_um"), **values))
    run(event())
    assert stage.sent == []


def test_hysteresis_a_correction_once_begun_goes_on_to_the_middle() -> None:
    stage = Stage(0.0)
    hook, run = hooked(stage)
    small = 0.7 * DEPTH_UM
    hook.advise(said(small, 0.0))
    run(event())
    assert stage.sent == []
    hook.advise(said(1.5 * DEPTH_UM, 0.0))
    run(event())
    assert len(stage.sent) == 1
    hook.advise(said(small, stage.z_um))
    run(event())
    assert len(stage.sent) == 2


def test_one_probe_and_no_more_while_the_direction_is_not_known() -> None:
    stage = Stage(0.0)
    hook, run = hooked(stage, probe_um=2.0, low_um=-5.0, high_um=20.0)
    for number in range(6):
        hook.advise(said(9.0, stage.z_um, direction_known=False))
        run(event(number))
    assert stage.sent == [2.0]  # toward the middle of the limits


def test_moves_keep_their_distance_in_time() -> None:
    stage = Stage(0.0)
    hook, run = hooked(stage, interval_s=3600.0)
    for number in range(4):
        hook.advise(said(12.0 - stage.z_um, stage.z_um))
        run(event(number))
    assert len(stage.sent) == 1


def test_what_got_worse_is_undone_once_and_nothing_moves_again() -> None:
    stage = Stage(0.0)
    hook, run = hooked(stage)
    hook.advise(said(8.0, 0.0))
    run(event(0))
    hook.advise(said(-13.0, stage.z_um))
    run(event(1))
    assert stage.sent == [5.0, 0.0]
    assert "undone" in hook.halted
    hook.advise(said(8.0, 0.0))
    run(event(2))
    assert len(stage.sent) == 2


def test_a_stage_that_does_not_arrive_stops_the_corrections() -> None:
    stage = Stage(0.0)
    stage.stuck = True
    hook, run = hooked(stage)
    for number in range(3):
        hook.advise(said(8.0, 0.0))
        assert run(event(number)) == event(number)
    assert len(stage.sent) == 1
    assert "check it" in hook.halted


def test_an_error_of_the_core_is_not_raised_into_the_acquisition() -> None:
    stage = Stage(0.0)
    stage.error = RuntimeError("serial port is gone")
    hook, run = hooked(stage)
    for number in range(3):
        hook.advise(said(8.0, 0.0))
        run(event(number))
    assert len(stage.sent) == 1
    assert "serial port is gone" in hook.halted
    metadata: dict[str, Any] = {"Axes": {"time": 0}}
    hook.note(metadata)
    assert "serial port" in metadata[METADATA_KEY]["halted"]


def test_the_stop_file_and_the_flag_end_it(tmp_path: Path) -> None:
    stage = Stage(0.0)
    stop = tmp_path / "stop"
    hook, run = hooked(stage, stop_file=stop)
    stop.touch()
    hook.advise(said(8.0, 0.0))
    run(event(0))
    stop.unlink()
    hook.advise(said(8.0, 0.0))
    run(event(1))
    assert stage.sent == []
    assert str(stop) in hook.halted


def test_an_advice_of_a_daemon_that_is_gone_is_forgotten() -> None:
    stage = Stage(0.0)
    hook, run = hooked(stage)
    hook.advise(said(8.0, 0.0))
    hook.withdraw()
    run(event())
    assert stage.sent == []


def test_an_old_advice_moves_nothing() -> None:
    stage = Stage(0.0)
    hook, run = hooked(stage, max_age_s=0.0)
    hook.advise(said(8.0, 0.0))
    run(event())
    assert stage.sent == []


def test_z_series_and_hardware_sequences_are_left_alone() -> None:
    stage = Stage(0.0)
    hook, run = hooked(stage)
    hook.advise(said(8.0, 0.0))
    run({"axes": {"time": 0, "z": 3}, "z": 0.0})
    sequence = [event(0), event(1)]
    assert run(sequence) is sequence
    assert stage.sent == []


def test_each_position_has_a_correction_of_its_own() -> None:
    stage = Stage(0.0)
    hook, run = hooked(stage)
    advice = said(6.0, 0.0, in_focus=False)
    hook.advise(wire.Advice("a", "1", "", advice.focus))
    for number, position in enumerate((0, 1, 0, 1)):
        stage.z_um = 0.0  # as the engine does for every event that states z
        run({"axes": {"time": number, "position": position}, "z": 0.0})
    assert stage.sent == [5.0, 5.0]


def test_a_stage_that_somebody_else_moved_is_taken_as_it_is() -> None:
    stage = Stage(0.0)
    hook, run = hooked(stage)
    hook.advise(said(8.0, 0.0))
    run(event(0))
    stage.z_um = -3.0
    run(event(1))
    assert stage.sent == [5.0]
    hook.advise(said(8.0, -3.0))
    run(event(2))
    assert stage.sent == [5.0, 2.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"low_um": 3.0, "high_um": 3.0},
        {"high_um": float("inf")},
        {"step_um": 0.0},
        {"probe_um": 9.0},
        {"estimates": 0},
    ],
    ids=str,
)
def test_limits_that_limit_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FocusLimits(**({"low_um": -1.0, "high_um": 1.0} | changes))


# -- both sides must agree ---------------------------------------------------------------


def test_without_limits_in_the_script_nothing_is_hooked_and_nothing_moves(
    tmp_path: Path, daemon: Daemon, demo_microscope: DemoMicroscope
) -> None:
    source = refocusd.Source(daemon.endpoint)
    arguments = source.hooks(str(tmp_path), "cells")
    assert "post_hardware_hook_fn" not in arguments
    demo_microscope.core.set_position(9.0)
    metadata = acquire(events(8, None, every_s=0.1), **arguments)
    source.wait(90.0)
    assert demo_microscope.core.get_position() == pytest.approx(9.0)
    assert not any(METADATA_KEY in each for each in metadata)


def test_without_the_daemons_consent_nothing_moves(
    tmp_path: Path, demo_microscope: DemoMicroscope
) -> None:
    settings = quick_settings(tmp_path, backend="openvino", threads=1, advise_focus=True)
    demo_microscope.core.set_position(9.0)
    with Daemon(settings) as daemon:
        daemon.wait_ready()
        daemon._broker._lifecycle.focus._every_s = 0.0
        limits = FocusLimits(-20.0, 20.0, probe_um=2.0, **QUICK)
        source = refocusd.Source(daemon.endpoint, correct_focus=limits)
        acquire(events(12, None, every_s=0.1), **source.hooks(str(tmp_path), "cells"))
        source.wait(90.0)
        detail = daemon._broker.acquisitions.details()[-1]
    assert demo_microscope.core.get_position() == pytest.approx(9.0)
    # The advice is nevertheless in the status and in the metadata.
    assert detail.focus is not None
    assert detail.focus.offset_um == pytest.approx(9.0, abs=3 * detail.focus.uncertainty_um)
    assert not detail.focus.direction_known
    advised = [
        metadata["refocusd"]["focus"]
        for _, metadata in read_all(Path(detail.output)).values()
        if "focus" in metadata["refocusd"]
    ]
    assert advised
    assert all("um" in each["text"] for each in advised)


def test_a_real_acquisition_completes_when_the_stage_refuses(
    tmp_path: Path, daemon: Daemon, demo_microscope: DemoMicroscope
) -> None:
    """The stage has a software limit, as real stages have."""
    limits = FocusLimits(-20.0, 20.0, probe_um=2.0, **QUICK)
    source = refocusd.Source(daemon.endpoint, correct_focus=limits)
    core = demo_microscope.core
    core.set_position(9.0)
    assert source.focus is not None
    moves: list[float] = []

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def set_position(self, z_um: float) -> None:
            moves.append(z_um)
            raise RuntimeError("stage error 8: limit switch")

    source.focus._make_core = Refusing
    metadata = acquire(events(14, None), **source.hooks(str(tmp_path), "cells"))
    counts = source.wait(90.0)
    assert len(moves) == 1
    assert "limit switch" in source.focus.halted
    assert len(metadata) == 14
    assert counts is not None
    assert counts.final == 14
    assert "limit switch" in json.dumps(metadata[-1][METADATA_KEY])


def test_the_users_own_hook_runs_first_and_tags_pass(
    tmp_path: Path, daemon: Daemon, demo_microscope: DemoMicroscope
) -> None:
    seen: list[int] = []

    def own(event: Any) -> Any:
        seen.append(event["axes"]["time"])
        return event

    source = refocusd.Source(daemon.endpoint, correct_focus=FocusLimits(-20.0, 20.0))
    made = [each | {"tags": {"note": "x"}} for each in events(3, 0.0, every_s=0.1)]
    arguments = source.hooks(str(tmp_path), "cells", post_hardware_hook_fn=own)
    assert len(acquire(made, **arguments)) == 3
    source.wait(90.0)
    assert seen == [0, 1, 2]
