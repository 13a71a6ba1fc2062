"""``refocusd resume`` completes a run, whatever stopped it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_workers import held_disk
from finished import (
    blurred,
    command,
    environment,
    key,
    ledger_of,
    raw_dataset,
    refocusd,
    told,
    verify,
)
from live import keys, opened, pump_until, quick_settings, read_all, running, source, write_stack
from recordings_on_disk import write_ndtiff
from waiting import PATIENCE_S, until

import refocusd as package
from refocusd.datasets.run_folder import LEDGER_COPY, RUN_FILE
from refocusd.demo.microscope import DemoMicroscope
from refocusd.errors import InputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.ledger import Attempt, Ledger, marked
from refocusd.models.bundle import load_bundle

MANY = 250
#: Ends a process at once: SIGKILL, or what `Popen.terminate` does on Windows.
KILL = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL


def written(dataset: Path) -> int:
    """Number of frames in a dataset that may not be complete yet."""
    try:
        return len(open_dataset(dataset))
    except InputError:
        return 0


def stop_midway(
    arguments: list[str], dataset: Path, place: Path, how: int, after: int, **more: str
) -> int:
    """Run a command until `frames` frames are written, then signal it; returns its exit status.

    The disk then stops writing, so that the command cannot finish before it gets the signal.
    """
    gate = place / "write on"
    gate.unlink(missing_ok=True)
    # A few more, because blocks other than frames may be as large.
    now = after - written(dataset) + 5
    process = subprocess.Popen(
        command(*arguments),
        env=environment(place, **held_disk(now, gate), **more),
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            until(
                lambda: process.poll() is not None or written(dataset) >= after, f"{after} frames"
            )
            assert process.poll() is None, process.stderr and process.stderr.read()
        except BaseException:
            process.kill()
            raise
        process.send_signal(how)
        gate.touch()
        return process.wait(PATIENCE_S)


def same_pixels(raw: Path, refocused: Path) -> None:
    """Assert that refocused pixels are raw's, as the identity engine makes them."""
    before, after = read_all(raw), read_all(refocused)
    assert set(before) == set(after)
    for axes, (pixels, _) in before.items():
        np.testing.assert_array_equal(after[axes][0], pixels)


