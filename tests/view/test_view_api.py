"""The documented API: its description matches routes and answers; `refocusd ctl`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from view_process import ask, view_of
from view_setup import ACTION, API, Setup, hold, setting_up
from view_standin import StandIn, scene_of_nuclei
from waiting import until as eventually

from refocusd.cli.main import main

READ = [path for path, methods in API["paths"].items() if "get" in methods]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with setting_up(scene_of_nuclei(), tmp_path_factory.mktemp("data")) as here:
        yield here


def acquisition(setup: Setup) -> dict[str, Any]:
    found = setup.get("/api/v1/acquisitions").json()["acquisitions"]
    about: dict[str, Any] = next(each for each in found if each["has_raw"])
    return about


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in READ
        if path not in ("/events", "/outcomes") and not path.startswith("/jobs/")
    ],
)
def test_what_is_described_is_answered_as_described(setup: Setup, path: str) -> None:
    about = acquisition(setup)
    given = {"x": 1, "y": 1, "acquisition": about["id"]}
    described = API["paths"][path]["get"]
    names = [each["name"] for each in described.get("parameters", [])]
    query = {name: given[name] for name in names if name in given}
    address = "/api/v1" + path.replace("{id}", about["id"])
    # Without axes, the newest frame is meant; it is sent once somebody looks.
    eventually(lambda: setup.get("/api/v1/frame/latest").status == 200, "frame")
    reply = setup.get(address, **query)
    [(media, content)] = described["responses"]["200"]["content"].items()
    assert reply.headers["Content-Type"].partition(";")[0] == media
    if media == "application/json":
        hold(content["schema"], reply.json())


@pytest.mark.parametrize("path", ["/pause", "/catch-up"])
def test_switches_are_asked_for(setup: Setup, path: str) -> None:
    reply = ask(setup.port, "/api/v1" + path, "POST", b'{"on": false}', ACTION)
    assert reply.status == 202
    hold({"$ref": "#/components/schemas/Asked"}, reply.json())


def test_refusals_are_problems(setup: Setup) -> None:
    for path in ("/acquisitions/none", "/pixel?x=a", "/nothing"):
        reply = setup.get("/api/v1" + path)
        assert reply.status in (400, 404)
        hold({"$ref": "#/components/schemas/Problem"}, reply.json())


def test_the_addresses_of_the_first_version_stay(setup: Setup) -> None:
    for address in ("status", "history", "acquisitions", "frame/latest"):
        assert setup.get(f"/api/{address}").status in (200, 204)


def test_every_operation_that_is_described_is_served_and_no_other(setup: Setup) -> None:
    assert setup.get("/api/v1/openapi.json").json() == API
    assert set(API["paths"]) == {
        *("/openapi.json", "/status", "/acquisitions", "/acquisitions/{id}", "/history"),
        *(
            "/pause",
            "/catch-up",
            "/events",
            "/outcomes",
            "/frame/latest",
            "/frame",
            "/axes",
            "/pixel",
        ),
        *("/snapshot.png", "/snapshot.tif"),
        *(
            "/settings",
            "/models",
            "/folder",
            "/jobs",
            "/jobs/{id}",
            "/jobs/{id}/cancel",
            "/jobs/{id}/reports/{number}",
        ),
    }


# -- refocusd ctl ---------------------------------------------------------------------------


def test_ctl_tells_how_it_is(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{setup.port}"
    assert main(["ctl", "status", "--url", url]) == 0
    assert capsys.readouterr().out.startswith("ready\n")
    assert main(["ctl", "acquisitions", "--url", url, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["acquisitions"]
    assert acquisition(setup)["id"] in [about["id"] for about in listed]


def test_ctl_switches(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{setup.port}"
    for words, said in (
        (["pause"], "asked: pause on\n"),
        (["resume"], "asked: pause off\n"),
        (["catch-up", "off"], "asked: catch-up off\n"),
    ):
        assert main(["ctl", *words, "--url", url]) == 0
        assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["catch-up"], "only catch-up takes on or off"),
        (["status", "--url", "file:///etc/passwd"], "is not an address of a live view"),
        (["status", "--url", "http://127.0.0.1:9"], "no live view at"),
    ],
)
def test_ctl_says_what_is_wrong(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ctl", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "urlopen" not in error, "a class of Python's"


def test_ctl_shows_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = "a-token-of-enough-letters"
    (tmp_path / "token").write_text(f"{token}\n", encoding="utf-8")
    with StandIn(scene_of_nuclei()) as daemon, view_of(daemon.endpoint, token=token) as port:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: ask(port, "/health").status == 200, "ready")
        assert main(["ctl", "status", "--url", url]) == 2
        assert "needs its token" in capsys.readouterr().err
        assert main(["ctl", "status", "--url", url, "--token-file", str(tmp_path / "token")]) == 0
