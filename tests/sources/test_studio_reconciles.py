"""No acquisition of Micro-Manager's GUI is missed: what exists counts, seen running or not."""

from __future__ import annotations

import logging
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bridge_standin_acquisitions import Saved, SaveMode
from bridge_standin_microscope import Microscope, Settings
from bridge_standin_rig import Rig, frame
from live import keys, quick_settings, read_all, running

from refocusd.daemon.daemon import Daemon
from refocusd.errors import InputError

SIDE = (48, 48)
MODES: list[SaveMode] = ["NDTIFF", "MULTIPAGE_TIFF", "SINGLEPLANE_TIFF_SERIES"]
#: pyjavaz drops its socket without closing it.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:Unclosed socket <zmq.Socket\(zmq.REQ:ResourceWarning"
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(quick_settings(tmp_path_factory.mktemp("daemon"))) as daemon:
        yield daemon


@pytest.fixture
def rig(daemon: Daemon, tmp_path: Path) -> Iterator[Rig]:
    with Rig(daemon, tmp_path) as rig:
        rig.studio.step()
        yield rig


@pytest.fixture
def slow(daemon: Daemon, tmp_path: Path) -> Iterator[Rig]:
    """A rig with a slow bridge, so that a fetch can be observed in progress."""
    with Rig(daemon, tmp_path, latency_s=0.005) as rig:
        rig.studio.step()
        yield rig


def images(count: int, first: int = 0) -> list[np.ndarray[Any, Any]]:
    return [frame(first + number, SIDE) for number in range(count)]


def test_an_acquisition_shorter_than_any_question_is_taken(rig: Rig) -> None:
    rig.microscope.acquire("short", images(5))
    [about] = rig.wait_ended(1)
    assert (about.name, about.counts.passed_through, about.counts.pending) == ("short", 5, 0)
    assert np.array_equal(read_all(Path(about.output))['{"time":4}'][0], frame(4, SIDE))


def test_acquisitions_without_a_gap_are_taken_one_by_one_in_order(rig: Rig) -> None:
    for number in range(4):
        rig.microscope.acquire(f"run {number}", images(3, 10 * number))
    found = rig.wait_ended(4)
    assert [about.name for about in found] == [f"run {number}" for number in range(4)]
    assert {about.counts.passed_through for about in found} == {3}


@pytest.mark.parametrize("mode", MODES)
def test_a_short_saved_acquisition_is_taken_from_disk(
    rig: Rig, tmp_path: Path, mode: SaveMode
) -> None:
    """It has no window, and only the settings name its folder."""
    saved = Saved(rig.microscope, tmp_path / "raw", "cells", mode, window=False)
    saved.run(images(3))
    [about] = rig.wait_ended(1)
    assert rig.standin.pixel_nbytes == 0
    assert Path(about.raw) == saved.folder
    assert about.counts.passed_through == 3
    assert len(keys(tmp_path / "raw" / "cells_1_refocused")) == 3


def test_the_folder_of_an_acquisition_is_found_by_its_window(rig: Rig, tmp_path: Path) -> None:
    saved = Saved(rig.microscope, tmp_path / "raw", "cells").run(images(3))
    rig.microscope.settings = rig.microscope.settings.__class__()
    [about] = rig.wait_ended(1)
    assert Path(about.raw) == saved.folder
    # The GUI numbers its channels, but rules and models refer to their names.
    _, metadata = read_all(Path(about.output))['{"channel":0,"time":2}']
    assert metadata["Channel"] == "DAPI"


