"""refocusd as a step in workflow managers of the field: a Fractal task, a Nextflow process."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import zarr
from finished import environment, verify
from plates_on_disk import pixels_of

from refocusd.cli import fractal
from refocusd.cli.main import main
from refocusd.formats.open_dataset import open_dataset

pytestmark = pytest.mark.timeout(600)

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "plates.md"
MANIFEST = Path(fractal.__file__).parents[2] / "__FRACTAL_MANIFEST__.json"


def iohub_plate(path: Path, fields: tuple[str, ...] = ("A/1/0", "A/1/1", "B/3/0")) -> Path:
    """A plate written by iohub, with a table of regions as Fractal's tasks add it."""
    ngff = pytest.importorskip("iohub.ngff", reason="iohub is not installed")
    with ngff.open_ome_zarr(
        path, layout="hcs", mode="w", channel_names=["DAPI", "GFP"], version="0.4"
    ) as plate:
        for number, field in enumerate(fields):
            image = plate.create_position(*field.split("/"))
            data = pixels_of((2, 2, 3, 48, 64), number)
            image.create_image("0", data, chunks=(1, 1, 1, 48, 64))
    (path / "A" / "1" / "0" / "tables").mkdir()
    (path / "A" / "1" / "0" / "tables" / ".zattrs").write_text('{"tables": []}')
    return path


def fractal_runs(executable: str, place: Path, number: int = 0, **arguments: Any) -> Any:
    """Run a task as Fractal's server does, but in this process; returns its result."""
    given, returned = place / f"{number}.args.json", place / f"{number}.out.json"
    given.write_text(json.dumps(arguments))
    argv = [executable, "--args-json", str(given), "--out-json", str(returned)]
    with (
        mock.patch.dict(
            os.environ, environment(place, FRACTAL_TASK_SKIP_LOG_CONFIG="1"), clear=True
        ),
        mock.patch.object(sys, "argv", argv),
    ):
        runpy.run_path(str(MANIFEST.parent / executable), run_name="__main__")
    return json.loads(returned.read_text())


def test_fractals_tool_would_write_the_manifest_that_is_there() -> None:
    tools = pytest.importorskip("fractal_task_tools._create_manifest")
    made = tools.create_manifest(
        raw_package_name="refocusd", task_list_path="cli.fractal.task_list"
    )
    assert made == json.loads(MANIFEST.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_fractal_refocuses_the_images_that_were_chosen_of_a_plate(tmp_path: Path) -> None:
    pytest.importorskip("fractal_task_tools")
    (task,) = json.loads(MANIFEST.read_text(encoding="utf-8"))["task_list"]
    raw, out = iohub_plate(tmp_path / "plate.zarr"), tmp_path / "plate_refocused.zarr"
    chosen = [f"{raw}/A/1/0", f"{raw}/B/3/0"]
    first = fractal_runs(
        task["executable_non_parallel"], tmp_path, zarr_urls=chosen, zarr_dir=str(tmp_path)
    )
    jobs = first["parallelization_list"]
    assert {job["zarr_url"] for job in jobs} == {f"{out}/A/1/0", f"{out}/B/3/0"}
    updates = [
        fractal_runs(task["executable_parallel"], tmp_path, number, **job)["image_list_updates"]
        for number, job in enumerate(jobs, start=1)
    ]
    assert sorted((u["origin"], u["zarr_url"]) for (u,) in updates) == [
        (url, url.replace("plate.zarr", "plate_refocused.zarr")) for url in chosen
    ]
    assert {u["attributes"]["plate"] for (u,) in updates} == {"plate_refocused.zarr"}
    # They belong to the same plate as raw, with the regions that Fractal's next tasks need.
    assert zarr.open_group(out).attrs["plate"] == zarr.open_group(raw).attrs["plate"]
    assert (out / "A" / "1" / "0" / "tables" / ".zattrs").is_file()
    for url in chosen:
        field = Path(url).relative_to(raw)
        np.testing.assert_array_equal(
            np.asarray(zarr.open_array(out / field / "0")[:]),
            np.asarray(zarr.open_array(raw / field / "0")[:]),
        )
    # The command refocuses the remaining frames, and records what Fractal's jobs did.
    with mock.patch.dict(os.environ, environment(tmp_path), clear=True):
        assert main(["process", str(raw)]) == 0
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    with open_dataset(out) as frames:
        assert len(frames) == 3 * 12


def nextflow_process() -> str:
    """The Nextflow pipeline in the guide."""
    (found,) = re.findall(r"```nextflow\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def test_the_guides_nextflow_process_is_one(tmp_path: Path) -> None:
    reftrace = pytest.importorskip("reftrace", reason="it parses Nextflow")
    pipeline = tmp_path / "refocus.nf"
    pipeline.write_text(nextflow_process())
    parsed = reftrace.parse_modules(str(tmp_path))
    assert parsed.errors == []
    ((process,),) = (module.processes for module in parsed.results)
    assert process.name == "REFOCUS"
    assert [each.num for each in process.cpus] == [2]
    # A truncated pipeline is refused, so the parser really reads it.
    pipeline.write_text(nextflow_process().rpartition("script:")[0])
    assert reftrace.parse_modules(str(tmp_path)).errors


@pytest.mark.slow
def test_what_the_nextflow_process_runs_refocuses_a_plate(tmp_path: Path) -> None:
    raw = iohub_plate(tmp_path / "data" / "plate.zarr")
    work = tmp_path / "work"
    work.mkdir()
    if program := shutil.which("nextflow"):
        (work / "refocus.nf").write_text(nextflow_process())
        line = f"{program} run refocus.nf --plates {raw} --out {tmp_path / 'data'}"
    else:
        # As with Nextflow, the input is a link in the task's folder.
        (work / "plate.zarr").symlink_to(raw)
        (script,) = re.findall(r'"(refocusd .*)"', nextflow_process())
        line = script.replace("$plate", "plate.zarr").replace("$task.cpus", "2")
    (work / "refocusd").write_text(f'#!/bin/sh\nexec {sys.executable} -m refocusd "$@"\n')
    (work / "refocusd").chmod(0o755)
    path = f"{work}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line,
        shell=True,
        capture_output=True,
        text=True,
        env={**environment(tmp_path), "PATH": path},
        cwd=work,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if not program:
        shutil.move(work / "plate_refocused.zarr", tmp_path / "data")
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
