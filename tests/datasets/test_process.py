"""``refocusd process``: recordings on disk are refocused from scratch, once."""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from finished import blurred, key, raw_dataset, refocusd, snapshot, told, verify
from live import keys, opened, pump_until, quick_settings, read_all, running, source, write_stack
from test_resume import KILL, stop_midway, written

from refocusd.datasets.run_folder import RUN_FILE
from refocusd.ledger import mark_open


def run_file(output: Path) -> Any:
    return json.loads((output / RUN_FILE).read_text(encoding="utf-8"))


def test_several_kinds_in_turn_and_a_bad_one_stops_none(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 8)
    stack = write_stack(tmp_path / "cells.tif", blurred(5, seed=1))
    folder = tmp_path / "planes"
    folder.mkdir()
    for n, plane in enumerate(blurred(3, side=96, seed=2)):
        tifffile.imwrite(folder / f"img_t{n:03}.tif", plane)
    (tmp_path / "bad.tif").write_text("not an image")
    before = snapshot(raw, folder) | {str(stack): stack.read_bytes()}
    paths = [raw, tmp_path / "bad.tif", stack, folder]
    figures = tmp_path / "figures.json"
    done = refocusd("process", *paths, "--json", figures, place=tmp_path)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "bad.tif" in errors[0]
    assert "Traceback" not in done.stderr
    datasets = json.loads(figures.read_text())["datasets"]
    assert [d["error"] for d in datasets] == [False, True, False, False]
    assert [d["attempted"] for d in datasets] == [8, 0, 5, 3]
    assert [d.get("passed_through") for d in datasets] == [8, None, 5, 3]
    assert all(d["frames_per_s"] > 0 for d in datasets if not d["error"])
    for name in ("raw_refocused", "cells_refocused", "planes_refocused"):
        assert name in done.stdout
        assert verify(tmp_path / name, place=tmp_path)[0] == 0
    # Raw is unchanged.
    assert snapshot(raw, folder) | {str(stack): stack.read_bytes()} == before


def test_only_bad_paths_are_an_error(tmp_path: Path) -> None:
    status, said = told("process", tmp_path / "absent", place=tmp_path)
    assert status == 2
    assert "does not exist" in said


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 4)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    before = snapshot(tmp_path / "raw_refocused")
    again = refocusd("process", raw, place=tmp_path)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert snapshot(tmp_path / "raw_refocused") == before


@pytest.mark.parametrize("kind", ["ndtiff", "tiff"])
def test_killed_and_started_again_it_goes_on(tmp_path: Path, kind: str) -> None:
    if kind == "ndtiff":
        path = raw_dataset(tmp_path / "raw", 300)
    else:
        path = write_stack(tmp_path / "raw.tif", blurred(300))
    output = tmp_path / "raw_refocused"
    stop_midway(["process", str(path)], output, tmp_path, KILL, 20)
    there = written(output)
    figures = tmp_path / "figures.json"
    done = refocusd("process", path, "--json", figures, place=tmp_path)
    assert done.returncode == 0, done.stderr
    (dataset,) = json.loads(figures.read_text())["datasets"]
    assert dataset["attempted"] <= 300 - there
    assert verify(path, place=tmp_path)[0] == 0
    assert len(keys(output)) == 300


