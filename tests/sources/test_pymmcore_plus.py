"""Frames of pymmcore-plus's own acquisition runner, from a real core with demo devices."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import verify
from followed import ended, following
from live import keys, quick_settings, read_all, running
from pymmcore_core import daemon_counts, demo_core
from waiting import until

from refocusd.daemon.daemon import daemon_status
from refocusd.errors import ConfigError
from refocusd.formats.ndtiff.reader import NDTiffReader
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


def test_every_frame_of_an_mda_is_refocused(core: Any, tmp_path: Path) -> None:
    seen: list[np.ndarray[Any, Any]] = []
    with running(quick_settings(tmp_path)) as daemon:
        attached = attach_mda(core, tmp_path / "out", endpoint=daemon.endpoint)

        def keep(image: np.ndarray[Any, Any]) -> None:
            seen.append(image.copy())

        core.mda.events.frameReady.connect(keep)
        core.mda.run(useq.MDASequence(metadata={"name": "my cells"}, **Z_STACK))
        counts = attached.wait(90.0)
        core.mda.events.frameReady.disconnect(keep)
        attached.detach()
    assert counts is not None
    assert counts.acquired == counts.passed_through == len(seen) == 12
    [folder] = (tmp_path / "out").iterdir()
    assert folder.name.startswith("my_cells_")
    written = read_all(folder)
    assert len(written) == 12
    pixels, metadata = written['{"channel":"FITC","time":1,"z":2}']
    assert np.array_equal(pixels, seen[-1])
    assert metadata["camera_device"] == "Camera"
    assert metadata["Exposure"] == metadata["exposure_ms"]
    assert metadata["Camera"] == "Camera"
    assert metadata["mda_event"]["channel"]["config"] == "FITC"


def test_each_mda_gets_a_dataset_of_its_own(core: Any, tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon:
        attached = attach_mda(core, tmp_path / "out", endpoint=daemon.endpoint)
        for _ in range(2):
            core.mda.run(useq.MDASequence(time_plan={"interval": 0, "loops": 3}))
            assert attached.wait(90.0) is not None
        attached.detach()
        core.mda.run(useq.MDASequence(time_plan={"interval": 0, "loops": 3}))
        assert len(daemon.counts()) <= 2
        names = [about.name for about in daemon_status(daemon.endpoint).details]
    folders = sorted((tmp_path / "out").iterdir())
    assert [len(keys(folder)) for folder in folders] == [3, 3]
    assert names == [folder.name.replace("_refocused", "") for folder in folders]


def test_acquisitions_at_once_each_get_their_own_frames(tmp_path: Path) -> None:
    """Each one's signals come in a separate thread, like those of a runner and of its relay."""
    sequence = useq.MDASequence(time_plan={"interval": 0, "loops": 4})
    in_step = threading.Barrier(2, timeout=60)
    with running(quick_settings(tmp_path)) as daemon:
        output = MDAOutput(tmp_path / "out", endpoint=daemon.endpoint)

        def acquire(count: int) -> None:
            in_step.wait()
            output.sequenceStarted(sequence, {})
            in_step.wait()
            for event in list(sequence)[:count]:
                output.frameReady(np.full((32, 32), count, np.uint16), event, {})
            if count == 4:
                output.sequenceFinished(sequence)
                in_step.wait()
            else:
                in_step.wait()
                output.sequenceFinished(sequence)

        threads = [threading.Thread(target=acquire, args=(count,)) for count in (4, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: len(daemon_counts(daemon)) == 2, "both ends")
        counts = daemon_counts(daemon)
    assert sorted((each.passed_through, each.skipped) for each in counts) == [(3, 1), (4, 0)]
    for folder in (tmp_path / "out").iterdir():
        written = read_all(folder)
        assert {int(pixels[0, 0]) for pixels, _ in written.values()} == {len(written)}


def test_events_without_an_index_are_counted(core: Any, tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon:
        attached = attach_mda(core, tmp_path / "out", endpoint=daemon.endpoint)
        core.mda.run([useq.MDAEvent(exposure=2), useq.MDAEvent(exposure=2)])
        counts = attached.wait(90.0)
        attached.detach()
    assert counts is not None
    assert counts.passed_through == 2
    [folder] = (tmp_path / "out").iterdir()
    assert sorted(keys(folder)) == ['{"time":0}', '{"time":1}']


def test_without_a_daemon_the_acquisition_runs_as_usual(
    core: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attached = attach_mda(core, tmp_path / "out", endpoint="tcp://127.0.0.1:9", buffer_mib=1)
    images = 0

    def count(image: object) -> None:
        nonlocal images
        images += 1

    core.mda.events.frameReady.connect(count)
    with caplog.at_level(logging.WARNING):
        core.mda.run(useq.MDASequence(time_plan={"interval": 0, "loops": 20}))
        assert attached.wait(20) is None
    core.mda.events.frameReady.disconnect(count)
    attached.detach()
    assert images == 20
    assert "no refocusd daemon answers" in caplog.text


def test_invalid_frames_never_reach_the_runner_as_errors(
    core: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(quick_settings(tmp_path)) as daemon:
        attached = attach_mda(core, tmp_path / "out", endpoint=daemon.endpoint)
        signals = core.mda.events
        sequence = useq.MDASequence(time_plan={"interval": 0, "loops": 2})
        signals.sequenceStarted.emit(sequence, {})
        event = useq.MDAEvent(index={"t": 0})
        with caplog.at_level(logging.WARNING):
            signals.frameReady.emit(np.zeros((8, 8, 3), np.uint8), event, {})
            signals.frameReady.emit(np.zeros((32, 32), np.float32), event, {})
        signals.frameReady.emit(np.ones((32, 32), np.uint16), event, {"odd": object()})
        signals.sequenceFinished.emit(sequence)
        counts = attached.wait(90.0)
        attached.detach()
    assert counts is not None
    assert counts.passed_through == 1
    assert "RGB" in caplog.text


def test_the_runner_is_not_held_up(core: Any, tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon:
        attached = attach_mda(core, tmp_path / "out", endpoint=daemon.endpoint)
        signals = core.mda.events
        sequence = useq.MDASequence(time_plan={"interval": 0, "loops": 200})
        signals.sequenceStarted.emit(sequence, {})
        image = np.ones((512, 512), np.uint16)
        spent = []
        for number in range(200):
            begun = time.thread_time()
            signals.frameReady.emit(image, useq.MDAEvent(index={"t": number}), {})
            spent.append(time.thread_time() - begun)
        signals.sequenceFinished.emit(sequence)
        counts = attached.wait(90.0)
        attached.detach()
    assert counts is not None
    assert counts.passed_through == 200
    # Processor time of the runner's thread: a copy of half a MiB and a little JSON.
    assert np.median(spent) < 0.005
    assert threading.active_count() < 50


def test_a_core_without_a_runner_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes a CMMCorePlus"):
        attach_mda(object(), "out")


def test_an_index_that_is_used_twice_gives_two_frames(
    core: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(quick_settings(tmp_path)) as daemon:
        attached = attach_mda(core, tmp_path / "out", endpoint=daemon.endpoint)
        with caplog.at_level(logging.WARNING):
            core.mda.run([useq.MDAEvent(index={"t": t}, exposure=2) for t in (0, 1, 0, 0)])
            counts = attached.wait(20)
        attached.detach()
    assert counts is not None
    assert (counts.acquired, counts.passed_through, counts.pending) == (4, 4, 0)
    [folder] = (tmp_path / "out").iterdir()
    assert sorted(keys(folder)) == [
        '{"repeat":1,"time":0}',
        '{"repeat":2,"time":0}',
        '{"time":0}',
        '{"time":1}',
    ]
    assert "uses an index twice" in caplog.text


def test_it_is_an_output_beside_the_writers_of_pymmcore_plus(core: Any, tmp_path: Path) -> None:
    """Axes and names of a plate are kept; pymmcore-plus's own OME-Zarr is written as usual."""
    pytest.importorskip("ome_writers")
    plan = useq.WellPlatePlan(plate="96-well", a1_center_xy=(0, 0), selected_wells=([0, 1], [0, 1]))
    sequence = useq.MDASequence(
        stage_positions=plan, channels=["DAPI", "FITC"], z_plan={"range": 2, "step": 1}
    )
    raw = tmp_path / "plate.ome.zarr"
    with running(quick_settings(tmp_path)) as daemon:
        refocused = MDAOutput(tmp_path / "out", endpoint=daemon.endpoint)
        core.run_mda(sequence, output=[raw, refocused]).join()
        counts = refocused.wait(90.0)
    assert counts is not None
    assert counts.acquired == counts.passed_through == 12
    assert raw.is_dir()
    [folder] = (tmp_path / "out").iterdir()
    written = read_all(folder)
    assert len(written) == 12
    _, metadata = written['{"channel":"FITC","position":1,"z":2}']
    assert metadata["PositionName"].startswith("B2")
    assert isinstance(metadata["ZPositionUm"], float)
    with NDTiffReader(folder) as reader:
        assert reader.summary["ChNames"] == ["DAPI", "FITC"]
        assert reader.summary["z-step_um"] == 1


def test_its_own_ome_tiff_is_followed_while_it_is_written(core: Any, tmp_path: Path) -> None:
    """ome-writers writes it, and the script contains nothing of ours."""
    pytest.importorskip("ome_writers")
    raw = tmp_path / "data" / "cells.ome.tiff"
    raw.parent.mkdir()
    with (
        running(quick_settings(tmp_path)) as daemon,
        following(raw.parent, daemon.endpoint, quiet_s=20.0),
    ):
        core.run_mda(useq.MDASequence(**Z_STACK), output=raw).join()
        until(
            lambda: (counts := ended(daemon, "cells")) is not None and counts.acquired == 12,
            "the end of the file",
        )
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    written = read_all(tmp_path / "data" / "cells_refocused")
    assert len(written) == 12
    assert '{"channel":"FITC","time":1,"z":2}' in written
