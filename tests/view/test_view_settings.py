"""Settings that are chosen on the page: what is taken, and a daemon that starts anew with them."""

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
from live import quick_settings
from playwright.sync_api import Browser, expect
from view_browser import eventually, open_page
from view_process import Reply, ask, bearer, view_of
from view_setup import ACTION
from view_standin import StandIn, scene_of_nuclei

from refocusd.config import environment_of
from refocusd.view.http.settings import WantedSettings

NOBODY = "tcp://127.0.0.1:9"
#: For a daemon, its worker and its view, of low priority, on a busy computer.
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
            ({"follow": ["data"]}, "is no folder"),
            ({"follow": [str(tmp_path / "none")]}, "is no folder"),
            ({"endpoint": NOBODY}, "no settings"),
        ):
            reply = choose(port, **chosen)
            assert reply.status == 400
            assert said in reply.json()["error"]


def test_a_view_that_was_started_by_hand_changes_nothing() -> None:
    with view_of(NOBODY) as port:
        assert ask(port, "/api/v1/settings").json()["settings"] is None
        assert choose(port).status == 409


def test_nothing_is_changed_while_an_acquisition_is_open(tmp_path: Path) -> None:
    with (
        StandIn(scene_of_nuclei()) as daemon,
        view_of(daemon.endpoint, settings=quick_settings(tmp_path)) as port,
    ):
        eventually(lambda: ask(port, "/health").status == 200, "ready")
        reply = choose(port)
        assert reply.status == 409
        assert "cells_1 is open" in reply.json()["error"]


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
        expect(page.locator("#settings-said")).to_contain_text("starts anew")
    asked = msgspec.json.decode(capfdbinary.readouterr().out.splitlines()[-1], type=WantedSettings)
    chosen = {"model": "live-fluorescence", "backend": "deconvolution", "follow": [str(tmp_path)]}
    assert asked.wanted == msgspec.structs.replace(settings, **chosen)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_daemon_starts_anew_with_what_was_chosen(tmp_path: Path) -> None:
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


def _chosen(port: int) -> Any:
    try:
        return ask(port, "/api/v1/settings", headers=bearer()).json()["settings"]
    except OSError:
        return None
