"""pymmcore-plus: frames that do not come, because of skipped events, failures or a cancellation."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import quick_settings, running
from pymmcore_core import adapters, daemon_counts, demo_core, pymmcore_plus
from waiting import until

from refocusd.sources.pymmcore_plus import MDAOutput, attach_mda

useq = pytest.importorskip("useq")

Z_STACK = {
    "axis_order": "tcz",
    "time_plan": {"interval": 0, "loops": 2},
    "channels": ["DAPI", "FITC"],
    "z_plan": {"range": 4, "step": 2},
}


@pytest.fixture(scope="module")
def core() -> Iterator[Any]:
    with demo_core() as core:
        yield core


@contextmanager
def skipping(core: Any, skip: Callable[[Any], bool]) -> Iterator[None]:
    """Make the engine skip some events."""
    from pymmcore_plus.mda import MDAEngine, SkipEvent

    class Skipping(MDAEngine):
        def setup_event(self, event: Any) -> None:
            if skip(event):
                raise SkipEvent(reason="the stage is late")
            super().setup_event(event)

    engine = core.mda.engine
    core.mda.set_engine(Skipping(core, use_hardware_sequencing=False))
    try:
        yield
    finally:
        core.mda.set_engine(engine)


def counted(core: Any, tmp_path: Path, sequence: Any, *others: Any) -> Any:
    """Counts after a run with ours and other outputs."""
    with running(quick_settings(tmp_path)) as daemon:
        refocused = MDAOutput(tmp_path / "out", endpoint=daemon.endpoint)
        core.run_mda(sequence, output=[*others, refocused]).join()
        return refocused.wait(90.0)


def test_an_event_that_the_engine_skips_is_accounted_for(core: Any, tmp_path: Path) -> None:
    with skipping(core, lambda event: event.index["t"] == 1):
        counts = counted(core, tmp_path, useq.MDASequence(time_plan={"interval": 0, "loops": 4}))
    assert (counts.acquired, counts.passed_through, counts.skipped) == (4, 3, 1)
    assert counts.pending == 0


def test_skipped_events_of_positions_with_plans_of_their_own_are_accounted_for(
    core: Any, tmp_path: Path
) -> None:
    """The sizes of useq omit those plans: two positions have 4 frames each, the third has one."""
    grid = useq.GridRowsColumns(rows=2, columns=2)
    places = [
        useq.Position(x=0, y=0, sequence=useq.MDASequence(grid_plan=grid)),
        useq.Position(x=100, y=0, sequence=useq.MDASequence(grid_plan=grid)),
        useq.Position(x=200, y=0),
    ]
    sequence = useq.MDASequence(stage_positions=places)
    with skipping(core, lambda event: event.index == {"p": 1, "g": 2}):
        counts = counted(core, tmp_path, sequence)
    assert (counts.acquired, counts.passed_through, counts.skipped) == (9, 8, 1)
    assert counts.pending == 0


def test_skipped_events_that_share_an_index_with_others_are_accounted_for(
    core: Any, tmp_path: Path
) -> None:
    """The time plan of a position is done at each time: useq gives both the same index."""
    plan = useq.MDASequence(time_plan={"interval": 0, "loops": 2})
    places = [useq.Position(x=0, y=0, sequence=plan)]
    sequence = useq.MDASequence(
        axis_order="tp", stage_positions=places, time_plan={"interval": 0, "loops": 3}
    )
    assert Counter(event.index["t"] for event in sequence) == {0: 3, 1: 3}
    numbers = itertools.count()
    with skipping(core, lambda _: next(numbers) in (1, 2)):
        counts = counted(core, tmp_path, sequence)
    assert (counts.acquired, counts.passed_through, counts.skipped) == (6, 4, 2)
    assert counts.pending == 0


def test_a_skipped_event_of_several_cameras_misses_a_frame_of_each(tmp_path: Path) -> None:
    libs = Path(adapters.__file__).parent / "libs"
    mmc = pymmcore_plus.CMMCorePlus(mm_path=str(libs))
    mmc.loadSystemConfiguration(str(libs / "MMConfig_demo.cfg"))
    mmc.loadDevice("Second", "DemoCamera", "DCam")
    mmc.loadDevice("Both", "Utilities", "Multi Camera")
    mmc.initializeDevice("Second")
    mmc.initializeDevice("Both")
    mmc.setProperty("Both", "Physical Camera 1", "Camera")
    mmc.setProperty("Both", "Physical Camera 2", "Second")
    mmc.setCameraDevice("Both")
    for camera in ("Camera", "Second"):
        mmc.setProperty(camera, "PixelType", "16bit")
        mmc.setProperty(camera, "OnCameraCCDXSize", 64)
        mmc.setProperty(camera, "OnCameraCCDYSize", 48)
    try:
        with skipping(mmc, lambda event: event.index["t"] == 1):
            sequence = useq.MDASequence(time_plan={"interval": 0, "loops": 5})
            counts = counted(mmc, tmp_path, sequence)
    finally:
        mmc.unloadAllDevices()
    assert (counts.acquired, counts.passed_through, counts.skipped) == (10, 8, 2)
    assert counts.pending == 0


def test_autofocus_and_channels_that_are_not_always_acquired_make_no_gap(
    core: Any, tmp_path: Path
) -> None:
    sequence = useq.MDASequence(
        channels=[
            {"config": "DAPI"},
            {"config": "FITC", "acquire_every": 2},
            {"config": "Cy5", "do_stack": False},
        ],
        time_plan={"interval": 0, "loops": 3},
        z_plan={"range": 4, "step": 2},
        stage_positions=[(0, 0, 0), (10, 10, 0)],
        keep_shutter_open_across=("z", "c"),
        autofocus_plan=useq.AxesBasedAF(axes=("p",), autofocus_motor_offset=None),
    )
    images = [event for event in sequence if not isinstance(event.action, useq.HardwareAutofocus)]
    assert len(images) < len(list(sequence))
    counts = counted(core, tmp_path, sequence)
    assert (counts.acquired, counts.passed_through) == (len(images), len(images))
    assert counts.skipped == counts.pending == 0


def test_hardware_sequences_bring_every_frame(core: Any, tmp_path: Path) -> None:
    core.setProperty("Z", "UseSequences", "Yes")
    assert core.mda.engine.use_hardware_sequencing
    counts = counted(core, tmp_path, useq.MDASequence(**Z_STACK))
    assert (counts.acquired, counts.passed_through) == (12, 12)


def test_events_that_were_skipped_before_a_cancel_are_accounted_for(
    core: Any, tmp_path: Path
) -> None:
    def cancel(image: object, event: Any) -> None:
        if event.index["t"] == 5:
            core.mda.cancel()

    core.mda.events.frameReady.connect(cancel)
    try:
        with skipping(core, lambda event: event.index["t"] == 2):
            sequence = useq.MDASequence(time_plan={"interval": 0.05, "loops": 100})
            counts = counted(core, tmp_path, sequence)
    finally:
        core.mda.events.frameReady.disconnect(cancel)
    assert (counts.acquired, counts.passed_through, counts.skipped) == (6, 5, 1)


class _Raises:
    """A user's output that fails."""

    def frameReady(self, image: object, event: Any) -> None:
        if event.index["t"] == 3:
            raise RuntimeError("the user's own mistake")


