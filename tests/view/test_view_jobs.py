"""Jobs: commands are started, watched and cancelled through the view's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import psutil
import pytest
import tifffile
from calibrated_on_the_page import SWEEP, bead_microscope, through_focus
from live import quick_settings, stack, write_stack
from recordings_on_disk import frames, write_ndtiff
from view_process import Reply, ask, bearer, view_of, view_process
from view_setup import ACTION, API, hold
from waiting import until as eventually

from refocusd.cli.main import main
from refocusd.config import Settings, environment_of, load_settings
from refocusd.errors import InputError, OutputError
from refocusd.profiles.catalogue import Catalogue
from refocusd.profiles.profile import load_profile
from refocusd.view.process import ViewProcess
from refocusd.view.state.job_order import Calibration, JobOrder
from refocusd.view.state.jobs import MAX_QUEUED, Jobs

#: Time limit of a command on a busy computer, s.
JOB_S = 180.0
NOBODY = "tcp://127.0.0.1:9"


@dataclass(frozen=True)
class Room:
    """A view without a daemon, whose jobs keep their state in the test's folder."""

    port: int
    folder: Path
    settings: Settings

    def order(self, **order: Any) -> Reply:
        return ask(self.port, "/api/v1/jobs", "POST", json.dumps(order).encode(), ACTION)

    def started(self, **order: Any) -> str:
        reply = self.order(**order)
        assert reply.status == 202, reply.body
        hold({"$ref": "#/components/schemas/Job"}, reply.json())
        return str(reply.json()["id"])

    def job(self, job: str) -> dict[str, Any]:
        about: dict[str, Any] = ask(self.port, f"/api/v1/jobs/{job}").json()
        return about

    def ended(self, job: str) -> dict[str, Any]:
        eventually(lambda: self.job(job)["ended_at"], "the end of the job", JOB_S)
        return self.job(job)

    def cancel(self, job: str) -> None:
        reply = ask(self.port, f"/api/v1/jobs/{job}/cancel", "POST", b"", ACTION)
        assert reply.status == 202
        hold({"$ref": "#/components/schemas/Job"}, reply.json())


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    settings = quick_settings(tmp_path, endpoint=NOBODY)
    with view_of(NOBODY, settings=settings) as port:
        yield Room(port, tmp_path, settings)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_dataset_is_processed_verified_and_reported_without_a_terminal(room: Room) -> None:
    raw = write_stack(room.folder / "cells_1.tif", stack(6))
    done = room.ended(room.started(command="process", path=str(raw)))
    hold({"$ref": "#/components/schemas/JobDetails"}, done)
    assert (done["state"], done["status"]) == ("ended", 0), done["output"]
    assert done["progress"]["done"] == done["progress"]["total"] == 6
    assert done["result"]["datasets"][0]["clean"]
    assert any("cells_1_refocused" in line for line in done["output"])
    assert not any("\x1e" in line for line in done["output"])

    verified = room.ended(room.started(command="verify", path=str(raw), quick=True))
    assert verified["status"] == 0, verified["output"]
    assert verified["result"]["clean"]
    assert verified["output"][-1] == "clean"

    report = room.started(command="report", path=str(raw))
    assert room.ended(report)["reports"] == 1, room.job(report)["output"]
    page = ask(room.port, f"/api/v1/jobs/{report}/reports/0")
    assert page.headers.get_content_type() == "text/html"
    assert "sandbox" in page.headers["Content-Security-Policy"]
    assert b"cells_1_refocused: refocusing report" in page.body
    assert ask(room.port, f"/api/v1/jobs/{report}/reports/1").status == 404
    assert len(ask(room.port, "/api/v1/jobs").json()["jobs"]) == 3


@pytest.mark.timeout(240)
def test_a_command_that_cannot_be_done_says_why(room: Room) -> None:
    done = room.ended(room.started(command="resume", path=str(room.folder)))
    assert (done["state"], done["status"]) == ("ended", 2)
    assert done["output"][-1].startswith("refocusd: error: ")


def calibrating(path: str, file: str, **calibration: Any) -> dict[str, Any]:
    about = {"measure": "focus", **calibration}
    return {"command": "calibrate", "path": path, "file": file, "calibration": about}


@pytest.mark.timeout(240)
def test_a_dataset_is_exported(room: Room) -> None:
    planes = frames(3)
    raw = write_ndtiff(room.folder / "d", [({"time": n}, p, {}) for n, p in enumerate(planes)])
    written = room.folder / "d.ome.tif"
    order = {"command": "export", "path": str(raw), "file": str(written)}
    done = room.ended(room.started(**order))
    assert done["status"] == 0, done["output"]
    assert done["result"]["frames"] == 3
    assert np.array_equal(tifffile.imread(written), planes)
    assert room.ended(room.started(**order))["status"] == 2, "what is there is not overwritten"


