"""Acquisitions started in Micro-Manager's GUI: noticed over the bridge, and refocused."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pytest
from bridge_standin import Standin, stranger
from bridge_standin_acquisitions import Saved
from bridge_standin_microscope import Settings
from bridge_standin_rig import acquisitions, attached, frame, until
from ledgers import final_states
from live import keys, quick_settings, read_all, running
from msgspec import structs
from ndstorage.ndtiff_dataset import NDTiffDataset
from waiting import PATIENCE_S

from refocusd.daemon.daemon import daemon_status
from refocusd.ledger import Ledger, ledger_path
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.profiles.profile import Microscope, Profile, save_profile
from refocusd.sources.attached.process import AttachProcess

STUDIO_ONLY = {"live": False}


def test_an_acquisition_in_memory_is_refocused_while_it_runs(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, _):
        store = standin.microscope.begin("my cells")
        for number in range(4):
            for channel in range(2):
                store.put({"time": number, "channel": channel}, frame(2 * number + channel))
        until(lambda: any(a.counts.passed_through == 8 for a in acquisitions(daemon)), "frame")
        store.put({"time": 4, "channel": 0}, frame(8))
        store.put({"time": 4, "channel": 1}, frame(9))
        standin.microscope.end(store)
        [about] = until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
    assert about.counts.acquired == about.counts.passed_through == 10
    assert about.name == "my cells"
    assert Path(about.output).parent == tmp_path / "out"
    written = read_all(Path(about.output))
    assert len(written) == 10
    pixels, metadata = written['{"channel":1,"time":3}']
    assert np.array_equal(pixels, frame(7))
    assert metadata["Camera"] == "Camera"
    assert metadata["Channel"] == "Cy5"
    assert metadata["PixelSizeUm"] == 0.645


def test_the_calibration_of_its_camera_is_found(tmp_path: Path) -> None:
    microscope = Microscope(camera="Camera", pixel_um=0.645)
    profile = Profile(created=datetime.now(UTC).isoformat(), version="1", microscope=microscope)
    save_profile(profile, tmp_path / "calibrations" / "camera.json")
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, _):
        store = standin.microscope.begin("calibrated")
        store.put({"time": 0, "channel": 0}, frame(0))
        until(lambda: any(a.counts.passed_through for a in acquisitions(daemon)), "frame")
        standin.microscope.end(store)
        [about] = until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
    [(_, metadata)] = read_all(Path(about.output)).values()
    assert metadata["refocusd"]["calibration"] == profile.id()


def test_images_that_come_in_an_odd_order_are_all_found(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, _):
        store = standin.microscope.begin()
        for number, (time_, z) in enumerate([(2, 1), (0, 0), (1, 2), (2, 0)]):
            store.put({"time": time_, "z": z}, frame(number))
        until(lambda: any(a.counts.passed_through == 4 for a in acquisitions(daemon)), "frame")
        store.put({"time": 0, "z": 2}, frame(9))
        standin.microscope.end(store)
        [about] = until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
    assert sorted(keys(Path(about.output))) == [
        '{"time":0,"z":0}',
        '{"time":0,"z":2}',
        '{"time":1,"z":2}',
        '{"time":2,"z":0}',
        '{"time":2,"z":1}',
    ]


def test_one_acquisition_after_the_other_is_taken(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, _):
        for number in range(2):
            store = standin.microscope.begin(f"run {number}")
            store.put({"time": 0}, frame(number))
            until(lambda: len(acquisitions(daemon)) == number + 1, "acquisition")  # noqa: B023
            standin.microscope.end(store)
            until(lambda: len(acquisitions(daemon, "ended")) == number + 1, "end")  # noqa: B023
        names = [about.name for about in acquisitions(daemon)]
        until(lambda: standin.alive <= 4, "release of what was taken")
    assert names == ["run 0", "run 1"]


def test_a_frame_of_another_size_fails_alone(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, _):
        store = standin.microscope.begin()
        store.put({"time": 0}, frame(0))
        store.put({"time": 1}, frame(1, (32, 64)))
        store.put({"time": 2}, frame(2))
        standin.microscope.running = True
        until(lambda: any(a.counts.passed_through == 2 for a in acquisitions(daemon)), "frame")
        standin.microscope.end(store)
        [about] = until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
        ledgers = daemon.settings.ledgers
    assert (about.counts.passed_through, about.counts.failed) == (2, 1)
    with closing(Ledger(ledger_path(ledgers, about.id))) as ledger:
        states = final_states(ledger, about.run, about.id)
    assert states['{"time":1}'] == "failed"


def test_an_acquisition_on_disk_is_followed_there_and_the_bridge_left_alone(tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "cells_1"
    raw.parent.mkdir()
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, _):
        dataset = NDTiffDataset(str(raw), name=None, writable=True)
        dataset.initialize({})
        store = standin.microscope.begin(save_path=str(raw))
        for number in range(5):
            dataset.put_image({"time": number}, frame(number), {"number": number})
            dataset._index_file.flush()
            store.put({"time": number}, frame(number))
        until(lambda: acquisitions(daemon), "acquisition")
        dataset.finish()
        dataset.close()
        standin.microscope.end(store)
        [about] = until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
        assert standin.pixel_nbytes == 0
    assert Path(about.raw) == raw
    assert about.counts.passed_through == 5
    assert len(keys(tmp_path / "raw" / "cells_1_refocused")) == 5


def test_it_is_found_again_when_micro_manager_was_restarted(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, process):
        until(lambda: standin.alive, "attached source")
        [first] = process.pids
        standin.stop()
        until(lambda: process.pids not in ([first], []), "successor of the hanging process")
        standin.calls.clear()
        standin.start()
        store = standin.microscope.begin("after")
        store.put({"time": 0}, frame(0))
        until(lambda: acquisitions(daemon), "acquisition")
        standin.microscope.end(store)
        [about] = until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
    assert about.counts.passed_through == 1


@pytest.mark.parametrize("calls", [1, 4, 9], ids=["at the start", "attaching", "attached"])
def test_a_micro_manager_that_dies_in_the_middle_of_a_call_is_left(
    tmp_path: Path, calls: int
) -> None:
    with (
        Standin(dies_after=calls) as standin,
        attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, process),
    ):
        [first] = until(lambda: process.pids, "process")
        until(lambda: not standin.serving, "end of Micro-Manager")
        until(lambda: process.pids not in ([first], []), "successor of the hanging process")
        standin.stop()
        standin.dies_after = None
        standin.start()
        store = standin.microscope.begin("after")
        store.put({"time": 0}, frame(0))
        until(lambda: acquisitions(daemon), "acquisition")
        standin.microscope.end(store)
        until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")


def test_a_restart_between_two_questions_is_noticed(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, _):
        until(lambda: standin.alive, "attached source")
        # Too quick for anybody to see the port closed; the new one does not know the objects.
        standin.stop()
        standin.start()
        store = standin.microscope.begin("after")
        store.put({"time": 0}, frame(0))
        until(lambda: acquisitions(daemon), "acquisition", 60)
        standin.microscope.end(store)
        until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")


def test_it_waits_quietly_until_micro_manager_is_started(tmp_path: Path) -> None:
    standin = Standin()
    with standin:
        pass  # a port that is free, to be used later
    with ExitStack() as resources:
        resources.callback(standin.stop)  # last, so that nobody waits for its answer
        daemon, _ = resources.enter_context(attached(tmp_path, standin.port, **STUDIO_ONLY))
        time.sleep(0.5)
        standin.start()
        until(lambda: standin.alive, "attached source")
        assert not acquisitions(daemon)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("4.2.0", "has version 4.2.0, refocusd needs 5.1.0"),
        (None, "has version 2.0.0, refocusd needs 5.1.0"),
    ],
)
def test_an_old_bridge_is_named_and_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], version: str | None, says: str
) -> None:
    said = ""
    with Standin(version=version) as standin, attached(tmp_path, standin.port):
        until(lambda: standin.calls, "question")

        def heard() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return says in said

        until(heard, "warning")
    assert {call.command for call in standin.calls} == {"connect"}
    assert "WARNING" in said


def test_another_program_on_the_port_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = ""
    with stranger() as port, attached(tmp_path, port):

        def heard() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "another program than Micro-Manager listens on port" in said

        until(heard, "warning")


def test_a_busy_micro_manager_is_waited_for_and_then_what_it_acquired_is_taken(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = ""
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, process):
        until(lambda: standin.alive, "attached source")
        before = process.pids
        with standin.microscope.blocking():
            # Like a script's `run_acquisition_with_settings(..., True)`: nobody else is answered.
            standin.microscope.acquire("blocking", [frame(number) for number in range(3)])

            def heard() -> bool:
                nonlocal said
                said += capfd.readouterr().err
                return "refocusd waits" in said

            until(heard, "warning")
        [about] = until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
        assert process.pids == before
    assert (about.name, about.counts.passed_through) == ("blocking", 3)
    assert "another program" not in said


def test_while_nothing_runs_the_bridge_is_asked_a_few_times_a_second(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port):
        until(lambda: standin.alive >= 4, "attached sources")
        standin.microscope.snap(frame(0))
        time.sleep(2.5)  # the first look at the snap, which takes more calls
        standin.calls.clear()
        time.sleep(2.5)
        assert 1 <= standin.rate(2.5) <= 25


def test_an_acquisition_with_heavy_frames_takes_a_third_of_the_bridge(tmp_path: Path) -> None:
    heavy = (1024, 1024)
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY):
        store = standin.microscope.begin()
        for number in range(80):
            store.put({"time": number}, frame(number, heavy))
        until(lambda: standin.pixel_nbytes, "frame")
        begun, before = time.monotonic(), standin.pixel_nbytes
        until(lambda: time.monotonic() - begun > 2.0 and standin.pixel_nbytes > before, "frames")
        taken = standin.pixel_nbytes - before
        spent = time.monotonic() - begun
        standin.microscope.end(store)
    assert taken > 0
    # One frame may be in transit at each end.
    assert taken <= 30e6 * spent + 2 * 2 * 1024 * 1024


def test_a_killed_attach_process_is_replaced(tmp_path: Path) -> None:
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (_, process):
        until(lambda: standin.alive, "attached source")
        [first] = process.pids
        psutil.Process(first).kill()
        until(lambda: process.pids not in ([first], []), "successor")


def test_a_daemon_that_was_restarted_gets_the_rest(tmp_path: Path) -> None:
    with Standin() as standin:
        settings = quick_settings(
            tmp_path, bridge_port=standin.port, studio_output=str(tmp_path / "out"), live=False
        )
        with ExitStack() as first, ExitStack() as rest:
            daemon = first.enter_context(running(settings))
            rest.enter_context(AttachProcess(daemon.endpoint, settings))
            store = standin.microscope.begin()
            for number in range(3):
                store.put({"time": number}, frame(number))
            until(lambda: any(a.counts.passed_through == 3 for a in acquisitions(daemon)), "frame")
            endpoint = daemon.endpoint
            first.close()
            store.put({"time": 3}, frame(3))
            daemon = rest.enter_context(running(structs.replace(settings, endpoint=endpoint)))
            until(lambda: any(a.counts.passed_through == 4 for a in acquisitions(daemon)), "rest")
            standin.microscope.end(store)
            [about] = until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
    assert len(keys(Path(about.output))) == 4


def test_an_output_folder_that_cannot_be_made_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    said = ""
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (_, process):
        until(lambda: standin.alive, "attached source")
        before = process.pids
        store = standin.microscope.begin()
        store.put({"time": 0}, frame(0))

        def heard() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "MDA is given up" in said

        until(heard, "warning")
        assert process.pids == before


def test_what_is_followed_already_is_not_followed_twice(tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "cells_1"
    raw.parent.mkdir()
    settings = {"live": False, "follow": [str(tmp_path / "raw")]}
    with Standin() as standin, attached(tmp_path, standin.port, **settings) as (daemon, process):
        until(lambda: standin.alive, "attached source")
        assert len(process.pids) == 2
        dataset = NDTiffDataset(str(raw), name=None, writable=True)
        dataset.initialize({})
        store = standin.microscope.begin(save_path=str(raw))
        for number in range(5):
            dataset.put_image({"time": number}, frame(number), {})
            dataset._index_file.flush()
        until(lambda: acquisitions(daemon), "acquisition")
        dataset.finish()
        dataset.close()
        standin.microscope.end(store)
        until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
        assert len(acquisitions(daemon)) == 1


def test_refocusd_run_attaches_by_itself(tmp_path: Path) -> None:
    flags = ["--backend", "identity", "--ring-mib", "64", "--ledgers", str(tmp_path / "ledgers")]
    log = tmp_path / "log" / "daemon.log"
    with Standin() as standin:
        flags += ["--studio", "on", "--bridge-port", str(standin.port)]
        with DaemonProcess([*flags, "--studio-output", str(tmp_path / "out")], log) as daemon:
            store = standin.microscope.begin()
            store.put({"time": 0}, frame(0))

            def ended() -> bool:
                details = daemon_status(daemon.endpoint, PATIENCE_S).details
                if details and not store.frozen:
                    standin.microscope.end(store)
                return any(about.state == "ended" for about in details)

            until(ended, "end of the acquisition")
    said = log.read_text(encoding="utf-8")
    assert "sources: hook, studio (on)" in said
    assert "attached to Micro-Manager: studio" in said


def test_what_came_while_a_killed_daemon_was_down_is_taken_by_the_next(tmp_path: Path) -> None:
    """Saved ones, with and without a window, and one in memory; nothing is done twice."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    flags = ["--backend", "identity", "--ring-mib", "64", "--ledgers", str(tmp_path / "ledgers")]
    images = [frame(number) for number in range(3)]

    def written() -> dict[str, int]:
        folders = [*raw.glob("*_refocused*"), *out.glob("*_refocused*")]
        return {folder.name.split("_")[0]: len(keys(folder)) for folder in folders}

    with Standin() as standin:
        flags += ["--studio", "on", "--bridge-port", str(standin.port), "--pick-up"]
        flags += ["--studio-output", str(out)]
        with DaemonProcess(flags, tmp_path / "first.log") as killed:
            Saved(standin.microscope, raw, "before").run(images)
            until(lambda: written() == {"before": 3}, "the first acquisition")
            until(lambda: daemon_status(killed.endpoint).details[0].state == "ended", "its end")
            killed.process.kill()
            killed.process.wait()
        standin.microscope.acquire("memory", images)
        Saved(standin.microscope, raw, "shown").run(images)
        Saved(standin.microscope, raw, "hidden", window=False).run(images)
        with DaemonProcess(flags, tmp_path / "next.log"):
            wanted = dict.fromkeys(("before", "memory", "shown", "hidden"), 3)
            until(lambda: written() == wanted, "all of them")
    assert len([*raw.glob("*_refocused*"), *out.iterdir()]) == 4