def test_another_listener_that_raises_costs_an_attached_core_no_frame(
    core: Any, tmp_path: Path
) -> None:
    """After a listener that raises, psygnal calls no other."""
    other = _Raises()
    core.mda.events.frameReady.connect(other.frameReady)
    try:
        with running(quick_settings(tmp_path)) as daemon:
            attached = attach_mda(core, tmp_path / "out", endpoint=daemon.endpoint)
            core.mda.run(useq.MDASequence(time_plan={"interval": 0, "loops": 6}))
            counts = attached.wait(90.0)
            attached.detach()
    finally:
        core.mda.events.frameReady.disconnect(other.frameReady)
    assert counts is not None
    assert (counts.acquired, counts.passed_through) == (6, 6)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_another_output_that_raises_ends_the_acquisition_with_all_frames_accounted_for(
    core: Any, tmp_path: Path
) -> None:
    """It ends the thread of pymmcore-plus that calls all outputs; nobody has to wait for ours."""
    with running(quick_settings(tmp_path)) as daemon:
        refocused = MDAOutput(tmp_path / "out", endpoint=daemon.endpoint)
        sequence = useq.MDASequence(time_plan={"interval": 0, "loops": 6})
        core.run_mda(sequence, output=[_Raises(), refocused]).join()
        [counts] = until(lambda: list(daemon_counts(daemon)), "the end")
    assert (counts.acquired, counts.passed_through, counts.skipped) == (6, 3, 3)
    assert counts.pending == 0


def test_an_engine_that_fails_ends_the_acquisition_with_all_frames_accounted_for(
    core: Any, tmp_path: Path
) -> None:
    from pymmcore_plus.mda import MDAEngine

    class Failing(MDAEngine):
        def setup_event(self, event: Any) -> None:
            if event.index["t"] == 3:
                raise RuntimeError("the stage hit something")
            super().setup_event(event)

    engine = core.mda.engine
    core.mda.set_engine(Failing(core, use_hardware_sequencing=False))
    try:
        with running(quick_settings(tmp_path)) as daemon:
            attached = attach_mda(core, tmp_path / "out", endpoint=daemon.endpoint)
            with pytest.raises(RuntimeError, match="hit something"):
                core.mda.run(useq.MDASequence(time_plan={"interval": 0, "loops": 6}))
            counts = attached.wait(90.0)
            attached.detach()
    finally:
        core.mda.set_engine(engine)
    assert counts is not None
    assert (counts.acquired, counts.passed_through, counts.skipped) == (6, 3, 3)


def test_a_canceled_acquisition_misses_nothing(core: Any, tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon:
        refocused = MDAOutput(tmp_path / "out", endpoint=daemon.endpoint)
        sequence = useq.MDASequence(time_plan={"interval": 0.05, "loops": 100})

        def cancel(image: object, event: Any) -> None:
            if event.index["t"] == 2:
                core.mda.cancel()

        core.mda.events.frameReady.connect(cancel)
        core.run_mda(sequence, output=refocused).join()
        core.mda.events.frameReady.disconnect(cancel)
        counts = refocused.wait(90.0)
    assert counts is not None
    assert counts.skipped == counts.pending == 0
    assert counts.passed_through == counts.acquired < 10


def test_an_end_that_is_not_relayed_is_noticed(tmp_path: Path) -> None:
    """The relay of pymmcore-plus ends on request, which can be before the last signal."""
    from pymmcore_plus.mda._thread_relay import MDARelayThread

    with running(quick_settings(tmp_path)) as daemon:
        refocused = MDAOutput(tmp_path / "out", endpoint=daemon.endpoint)
        sequence = useq.MDASequence(time_plan={"interval": 0, "loops": 1})
        relay = MDARelayThread()
        relay.signals.sequenceStarted.connect(refocused.sequenceStarted)
        relay.signals.frameReady.connect(refocused.frameReady)
        relay.start()
        relay.sequenceStarted(sequence, {})
        relay.frameReady(np.ones((32, 32), np.uint16), useq.MDAEvent(index={"t": 0}), {})
        relay.stop()
        relay.join()
        counts = refocused.wait(90.0)
    assert counts is not None
    assert counts.passed_through == 1