@pytest.mark.timeout(400)
def test_a_recording_is_measured_and_its_profile_used(room: Room) -> None:
    series = str(through_focus(room.folder / "up"))
    profile = room.folder / "scope.json"
    job = room.started(**calibrating(series, str(profile), pixel_um=0.645))
    done = room.ended(job)
    hold({"$ref": "#/components/schemas/JobDetails"}, done)
    assert done["status"] == 0, done["output"]
    assert done["result"]["focus"]["best_um"]["value"] == pytest.approx(0.4, abs=0.3)
    assert done["reports"] == 1
    picture = ask(room.port, f"/api/v1/jobs/{job}/reports/0")
    assert picture.headers["Content-Type"] == "image/png"
    assert picture.body.startswith(b"\x89PNG")

    used = {"command": "calibrate", "path": str(profile), "calibration": {"measure": "use"}}
    assert room.ended(room.started(**used))["status"] == 0
    [kept] = Catalogue(room.settings.calibrations).profiles()
    assert kept.id() == load_profile(profile).id()


@pytest.mark.timeout(400)
def test_the_microscope_moves_as_a_dry_run_has_announced_and_not_otherwise(room: Room) -> None:
    config = str(bead_microscope(room.folder))
    order = calibrating("", str(room.folder / "scope.json"), mm_config=config, **SWEEP)
    about = order["calibration"]
    dry = {**order, "calibration": {**about, "dry_run": True}}
    told = room.ended(room.started(**dry))
    assert told["status"] == 0, told["output"]
    assert any("dry run: nothing was moved" in line for line in told["output"])
    assert not (room.folder / "scope_raw").exists()
    # Not the range that the dry run announced.
    farther = {**order, "calibration": {**about, "z_to": 19.0}}
    assert "only after a dry run" in room.order(**farther).json()["error"]

    done = room.ended(room.started(**order))
    assert done["status"] == 0, done["output"]
    focus = load_profile(room.folder / "scope.json").focus
    assert focus is not None
    assert focus.best_um.value == pytest.approx(0, abs=0.1)


@pytest.mark.timeout(400)
def test_a_series_on_the_microscope_is_cancelled_and_says_where_its_frames_are(room: Room) -> None:
    config = str(bead_microscope(room.folder))
    about = {**SWEEP, "mm_config": config, "exposure_ms": 500.0}
    order = calibrating("", str(room.folder / "scope.json"), **about)
    dry = {**order, "calibration": {**order["calibration"], "dry_run": True}}
    assert room.ended(room.started(**dry))["status"] == 0
    job = room.started(**order)
    eventually(lambda: (room.job(job)["progress"] or {}).get("done", 0) >= 2, "frames", JOB_S)
    room.cancel(job)
    done = room.ended(job)
    assert (done["state"], done["reports"]) == ("cancelled", 0)
    assert "the series was interrupted; what was taken is kept in" in " ".join(done["output"])
    assert not (room.folder / "scope.json").exists()


def test_only_known_commands_on_whole_paths_are_taken(room: Room) -> None:
    here = str(room.folder)
    for order, said in (
        ({"command": "run", "path": here}, "no job"),
        ({"command": "verify", "path": here, "overwrite": True}, "no job"),
        ({"path": here}, "no job"),
        ({"command": "verify"}, "the full path"),
        ({"command": "verify", "path": "cells_1"}, "the full path"),
        ({"command": "verify", "path": "--help"}, "the full path"),
        ({"command": "verify", "path": f"{here}/none"}, "does not exist"),
        ({"command": "verify", "path": f"{here}\0"}, "does not exist"),
        ({"command": "process", "path": here, "quick": True}, "quick is for verify"),
        ({"command": "verify", "path": here, "model": "live-nuclei"}, "model is for process"),
        ({"command": "process", "path": here, "model": "../x"}, "there is no model"),
        ({"command": "verify", "path": here, "file": f"{here}/x"}, "file is for export"),
        ({"command": "export", "path": here, "file": "x.ome.tif"}, "the full path"),
        ({"command": "calibrate", "path": here}, "only calibrate"),
        ({"command": "verify", "path": here, "calibration": {"measure": "psf"}}, "only calibrate"),
        ({"command": "calibrate", "calibration": {"measure": "use"}}, "the full path"),
        (calibrating(here, f"{here}/x.json", flat="light"), "the full path"),
        (calibrating(here, "x.json"), "the full path"),
        (calibrating(here, f"{here}/x.json", insist=True), "no job"),
        (calibrating("", f"{here}/x.json"), "only after a dry run"),
    ):
        reply = room.order(**order)
        assert reply.status == 400, order
        hold({"$ref": "#/components/schemas/Problem"}, reply.json())
        assert said in reply.json()["error"]
    assert ask(room.port, "/api/v1/jobs").json()["jobs"] == []


