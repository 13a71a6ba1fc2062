"""Settings chosen on the page: which are accepted, and the daemon's restart with them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from java_acquisition import JavaAcquisition
from live import quick_settings, read_all
from playwright.sync_api import Browser, expect
from view_browser import eventually, open_page
from view_process import Reply, ask, bearer, view_of
from view_setup import ACTION
from view_standin import StandIn, scene_of_nuclei, written_datasets

import refocusd
from refocusd.config import environment_of
from refocusd.transport.messages import Counts
from refocusd.transport.secure.user_keys import derived_secret
from refocusd.view.serve import WantedSettings

NOBODY = "tcp://127.0.0.1:9"
#: Time for daemon, worker and view, at low priority, to start on a busy computer, s.
START_S = 240.0


def choose(port: int, headers: dict[str, str] | None = None, **chosen: Any) -> Reply:
    body = {"model": "live-nuclei", "backend": "identity", "follow": [], **chosen}
    return ask(
        port, "/api/v1/settings", "POST", json.dumps(body).encode(), {**ACTION, **(headers or {})}
    )


def test_only_what_is_there_can_be_chosen(tmp_path: Path) -> None:
    with view_of(NOBODY, settings=quick_settings(tmp_path)) as port:
        for chosen, said in (
            ({"model": "../x"}, "there is no model"),
            ({"backend": "abacus"}, "no settings"),
            ({"follow": ["data"]}, "is not a folder"),
            ({"follow": [str(tmp_path / "none")]}, "is not a folder"),
            ({"endpoint": NOBODY}, "no settings"),
        ):
            reply = choose(port, **chosen)
            assert reply.status == 400
            assert said in reply.json()["error"]


def test_a_view_that_was_started_by_hand_changes_nothing() -> None:
    with view_of(NOBODY) as port:
        assert ask(port, "/api/v1/settings").json()["settings"] is None
        assert choose(port).status == 409


def test_what_is_chosen_during_an_acquisition_waits_for_its_end(
    browser: Browser, tmp_path: Path
) -> None:
    scene = scene_of_nuclei()
    with (
        StandIn(scene, raw=written_datasets(tmp_path, scene)) as daemon,
        view_of(daemon.endpoint, settings=quick_settings(tmp_path)) as port,
        open_page(browser, f"http://127.0.0.1:{port}/") as page,
    ):
        eventually(lambda: ask(port, "/health").status == 200, "ready")
        reply = choose(port)
        assert (reply.status, reply.json()["after"]) == (202, "cells_1")
        page.keyboard.press("j")
        page.get_by_text("Next acquisition").click()
        expect(page.get_by_label("Engine")).to_have_value("identity")
        expect(page.locator("#settings-said")).to_have_text(
            "These take effect when cells_1 has ended: the daemon restarts then."
        )


def test_the_page_asks_for_the_model_and_the_folders(
    browser: Browser, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    settings = quick_settings(tmp_path)
    with (
        view_of(NOBODY, settings=settings) as port,
        open_page(browser, f"http://127.0.0.1:{port}/") as page,
    ):
        page.keyboard.press("j")
        page.get_by_text("Next acquisition").click()
        model = page.get_by_label("Model of the daemon")
        expect(model).to_have_value("live-nuclei")
        model.select_option("live-fluorescence")
        page.get_by_label("Engine").select_option("deconvolution")
        page.get_by_label("Folders to follow").fill(f'"{tmp_path}"\n')
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("#settings-said")).to_contain_text("restarts")
    asked = msgspec.json.decode(capfdbinary.readouterr().out.splitlines()[-1], type=WantedSettings)
    chosen = {"model": "live-fluorescence", "backend": "deconvolution", "follow": [str(tmp_path)]}
    assert asked.wanted == msgspec.structs.replace(settings, **chosen)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_daemon_restarts_with_what_was_chosen(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    settings = quick_settings(tmp_path, view_port=port, studio="off", live=False)
    command = [sys.executable, "-m", "refocusd", "run", "--with-parent"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**os.environ, **environment_of(settings)}
    ) as run:
        try:
            eventually(lambda: _chosen(port), "the page", START_S)
            wanted = {"model": "live-nuclei", "backend": "identity", "follow": [str(tmp_path)]}
            assert choose(port, bearer(), **wanted).status == 202
            eventually(lambda: _chosen(port) == wanted, "a page with these settings", START_S)
        finally:
            assert run.stdin is not None
            run.stdin.close()
            run.wait(START_S)
    assert run.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_settings_applied_on_the_page_under_load_cost_no_frame(
    browser: Browser, tmp_path: Path
) -> None:
    """The acquisition ends with the settings that it began with; the next one has the new ones."""
    with socket.socket() as free, socket.socket() as second:
        free.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        endpoint = f"tcp://127.0.0.1:{second.getsockname()[1]}"
    about = {"endpoint": endpoint, "view_port": port, "studio": "off", "live": False}
    settings = quick_settings(tmp_path, ring_mib=16, **about)
    command = [sys.executable, "-m", "refocusd", "run", "--with-parent"]
    environment = {**os.environ, **environment_of(settings)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as run:
        try:
            eventually(lambda: _chosen(port), "the page", START_S)
            entry = f"http://127.0.0.1:{port}/?token={derived_secret('view')}"
            with open_page(browser, entry) as page:
                first = JavaAcquisition(refocusd.Source(endpoint), tmp_path / "first")
                first.acquire(*range(150))
                eventually(lambda: _live(port), "the acquisition", START_S)
                page.keyboard.press("j")
                page.get_by_text("Next acquisition").click()
                page.get_by_label("Engine").select_option("deconvolution")
                page.get_by_role("button", name="Apply").click()
                said = page.locator("#settings-said")
                expect(said).to_contain_text("take effect when java_1 has ended")
                first.acquire(*range(150, 300))
                first.finish()
                assert first.source.wait(START_S) == Counts(acquired=300, passed_through=300)
                new = {"model": "live-nuclei", "backend": "deconvolution", "follow": []}
                eventually(lambda: _chosen(port) == new, "a page with these settings", START_S)
                next_ = JavaAcquisition(refocusd.Source(endpoint), tmp_path / "next")
                next_.acquire(*range(4))
                next_.finish()
                counts = next_.source.wait(START_S)
        finally:
            assert run.stdin is not None
            run.stdin.close()
            run.wait(START_S)
    first.check(300)
    assert counts is not None
    assert (counts.acquired, counts.pending) == (4, 0)
    for each, engine in ((first, "identity"), (next_, "deconvolution")):
        for _, metadata in read_all(each.refocused).values():
            assert engine in metadata["refocusd"]["engine"]
    first.close()
    next_.close()


def _live(port: int) -> bool:
    found = ask(port, "/api/v1/acquisitions", headers=bearer()).json()["acquisitions"]
    return any(each["state"] == "live" for each in found)


def _chosen(port: int) -> Any:
    try:
        return ask(port, "/api/v1/settings", headers=bearer()).json()["settings"]
    except OSError:
        return None
