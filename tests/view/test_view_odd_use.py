"""The page used in an awkward order, in a real headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from live import quick_settings
from playwright.sync_api import Browser, Route, expect
from view_browser import DESK, PHONE, eventually, open_page
from view_pages import Bench, Shown
from view_process import ask, view_of
from view_standin import Scene, StandIn

NOBODY = "tcp://127.0.0.1:9"
TOKEN = "token-of-the-tests-0123"
LONG = "a very long name that goes on and on " * 8


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[str]:
    """Address of a view without a daemon."""
    with view_of(NOBODY, settings=quick_settings(tmp_path, endpoint=NOBODY)) as port:
        yield f"http://127.0.0.1:{port}/"


def test_somebody_without_the_token_is_told_how_to_come_in(browser: Browser) -> None:
    with view_of(NOBODY, token=TOKEN) as port:
        program = ask(port, "/", headers={"Accept": "application/json"})
        assert (program.status, "error" in program.json()) == (401, True)
        with open_page(browser, f"http://127.0.0.1:{port}/?token=wrong") as page:
            alert = page.get_by_role("alert")
            expect(alert).to_contain_text("not the token of this view")
            page.get_by_label("Token").fill(TOKEN)
            page.keyboard.press("Enter")
            expect(page.get_by_role("button", name="Jobs")).to_be_visible()
            assert "token" not in page.url


@pytest.mark.parametrize("size", [DESK, PHONE, (320, 568)], ids=["desk", "phone", "small"])
def test_what_is_wrong_is_reported_on_the_page_and_not_only_in_a_tooltip(
    browser: Browser, tools: Bench, size: tuple[int, int]
) -> None:
    full = "the disk of /out is full: paused until there is room"
    gone = "a7 of Micro-Manager is not refocused: its window was closed"
    with StandIn(tools.scene) as daemon, view_of(daemon.endpoint) as port:
        [about] = daemon.status().details
        ended = msgspec.structs.replace(about, id="b", state="ended", warnings=["of yesterday"])
        daemon.status_changes = {
            "details": [ended, msgspec.structs.replace(about, warnings=[full])],
            "unseen": 3,
            "unseen_last": [gone],
        }
        with open_page(browser, f"http://127.0.0.1:{port}/", size) as page:
            eventually(lambda: page.locator("#warnings").inner_text() == f"cells_1: {full}", "it")
            assert page.locator("#unseen").inner_text() == f"3 acquisitions were not seen. {gone}"
            assert gone in page.locator("#events").inner_text()
            assert page.locator("#warnings").get_attribute("role") == "status"
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize("size", [DESK, PHONE, (320, 568)], ids=["desk", "phone", "small"])
def test_long_names_leave_everything_within_reach(
    browser: Browser, tools: Bench, size: tuple[int, int]
) -> None:
    names = {"DAPI": f"<b>{LONG}</b>", "Cy5": LONG}
    axes = tuple({**each, "channel": names[str(each["channel"])]} for each in tools.scene.axes)
    with StandIn(replace(tools.scene, axes=axes)) as daemon, view_of(daemon.endpoint) as port:
        (about,) = daemon.status().details
        daemon.status_changes["details"] = [msgspec.structs.replace(about, name=LONG)]
        daemon.workers = [
            msgspec.structs.replace(daemon.workers[0], identity="worker-0." + "9" * 60)
        ]
        with open_page(browser, f"http://127.0.0.1:{port}/", size) as page:
            eventually(lambda: page.locator("[data-axis=channel] button").count() >= 2, "channels")
            eventually(lambda: LONG[:30] in page.locator("#acquisition-state").inner_html(), "name")
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            for button in ("#jobs-open", "#help", "[data-axis=channel] button >> nth=1"):
                box = page.locator(button).bounding_box()
                assert box is not None
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= size[0]
                assert box["height"] < 40
            for row in page.locator(".workers li").all():
                assert row.evaluate(
                    "e => e.getBoundingClientRect().right <= e.closest('aside').getBoundingClientRect().right"
                )


@pytest.mark.parametrize(("counts", "window"), [(65535, (0, 65535)), (0, (0, 1))])
def test_a_frame_of_one_value_is_as_bright_as_it_is(
    browser: Browser, scene: Scene, counts: int, window: tuple[int, int]
) -> None:
    """A saturated frame used to be black, since no pixel exceeds its darkest one."""
    flat = np.full_like(scene.raw, counts)
    with (
        StandIn(replace(scene, raw=flat, refocused=flat)) as daemon,
        view_of(daemon.endpoint) as port,
        open_page(browser, f"http://127.0.0.1:{port}/") as page,
    ):
        shown = Shown(page, daemon, scene)
        eventually(lambda: shown.drawn() >= 2 and shown.window() == window, "the window")
        grey = shown.grey()
        assert grey[grey.shape[0] // 2, grey.shape[1] // 2] == (255 if counts else 0)


def test_settings_can_be_changed_once_they_are_there(browser: Browser, idle: str) -> None:
    held: list[Route] = []
    with open_page(browser, idle) as page:
        page.route(re.compile("/api/v1/settings"), lambda route: held.append(route))
        page.keyboard.press("j")
        page.locator("#settings summary").click()

        def asked() -> bool:
            page.wait_for_timeout(20)  # the page's requests are handled meanwhile
            return bool(held)

        eventually(asked, "the question")
        expect(page.locator("#settings-form")).to_be_hidden()
        held[0].continue_()
        expect(page.get_by_label("Engine")).to_have_value("identity")


def test_what_a_job_says_is_read_without_moving_it_sideways(browser: Browser, idle: str) -> None:
    """The advice is at the end of an error message."""
    with open_page(browser, idle) as page:
        page.keyboard.press("j")
        page.evaluate("document.getElementById('job').hidden = false")
        box = page.locator("#job-output")
        box.evaluate("(e, words) => (e.textContent = words)", f"refocusd: error: /{LONG}: do this")
        assert box.evaluate("e => e.scrollWidth <= e.clientWidth && e.clientWidth > 200")


def test_a_view_that_is_away_is_reported_in_words(
    browser: Browser, idle: str, tmp_path: Path
) -> None:
    with open_page(browser, idle) as page:
        for address in ("models", "jobs"):
            page.route(re.compile(f"/api/v1/{address}"), lambda route: route.abort())
        page.keyboard.press("j")
        page.locator("#job-path").fill(str(tmp_path))
        page.keyboard.press("Enter")
        expect(page.locator("#job-problem")).to_contain_text("the live view does not answer")
        page.unroute_all()
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        expect(page.locator("#job-model option")).not_to_have_count(1)


def test_channels_that_come_to_disk_after_their_frames_can_be_chosen(
    browser: Browser, tools: Bench
) -> None:
    """All frames except the last came before the page asked; the next come in an hour."""
    asked: list[str] = []

    def too_early(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) > 1:
            route.continue_()
        else:
            route.fulfill(json={"acquisition": "", "axes": {}, "frames": 0})

    with (
        StandIn(tools.scene, fps=1 / 3600, raw=tools.daemon.raw) as daemon,
        view_of(daemon.endpoint) as port,
        open_page(browser, f"http://127.0.0.1:{port}/") as page,
    ):
        page.route(re.compile("/api/v1/axes"), too_early)
        page.reload()
        daemon.shown = 1
        expect(page.locator("[data-axis=channel] button[role=radio]")).to_have_count(
            2, timeout=60_000
        )
        assert len(asked) == 2