def test_a_folder_that_is_made_with_the_first_image_is_waited_for(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    saved = Saved(rig.microscope, tmp_path / "raw", "cells", "SINGLEPLANE_TIFF_SERIES")
    rig.wait(lambda: "an acquisition of Micro-Manager is saved at" in caplog.text, "a look")
    assert not saved.folder.exists()
    saved.run(images(3))
    [about] = rig.wait_ended(1)
    assert Path(about.raw) == saved.folder
    assert about.counts.passed_through == 3
    assert rig.standin.pixel_nbytes == 0


def test_a_saved_one_is_taken_while_another_is_fetched_from_memory(
    slow: Rig, tmp_path: Path
) -> None:
    slow.microscope.acquire("in memory", images(60))
    slow.wait(lambda: slow.standin.pixel_nbytes, "fetch")
    Saved(slow.microscope, tmp_path / "raw", "cells").run(images(3))
    first, second = slow.wait_ended(2)
    assert [first.name, second.name] == ["cells_1", "in memory"]
    assert (first.counts.passed_through, second.counts.passed_through) == (3, 60)


def test_an_open_album_is_not_taken_for_an_acquisition(rig: Rig) -> None:
    rig.microscope.add_to_album(frame(0, SIDE))
    store = rig.microscope.begin("cells")
    rig.microscope.add_to_album(frame(1, SIDE))
    store.put({"time": 0}, frame(7, SIDE))
    rig.studio.step()
    rig.microscope.end(store)
    [about] = rig.wait_ended(1)
    assert (about.name, about.counts.acquired) == ("cells", 1)


def test_a_second_window_on_an_acquisition_is_not_a_second_acquisition(rig: Rig) -> None:
    store = rig.microscope.acquire("cells", images(2))
    rig.wait_ended(1)
    duplicate = rig.microscope.acquire("cells", images(2))
    duplicate.summary = store.summary
    rig.microscope.acquire("next", images(1))
    assert [about.name for about in rig.wait_ended(2)] == ["cells", "next"]


def test_an_older_window_is_left_as_it_is(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    with caplog.at_level("INFO"):
        rig.microscope.acquire("old", images(2), started=yesterday)
        rig.microscope.acquire("new", images(2))
        assert [about.name for about in rig.wait_ended(1)] == ["new"]
    assert "old was acquired in Micro-Manager before refocusd was started" in caplog.text


def test_a_window_that_says_later_what_it_shows_is_taken(rig: Rig) -> None:
    store = rig.microscope.begin("cells")
    said, store.summary = store.summary, {}
    looked = len(rig.standin.calls)
    rig.wait(lambda: len(rig.standin.calls) > looked + 20, "looks")
    store.summary = said
    store.put({"time": 0}, frame(0, SIDE))
    rig.microscope.end(store)
    [about] = rig.wait_ended(1)
    assert (about.name, about.counts.passed_through) == ("cells", 1)


@pytest.mark.parametrize("engine", ["AcqEngJ", "Clojure", "one that does not tell"])
def test_an_acquisition_that_is_neither_shown_nor_saved_is_told(
    rig: Rig, caplog: pytest.LogCaptureFixture, engine: Any
) -> None:
    if engine not in ("AcqEngJ", "Clojure"):
        rig.microscope.last_summary = None
    before = rig.unseen()
    rig.microscope.acquire("shown", images(1))
    rig.wait_ended(1)
    store = rig.microscope.begin("hidden", window=False, engine=engine)
    rig.wait(lambda: rig.studio.running, "a look")
    rig.microscope.end(store)
    [said] = rig.wait(lambda: rig.unseen(before), "word of it")
    assert ("hidden" in said) == (rig.microscope.last_summary is not None)
    assert "let Micro-Manager save" in said
    assert caplog.text.count("is not refocused") == 1


@pytest.mark.parametrize("engine", ["AcqEngJ", "Clojure"])
def test_acquisitions_whose_windows_are_closed_at_once_are_told(
    rig: Rig, caplog: pytest.LogCaptureFixture, engine: Any
) -> None:
    before = rig.unseen()
    for name in ("first", "second"):
        rig.microscope.close(rig.microscope.acquire(name, images(2), engine=engine))
        rig.microscope.add_to_album(frame(0, SIDE))
        rig.wait(partial(lambda said: any(said in each for each in rig.unseen(before)), name), name)
    rig.microscope.acquire("kept", images(1), engine=engine)
    [about] = rig.wait_ended(1)
    assert about.name == "kept"
    assert [said.split()[0] for said in rig.unseen(before)] == ["first", "second"]
    # Another process does not count them again.
    rig.detach()
    rig.attach()
    looked = len(rig.standin.calls)
    rig.wait(lambda: len(rig.standin.calls) > looked + 40, "looks")
    assert len(rig.unseen(before)) == 2
    assert caplog.text.count("is not refocused") == 2


def test_a_saved_acquisition_is_found_though_other_settings_were_made_at_once(
    rig: Rig, tmp_path: Path
) -> None:
    before = rig.unseen()
    Saved(rig.microscope, tmp_path / "raw", "cells", window=False).run(images(3))
    rig.microscope.settings = Settings(save=True, root=str(tmp_path))
    [about] = rig.wait_ended(1)
    assert (about.name, about.counts.passed_through) == ("cells_1", 3)
    assert not rig.unseen(before)


def test_what_is_recorded_again_in_the_place_of_what_was_deleted_is_taken(
    rig: Rig, tmp_path: Path
) -> None:
    for number in range(2):
        saved = Saved(rig.microscope, tmp_path / "raw", "cells").run(images(3, 10 * number))
        about = rig.wait_ended(number + 1)[-1]
        assert (about.raw, about.counts.passed_through) == (str(saved.folder), 3)
        output = Path(about.output)
        assert np.array_equal(
            read_all(output)['{"channel":0,"time":0}'][0], frame(10 * number, SIDE)
        )
        shutil.rmtree(saved.folder)
        shutil.rmtree(output)


def test_save_roots_of_short_acquisitions_without_a_window_are_all_found(
    rig: Rig, tmp_path: Path
) -> None:
    for number in range(4):
        saved = Saved(rig.microscope, tmp_path / f"root {number}", "cells", window=False)
        for time_, pixels in enumerate(images(3)):
            saved.put(time_, pixels)
        rig.wait(lambda: (tmp_path / f"root {number}") in watched(rig), "a look")  # noqa: B023
        saved.end()
    assert {about.counts.passed_through for about in rig.wait_ended(4)} == {3}


def watched(rig: Rig) -> list[Path]:
    assert rig.roots is not None
    return list(rig.roots._watched)


def test_what_an_earlier_daemon_had_begun_is_finished(slow: Rig) -> None:
    """It was killed; frames that it had not fetched are still in Micro-Manager's memory."""
    slow.microscope.acquire("cells", images(40))
    slow.wait(lambda: any(a.counts.passed_through >= 8 for a in slow.acquisitions()), "frames")
    slow.detach()
    slow.since_s = time.time()  # of the next daemon
    slow.attach()
    slow.wait(lambda: slow.acquisitions("ended")[-1].counts.passed_through == 40, "the rest")
    [output] = slow.out.iterdir()
    assert len(keys(output)) == 40


def test_what_was_saved_before_refocusd_was_started_is_named(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig.detach()
    shown = Saved(rig.microscope, tmp_path / "raw", "shown").run(images(3))
    hidden = Saved(rig.microscope, tmp_path / "raw", "hidden", window=False).run(images(3))
    rig.since_s = time.time() + 1.0
    with caplog.at_level("INFO"):
        rig.attach()
        rig.wait(lambda: caplog.text.count("refocusd process ") >= 3, "words")
    assert f"refocusd process {shown.folder}" in caplog.text
    assert f"{hidden.folder} was never refocused; to do it: refocusd process" in caplog.text


def test_files_that_are_closed_late_are_waited_for(rig: Rig, tmp_path: Path) -> None:
    saved = Saved(rig.microscope, tmp_path / "raw", "late")
    for number, pixels in enumerate(images(3)):
        saved.put(number, pixels)
    saved.end(files=False)
    rig.wait(rig.acquisitions, "acquisition")
    rig.microscope.acquire("next", images(1))
    assert [about.name for about in rig.wait_ended(1)] == ["next"]
    saved.close_files()
    assert [about.counts.passed_through for about in rig.wait_ended(2)] == [1, 3]


def test_a_window_closed_before_its_images_were_fetched_is_named(
    slow: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    store = slow.microscope.acquire("cells", images(60))
    slow.wait(lambda: slow.acquisitions("live"), "acquisition")
    slow.microscope.close(store)
    [about] = slow.wait_ended(1)
    assert about.counts.acquired == 60
    assert about.counts.pending == 60 - about.counts.passed_through > 0
    assert "its window was closed; keep windows open" in caplog.text


def test_what_is_not_fetched_yet_is_pending(slow: Rig) -> None:
    slow.microscope.acquire("cells", images(150))
    slow.wait(
        lambda: any(about.counts.passed_through >= 3 for about in slow.acquisitions()), "frames"
    )
    [about] = slow.acquisitions("live")
    assert about.counts.acquired == 150
    assert about.counts.pending == 150 - about.counts.passed_through > 100


def test_refocusd_stopped_during_a_fetch_says_what_is_pending(tmp_path: Path) -> None:
    """As with `refocusd run --stop`: the attached sources end first, then the daemon."""
    with (
        running(quick_settings(tmp_path)) as daemon,
        Rig(daemon, tmp_path, latency_s=0.005) as slow,
    ):
        slow.studio.step()
        slow.microscope.acquire("cells", images(150))
        slow.wait(
            lambda: any(about.counts.passed_through >= 3 for about in slow.acquisitions()), "frames"
        )
    [counts] = daemon.counts().values()
    assert counts.acquired == 150
    assert counts.pending == 150 - counts.passed_through > 100
    assert daemon.unfinished


def test_that_there_is_no_raw_data_is_a_warning_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(quick_settings(tmp_path)) as daemon, Rig(daemon, tmp_path) as rig:
        rig.studio.step()
        for number in range(3):
            rig.microscope.acquire(f"run {number}", images(1))
        rig.wait_ended(3)
    said = [each for each in caplog.records if "what live cannot do is skipped" in each.message]
    assert [each.levelname for each in said if each.levelno >= logging.WARNING] == ["WARNING"]


def test_another_attach_process_goes_on_and_takes_nothing_twice(slow: Rig) -> None:
    slow.microscope.acquire("first", images(2))
    slow.wait_ended(1)
    slow.microscope.acquire("second", images(40))
    slow.wait(
        lambda: any(about.counts.passed_through >= 8 for about in slow.acquisitions("live")),
        "half of the frames",
    )
    slow.detach()
    slow.attach()
    before = slow.standin.pixel_nbytes
    slow.wait(lambda: slow.acquisitions("ended")[-1].counts.passed_through == 40, "the rest")
    slow.microscope.acquire("third", images(1))
    slow.wait(lambda: slow.acquisitions("ended")[-1].name == "third", "third acquisition")
    ids = Counter(about.id for about in slow.acquisitions())
    assert sorted(ids.values()) == [1, 1, 2]  # the second was begun twice
    assert len(list(slow.out.iterdir())) == 3
    [second] = slow.out.glob("second*")
    assert len(keys(second)) == 40
    assert slow.standin.pixel_nbytes - before < 36 * frame(0, SIDE).nbytes


def test_many_save_roots_leave_few_threads(rig: Rig, tmp_path: Path) -> None:
    before = threading.active_count()
    for number in range(8):
        Saved(rig.microscope, tmp_path / f"root {number}", "cells").run(images(1))
        rig.wait_ended(number + 1)
    rig.wait(lambda: threading.active_count() <= before + 5, "end of idle threads")


def test_saved_acquisitions_leave_no_thread_each(rig: Rig, tmp_path: Path) -> None:
    before = threading.active_count()
    for number in range(10):
        Saved(rig.microscope, tmp_path / "raw", f"cells{number}").run(images(1))
    rig.wait_ended(10)
    # The thread that watches the folder.
    rig.wait(lambda: threading.active_count() <= before + 1, "end of their threads")


@pytest.mark.timeout(900)
def test_none_of_200_short_and_overlapping_acquisitions_is_missed(rig: Rig, tmp_path: Path) -> None:
    """Time is compressed: acquisitions of 0.2-2 s take 0-60 ms here, requests as long as usual.

    In between, the user snaps, watches live mode and presses Album.
    """
    expected: dict[str, int] = {}
    meanwhile: Counter[str] = Counter()
    before = rig.unseen()
    user = threading.Thread(target=_acquire_200, args=(rig, tmp_path, expected, meanwhile))
    user.start()
    while user.is_alive():
        time.sleep(min(rig.studio.step(), 0.02))
    assert len(expected) == 200
    assert all(meanwhile[what] >= 10 for what in ("snap", "live", "album", "blocking", *MODES))
    assert meanwhile["saved while another is fetched"] >= 10
    looked_at = 0.0

    def found() -> bool:
        # The daemon remembers only the last ended ones; the outputs are complete.
        nonlocal looked_at
        if rig.studio.busy or time.monotonic() - looked_at < 2.0:
            return False
        looked_at = time.monotonic()
        counts: Counter[str] = Counter()
        for folder in (*rig.out.glob("a*"), *tmp_path.glob("root*/*_refocused")):
            try:
                counts[folder.name.split("_")[0]] += len(keys(folder))
            except InputError:
                return False  # it has only just begun
        return counts == expected

    rig.wait(found, "200 acquisitions", 600)
    rig.wait(lambda: not rig.acquisitions("live"), "end")
    assert not rig.unseen(before)


def _acquire_200(
    rig: Rig, tmp_path: Path, expected: dict[str, int], meanwhile: Counter[str]
) -> None:
    choose = random.Random(20261130)
    microscope = rig.microscope
    late: list[threading.Timer] = []
    for number in range(200):
        name, count = f"a{number}", choose.randint(1, 4)
        blocking = choose.random() < 0.1
        if blocking:
            microscope.server.acquire()
            meanwhile["blocking"] += 1
        about: dict[str, Any] = {"engine": choose.choice(["AcqEngJ", "Clojure"])}
        if choose.random() < 0.5:
            store = microscope.begin(name, **about)
            for time_, pixels in enumerate(images(count, number)):
                store.put({"time": time_}, pixels)
                time.sleep(choose.uniform(0.0, 0.02))
            microscope.end(store)
        else:
            about["window"] = choose.random() < 0.8
            root, mode = tmp_path / f"root {number % 3}", choose.choice(MODES)
            meanwhile[mode] += 1
            meanwhile["saved while another is fetched"] += rig.studio.busy
            saved = Saved(microscope, root, name, mode, count, **about)
            for time_, pixels in enumerate(images(count, number)):
                saved.put(time_, pixels)
                time.sleep(choose.uniform(0.0, 0.02))
            saved.end(files=False)
            late.append(threading.Timer(choose.uniform(0.0, 1.0), saved.close_files))
            late[-1].start()
        expected[name] = count
        for what in ("album", "snap", "live"):
            if choose.random() < 0.1:
                meanwhile[what] += 1
                _look(microscope, what, number)
        if blocking:
            microscope.server.release()
        if choose.random() < 0.2:
            time.sleep(choose.uniform(0.0, 0.3))
    for timer in late:
        timer.join()


def _look(microscope: Microscope, how: str, number: int) -> None:
    """What a user does between two acquisitions without acquiring."""
    pixels = frame(number, SIDE)
    if how == "album":
        microscope.add_to_album(pixels)
    elif how == "snap":
        microscope.snap(pixels)
    else:
        for image in range(3):
            microscope.expose(image, pixels)
        microscope.stop_live()