def test_killed_before_the_run_was_noted_it_goes_on(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 200)
    output = tmp_path / "raw_refocused"
    stop_midway(["process", "raw"], output, tmp_path, KILL, 5)
    (output / RUN_FILE).unlink()
    # Even without that file, refocused frames are not mistaken for raw ones.
    for command in ("verify", "process", "resume"):
        status, said = told(command, output, place=tmp_path)
        assert status == 2
        assert "restore that file" in said
    done = refocusd("process", raw, place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert verify(raw, place=tmp_path)[0] == 0
    assert [p.name for p in tmp_path.glob("raw_refocused*")] == ["raw_refocused"]


def test_another_run_goes_beside_the_first_and_both_are_verified(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 3)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    first = snapshot(tmp_path / "raw_refocused")
    more = {"REFOCUSD_BACKEND": "openvino", "REFOCUSD_PASS_IN_FOCUS": "false"}
    done = refocusd("process", raw, place=tmp_path, **more)
    assert done.returncode == 0, done.stderr
    run = run_file(tmp_path / "raw_refocused")
    (second,) = (p for p in tmp_path.glob("raw_refocused_*") if p.is_dir())
    assert second.name == f"raw_refocused_{run_file(second)['run'][:8]}"
    assert run_file(second)["acquisition"] == run["acquisition"]
    assert snapshot(tmp_path / "raw_refocused") == first
    status, said = verify(raw, place=tmp_path)
    assert status == 0
    assert {r["run"] for r in said["runs"]} == {run["run"], run_file(second)["run"]}
    assert sorted(r["states"].popitem()[0] for r in said["runs"]) == ["passed_through", "refocused"]
    # Each of them is found again.
    for again in ({}, more):
        assert "nothing to do" in refocusd("process", raw, place=tmp_path, **again).stdout


def test_output_goes_where_it_is_asked_for(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 3)
    for _ in range(2):
        done = refocusd("process", raw, "--output", tmp_path / "out", place=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert not (tmp_path / "raw_refocused").exists()
    assert verify(tmp_path / "out" / "raw_refocused", place=tmp_path)[0] == 0
    # And again in another folder.
    done = refocusd("process", raw, "--output", tmp_path / "two", place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(keys(tmp_path / "two" / "raw_refocused")) == 3


def test_what_was_refocused_live_keeps_its_acquisition(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 4)
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, Path(), raw=str(raw), output_="")
        upload.close(4)
        pump_until(upload, lambda: upload.closed)
    done = refocusd("process", raw, place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert run_file(tmp_path / "raw_refocused")["acquisition"] == upload.acquisition


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 3)
    (tmp_path / "raw_refocused").mkdir()
    (tmp_path / "raw_refocused" / "thesis.txt").write_text("years of work")
    other = raw_dataset(tmp_path / "other", 3)
    done = refocusd("process", raw, other, place=tmp_path)
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert [p.name for p in (tmp_path / "raw_refocused").iterdir()] == ["thesis.txt"]
    assert len(keys(tmp_path / "other_refocused")) == 3


def test_refocused_frames_are_not_refocused_again(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 3)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    status, said = told("process", tmp_path / "raw_refocused", place=tmp_path)
    assert status == 2
    assert "name the raw data" in said


def test_frames_keep_what_the_microscope_said(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 3)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    before, after = read_all(raw), read_all(tmp_path / "raw_refocused")
    for n in range(3):
        pixels, metadata = after[key(n)]
        np.testing.assert_array_equal(pixels, before[key(n)][0])
        ours = metadata.pop("refocusd")
        assert metadata == before[key(n)][1]
        assert (ours["live"], ours["state"]) == (False, "passed_through")


def test_two_copies_of_a_dataset_are_two_acquisitions(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path / "raw", 3)
    shutil.copytree(raw, tmp_path / "copy")
    done = refocusd("process", raw, tmp_path / "copy", place=tmp_path)
    assert done.returncode == 0, done.stderr
    names = ("raw_refocused", "copy_refocused")
    assert len({run_file(tmp_path / name)["acquisition"] for name in names}) == 2
    assert all(len(keys(tmp_path / name)) == 3 for name in names)


@pytest.mark.skipif(sys.platform == "win32", reason="there the folder's access list decides")
def test_what_a_computer_keeps_for_its_user_no_other_user_reads(tmp_path: Path) -> None:
    """Logs, ledgers and lists of outputs are private; files beside frames are shared like these."""
    raw = raw_dataset(tmp_path / "raw", 2)
    before = os.umask(0o022)
    try:
        done = refocusd("--log-file", "our.log", "process", raw, place=tmp_path)
        mark_open(tmp_path / "ledgers", b"{}", str(uuid.uuid4()))
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    kept = [tmp_path / "our.log", *(p for p in (tmp_path / "ledgers").rglob("*") if p.is_file())]
    kept = [path for path in kept if path.suffix != ".begin"]  # empty, and only locked
    assert {path.suffix for path in kept} >= {".log", ".sqlite", ".txt", ".json"}
    assert {path.name: path.stat().st_mode & 0o777 for path in kept} == dict.fromkeys(
        (path.name for path in kept), 0o600
    )
    shared = [path for path in (tmp_path / "raw_refocused").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in shared} == {0o644}