def test_killed_again_and_again_it_ends_complete(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", MANY)
    output = tmp_path / "raw_refocused"
    stop_midway(["process", "raw"], output, tmp_path, KILL, 30)
    stop_midway(["resume", "raw"], output, tmp_path, KILL, written(output) + 30)
    status, said = verify(raw, place=tmp_path)
    assert status == 1
    # Killed between dataset and ledger: a frame is in the dataset but not in the ledger.
    assert {p["kind"] for p in said["runs"][0]["problems"]} <= {"not in the ledger"}
    done = refocusd("resume", raw, "--json", tmp_path / "done.json", place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "done.json").read_text())["datasets"][0]["attempted"] > 0
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    assert said["runs"][0]["refocused_pixels_compared"] == MANY
    same_pixels(raw, output)
    assert marked(tmp_path / "ledgers") == []
    assert told("resume", raw, place=tmp_path)[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is POSIX")
def test_interrupted_it_says_so_and_goes_on_later(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", MANY)
    output = tmp_path / "raw_refocused"
    assert stop_midway(["process", "raw"], output, tmp_path, signal.SIGINT, 30) == 130
    # A clean end: all frames of the dataset are in the ledger.
    status, said = verify(output, place=tmp_path)
    assert status == 1
    assert said["runs"][0]["problems"] == []
    assert len(said["runs"][0]["pending"]) == MANY - written(output)
    assert refocusd("resume", output, place=tmp_path).returncode == 0
    assert verify(raw, place=tmp_path)[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is POSIX")
def test_interrupted_again_and_again_it_ends_all_the_same(tmp_path: Path) -> None:
    """A second Ctrl-C during the stop used to leave a process that never ended."""
    raw_dataset(tmp_path / "raw", 20)
    output = tmp_path / "raw_refocused"
    held = held_disk(5, tmp_path / "never")
    with subprocess.Popen(
        command("process", "raw"), env=environment(tmp_path, **held), cwd=tmp_path
    ) as process:
        until(lambda: written(output) >= 5)

        def ended() -> bool:
            process.send_signal(signal.SIGINT)
            return process.poll() is not None

        until(ended)
        assert process.returncode != 0


def test_a_real_acquisition_whose_daemon_was_killed_is_finished(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    from pycromanager import Acquisition

    output = tmp_path / "orphan_1_refocused"
    with subprocess.Popen(
        command("run", "--announce", "--endpoint", "tcp://127.0.0.1:0"),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        hook = package.Source(json.loads(process.stdout.readline())["endpoint"])

        def saved(axes: Any, dataset: Any) -> None:
            if axes["time"] >= 10 and (output / RUN_FILE).exists():
                process.kill()

        arguments = hook.hooks(str(tmp_path), "orphan", image_saved_fn=saved)
        with Acquisition(show_display=False, **arguments) as acquisition:
            acquisition.acquire(demo_microscope.events_sequenced(60, [0.0]))
        hook.wait(2.0)
        process.kill()
    raw = tmp_path / "orphan_1"
    assert [m.acquisition for m in marked(tmp_path / "ledgers")]
    assert verify(raw, place=tmp_path)[0] == 1
    done = refocusd("resume", raw, place=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    assert said["runs"][0]["frames"] == 60
    same_pixels(raw, output)
    assert marked(tmp_path / "ledgers") == []


def with_an_odd_frame(folder: Path) -> Path:
    """A raw dataset whose frame 3 has another size, so that it fails."""
    return written_as(folder, [p if n != 3 else p[:32].copy() for n, p in enumerate(blurred(6))])


def repair(raw: Path) -> None:
    """Write the same dataset with a frame 3 that fits."""
    shutil.rmtree(raw)
    written_as(raw, list(blurred(6)))


def written_as(folder: Path, planes: list[Any]) -> Path:
    return write_ndtiff(
        folder, [({"time": n, "channel": "DAPI"}, plane, {}) for n, plane in enumerate(planes)]
    )


def test_what_failed_is_attempted_again_unless_that_is_not_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = with_an_odd_frame(tmp_path / "raw")
    assert refocusd("process", raw, place=tmp_path).returncode == 1
    status, said = verify(raw, place=tmp_path)
    assert status == 1
    ((problem),) = said["runs"][0]["problems"]
    assert (problem["kind"], problem["axes"]) == ("failed", key(3))
    assert "64×32" in problem["detail"]
    # A further attempt fails too, because the frame is unchanged.
    assert refocusd("resume", raw, place=tmp_path).returncode == 1
    repair(raw)
    assert told("resume", raw, "--no-retry-failed", place=tmp_path)[0] == 1
    assert "nothing to do" in capsys.readouterr().out
    done = refocusd("resume", raw, place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert verify(raw, place=tmp_path)[0] == 0
    with Ledger(ledger_of(tmp_path), read_only=True) as ledger:
        assert len(ledger) == 6 + 2  # every attempt is kept


@pytest.mark.parametrize("sink", ["ndtiff", "ome-zarr"])
def test_a_frame_that_the_dataset_lost_is_made_again(tmp_path: Path, sink: str) -> None:
    raw = raw_dataset(tmp_path / "raw", 8)
    assert refocusd("process", raw, place=tmp_path, REFOCUSD_SINK=sink).returncode == 0
    if sink == "ome-zarr":
        chunks = (p for p in (tmp_path / "raw_refocused").rglob("c/*/*/*/*/*") if p.is_file())
        next(chunks).unlink()
    else:
        stack = tmp_path / "raw_refocused" / "NDTiffStack.tif"
        os.truncate(stack, stack.stat().st_size - 3 * 64 * 64)
    status, said = verify(raw, place=tmp_path)
    assert status == 1
    assert {p["kind"] for p in said["runs"][0]["problems"]} == {"missing from the dataset"}
    assert refocusd("resume", raw, place=tmp_path).returncode == 0
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    assert said["runs"][0]["refocused_pixels_compared"] == 8


@pytest.mark.parametrize("damage", ["deleted", "truncated", "both deleted"])
def test_a_lost_or_damaged_ledger_is_put_right(tmp_path: Path, damage: str) -> None:
    raw = raw_dataset(tmp_path / "raw", 8)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    ledger = ledger_of(tmp_path)
    if damage == "truncated":
        ledger.write_bytes(ledger.read_bytes()[:9000])
    else:
        ledger.unlink()
    if damage == "both deleted":
        (tmp_path / "raw_refocused" / LEDGER_COPY).unlink()
    done = refocusd("resume", raw, place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "ledgers").glob("*.damaged-*[0-9]"))) == (damage == "truncated")
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    # Known from the frames' own metadata, since nothing else was left.
    assert said["runs"][0]["refocused_pixels_compared"] == 8
    assert said["runs"][0]["notes"] == []


def test_a_recording_of_another_kind_is_finished_as_well(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "cells.ome.tif", blurred(6))
    assert refocusd("process", path, "--output", "out", place=tmp_path).returncode == 0
    output = tmp_path / "out" / "cells_refocused"
    with Ledger(ledger_of(tmp_path)) as ledger:
        run = json.loads((output / RUN_FILE).read_text())
        attempts = Attempt(run["run"], run["acquisition"], '{"z":2}', "failed", "why")
        ledger.record([attempts])
    stack = output / "NDTiffStack.tif"
    os.truncate(stack, stack.stat().st_size - 4 * 64 * 64)
    done = refocusd("resume", output, place=tmp_path)
    assert done.returncode == 0, done.stderr
    status, said = verify(output, place=tmp_path)
    assert status == 0, said
    assert said["raw"] == str(path)
    assert said["runs"][0]["frames"] == 6


def test_raw_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    raw = with_an_odd_frame(tmp_path / "raw")
    refocusd("process", raw, place=tmp_path)
    shutil.rmtree(raw)
    status, said = told("resume", tmp_path / "raw_refocused", place=tmp_path)
    assert status == 2
    assert "raw data are missing" in said


def test_nothing_refocused_yet_names_the_command_that_does_it(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 3)
    status, said = told("resume", raw, tmp_path / "absent", place=tmp_path)
    assert status == 2
    assert "refocusd process" in said
    assert "does not exist" in said


def test_a_run_goes_on_with_its_own_model_or_not_at_all(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(load_bundle("live-nuclei").folder, bundle)
    with (bundle / "rdf.yaml").open("a", encoding="utf-8") as rdf:
        rdf.write("# another model\n")
    more = {"REFOCUSD_BACKEND": "openvino"}
    raw = with_an_odd_frame(tmp_path / "raw")
    assert refocusd("process", raw, "--model", bundle, place=tmp_path, **more).returncode == 1
    repair(raw)
    bundle.rename(tmp_path / "moved")
    status, said = told("resume", raw, place=tmp_path, **more)
    assert status == 2
    assert load_bundle(tmp_path / "moved").sha256[:12] in said
    assert "refocusd process" in said
    # The same model is the same run, wherever it is and in whatever precision it runs.
    flags = ["--model", tmp_path / "moved", "--precision", "f32"]
    done = refocusd("resume", raw, *flags, place=tmp_path, **more)
    assert done.returncode == 0, done.stderr
    assert verify(raw, place=tmp_path)[0] == 0
    assert [p.name for p in tmp_path.glob("raw_refocused*")] == ["raw_refocused"]


def test_what_a_running_daemon_works_on_is_left_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = raw_dataset(tmp_path / "raw", 4)
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        outcomes: list[Any] = []
        upload = opened(connection, Path(), raw=str(raw), output_="")
        upload._on_outcome = outcomes.append
        upload.submit(blurred(4)[0], key(0), "{}", time.perf_counter_ns())
        pump_until(upload, lambda: outcomes)
        flags = ["--endpoint", daemon.endpoint]
        assert told("resume", raw, *flags, place=tmp_path)[0] == 0
        assert "catches up by itself" in capsys.readouterr().out.replace("\n", " ")
        status, said = verify(raw, *flags, place=tmp_path)
        assert (status, said["runs"][0]["running"]) == (1, True)
        assert said["runs"][0]["problems"] == []
        assert len(said["runs"][0]["pending"]) == 3
        # Nobody answers there, so it is unknown who is writing.
        status, said = told("resume", raw, place=tmp_path)
        assert status == 2
        assert "being written by another process" in said
        upload.close(4)
        pump_until(upload, lambda: upload.closed)
    assert verify(raw, place=tmp_path)[0] == 0
    assert len(keys(tmp_path / "raw_refocused")) == 4