def test_the_description_names_every_field_and_choice_of_an_order() -> None:
    for kind, choice in ((JobOrder, "command"), (Calibration, "measure")):
        described = API["components"]["schemas"][kind.__name__]
        assert tuple(described["properties"]) == kind.__struct_fields__
        wanted = next(each for each in msgspec.structs.fields(kind) if each.name == choice)
        assert tuple(described["properties"][choice]["enum"]) == get_args(wanted.type)
        assert described["required"] == [choice]


def test_a_job_takes_the_header_of_actions_and_the_token() -> None:
    order = b'{"command": "doctor"}'
    with view_of(NOBODY, token="a-token-of-enough-letters") as port:
        assert ask(port, "/api/v1/jobs", "POST", order, ACTION).status == 401
        assert ask(port, "/api/v1/jobs").status == 401
        shown = {"Authorization": "Bearer a-token-of-enough-letters"}
        assert ask(port, "/api/v1/jobs", "POST", order, shown).status == 403
        assert ask(port, "/api/v1/jobs", headers=shown).json()["jobs"] == []


@pytest.mark.timeout(240)
def test_few_jobs_wait_and_all_can_be_cancelled(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{room.port}"
    assert main(["ctl", "jobs", "--url", url]) == 0
    running = room.started(command="doctor")
    assert main(["ctl", "jobs", "--url", url]) == 0
    nothing, listed = capsys.readouterr().out.splitlines()
    assert nothing == "there is no job"
    assert listed.startswith(running)
    eventually(lambda: room.job(running)["state"] == "running", "it runs")
    waiting = [room.started(command="doctor") for _ in range(MAX_QUEUED)]
    assert room.order(command="doctor").status == 503
    for job in waiting:
        room.cancel(job)
        about = room.job(job)
        assert about["state"] == "cancelled"
        assert about["started_at"] is None
        assert about["ended_at"]
    room.cancel(running)
    assert room.ended(running)["state"] == "cancelled"
    for path in ("/api/v1/jobs/none", "/api/v1/jobs/none/reports/0"):
        assert ask(room.port, path).status == 404


def test_the_oldest_jobs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refocusd.view.state.jobs.MAX_ENDED", 2)
    jobs = Jobs({})  # nothing runs before the context is entered
    first, *others = [jobs.start(JobOrder("doctor")) for _ in range(MAX_QUEUED)]
    with pytest.raises(OutputError, match="wait already"):
        jobs.start(JobOrder("doctor"))
    for job in (first, *others):
        jobs.cancel(job.id)
    last = jobs.start(JobOrder("doctor"))
    known = [about["id"] for about in jobs.summary()["jobs"]]
    assert known == [*(job.id for job in others[-2:]), last.id]


def test_a_folder_that_goes_while_its_job_waits_is_no_fault_of_the_view(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(InputError, match="does not exist"):
        JobOrder("verify", str(tmp_path / "there")).arguments()
    jobs = Jobs({})
    job = jobs.start(JobOrder("verify", str(tmp_path / "here")))
    (tmp_path / "here").rmdir()
    with jobs:
        eventually(lambda: job.ended_at, "the end", JOB_S)
    assert job.status == 2
    assert "does not exist" in job.output[0]


def test_settings_are_the_same_when_they_are_read_from_the_environment(tmp_path: Path) -> None:
    settings = quick_settings(
        tmp_path, channel_models={"Cy 5": "live-nuclei"}, skip_channels=["5", 'B"F'], blur_px=1.5
    )
    assert load_settings(environment=environment_of(settings)) == settings


def running_job(view: int, port: int) -> psutil.Process:
    """Make a view start a job; returns the job's process, a child of process `view`."""
    headers = {**ACTION, **bearer()}
    order = msgspec.json.encode(JobOrder("doctor"))
    assert ask(port, "/api/v1/jobs", "POST", order, headers).status == 202
    found: psutil.Process = eventually(
        lambda: next(iter(psutil.Process(view).children()), None), "the job's process"
    )
    return found


def test_jobs_use_the_settings_of_the_daemon(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path)
    with ViewProcess(NOBODY, ["--port", "0"], settings) as view:
        assert view.settled.wait(JOB_S)
        assert view.pid is not None
        job = running_job(view.pid, int(view.url.rstrip("/").rpartition(":")[2]))
        given = eventually(
            lambda: "cli.job" in " ".join(job.cmdline()) and job.environ(), "the command"
        )
    expected = {**environment_of(settings), "REFOCUSD_ENDPOINT": f'"{NOBODY}"'}
    assert {name: given.get(name) for name in expected} == expected


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_job_ends_with_its_view() -> None:
    with view_process(NOBODY) as (process, view):
        job = running_job(process.pid, view.port)
        process.kill()
        eventually(lambda: not job.is_running(), "it ends as well")