def test_a_micro_manager_that_becomes_busy_before_the_greeting_is_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = ""
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, process):
        until(lambda: standin.calls, "the probe")
        before = process.pids
        with standin.microscope.blocking():
            standin.microscope.acquire("blocking", [frame(0)])

            def heard() -> bool:
                nonlocal said
                said += capfd.readouterr().err
                return "refocusd waits" in said

            until(heard, "warning")
            time.sleep(5.5)  # pyjavaz itself gives up after 5 s
        until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
        assert process.pids == before
    assert "Traceback" not in said + capfd.readouterr().err


def test_a_fetch_outlives_a_bridge_that_is_blocked_for_longer_than_a_source_may_be_silent(
    tmp_path: Path,
) -> None:
    settings = {**STUDIO_ONLY, "source_timeout_s": 8.0}
    with (
        Standin(latency_s=0.005) as standin,
        attached(tmp_path, standin.port, **settings) as (daemon, _),
    ):
        standin.microscope.acquire("cells", [frame(number) for number in range(60)])
        until(lambda: any(a.counts.passed_through >= 8 for a in acquisitions(daemon)), "frames")
        with standin.microscope.blocking():
            time.sleep(13.0)
            assert [about.state for about in acquisitions(daemon)] == ["live"]
        [about] = until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
    assert about.counts.passed_through == 60


def test_a_successor_knows_where_acquisitions_were_saved(tmp_path: Path) -> None:
    """Micro-Manager was restarted: neither a window nor the settings name the folder any more."""
    raw = tmp_path / "raw"
    images = [frame(number) for number in range(3)]
    with Standin() as standin, attached(tmp_path, standin.port, **STUDIO_ONLY) as (daemon, process):
        Saved(standin.microscope, raw, "first").run(images)
        until(lambda: acquisitions(daemon, "ended"), "end of the acquisition")
        [first] = process.pids
        standin.stop()
        Saved(standin.microscope, raw, "second", window=False).run(images)
        standin.microscope.windows.clear()
        standin.microscope.settings = Settings()
        until(lambda: process.pids not in ([first], []), "successor of the hanging process")
        standin.start()
        until(lambda: len(acquisitions(daemon, "ended")) == 2, "end of the second")
    assert len(keys(raw / "second_1_refocused")) == 3
