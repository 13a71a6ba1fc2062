"""The page in a real headless Chromium: keyboard, controls, faults, memory."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from view_browser import PHONE, dataset, eventually, open_page
from view_pages import Shown
from view_process import ask, view_of, view_process
from view_standin import Scene, StandIn

from refocusd.transport import messages as wire
from refocusd.view.http import events
from refocusd.view.state import link

# -- keyboard and controls ------------------------------------------------------------------


def test_the_keyboard_does_what_its_list_says(shown: Shown) -> None:
    page = shown.page
    for key, mode in (("2", "side"), ("3", "raw"), ("4", "refocused"), ("1", "swipe")):
        shown.press(key)
        assert dataset(page)["mode"] == mode
        checked = page.locator("[role=radio][data-mode][aria-checked=true]")
        assert checked.get_attribute("data-mode") == mode
    page.keyboard.down("b")
    assert dataset(page)["mode"] == "raw"
    page.keyboard.up("b")
    assert dataset(page)["mode"] == "swipe"
    before = float(dataset(page)["scale"])
    shown.press("+", "+")
    assert float(dataset(page)["scale"]) > before
    shown.press("z")
    assert float(dataset(page)["scale"]) == 1
    shown.press("f")
    assert float(dataset(page)["scale"]) == before
    shown.press("]", "]")
    assert page.locator("#divider").get_attribute("aria-valuenow") == "60"
    shown.press("h")
    assert page.locator("#clip").is_checked()
    shown.press("?")
    assert page.locator("#keys").is_visible()
    listed = page.locator("#key-list kbd").all_inner_texts()
    assert {"Space", "1", "B (hold)", "Shift S", "?"} <= set(listed)
    shown.press("Escape")
    assert not page.locator("#keys").is_visible()
    axes = shown.freeze()
    shown.press("PageUp")
    eventually(lambda: shown.axes()["z"] == (axes["z"] + 1) % 7, "next plane")
    shown.press("c")
    eventually(lambda: shown.axes()["channel"] != axes["channel"], "next channel")


def test_dark_and_light(browser: Browser, port: int) -> None:
    for scheme, other in (("dark", "light"), ("light", "dark")):
        with open_page(browser, f"http://127.0.0.1:{port}/", color_scheme=scheme) as page:
            shade = {"dark": lambda v: v < 60, "light": lambda v: v > 200}
            assert shade[scheme](_background(page))
            page.keyboard.press("d")
            assert shade[other](_background(page))
            page.reload()
            assert shade[other](_background(page))


def _background(page: Page) -> int:
    colour: str = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    return int(re.findall(r"\d+", colour)[0])


@pytest.mark.parametrize("size", [(1280, 800), PHONE], ids=["desk", "phone"])
def test_it_fits_the_screen(browser: Browser, port: int, size: tuple[int, int]) -> None:
    with open_page(browser, f"http://127.0.0.1:{port}/", size) as page:
        eventually(lambda: int(dataset(page).get("drawn", 0)) > 1, "frames")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= size[0]
        controls = (
            "#stage",
            "#live",
            "#png",
            "#theme",
            "#help",
            "#fps",
            "#pending",
            "#pause",
            "#plot",
        )
        for selector in (
            *controls,
            "[data-axis=z] input",
            "[data-mode=side]",
            "#low-n",
            "#workers li",
        ):
            # Cards appear as frames come, and move those below.
            eventually(partial(_is_on_top, page, selector, size), f"{selector} within the screen")


def _is_on_top(page: Page, selector: str, size: tuple[int, int]) -> bool:
    locator = page.locator(selector)
    locator.scroll_into_view_if_needed()
    box = locator.bounding_box()
    if box is None or box["x"] < 0 or box["x"] + box["width"] > size[0]:
        return False
    # The element on top at this point is the control itself, so nothing covers it.
    hit: bool = page.evaluate(
        "([s, x, y]) => document.querySelector(s).contains(document.elementFromPoint(x, y))",
        [selector, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2],
    )
    return hit or selector == "#stage"


def test_the_events_stay_within_their_card_on_a_phone(browser: Browser, port: int) -> None:
    with open_page(browser, f"http://127.0.0.1:{port}/", PHONE) as page:
        eventually(lambda: page.locator("#events li").count(), "events")
        room = page.evaluate(
            "() => { const events = document.querySelector('#events');"
            " return events.parentElement.getBoundingClientRect().bottom"
            " - events.getBoundingClientRect().bottom; }"
        )
        assert room >= 8  # the card's padding


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_snapshot_is_of_the_frame_shown(shown: Shown, kind: str, tmp_path: Path) -> None:
    shown.freeze()
    shown.choose("z", 2)
    shown.choose("time", 0)
    index = shown.index(shown.axes())
    with shown.page.expect_download() as waiting:
        shown.press("s" if kind == "png" else "Shift+S")
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.suffix == f".{kind}"
    if kind == "tif":
        np.testing.assert_array_equal(tifffile.imread(path)[0], shown.scene.raw[index])
        return
    low, high = shown.window()
    expected = np.clip((shown.scene.raw[index].astype(float) - low) / (high - low), 0, 1) * 255
    pixels = np.asarray(Image.open(path).convert("L"), float)
    np.testing.assert_allclose(pixels[:512, :512], expected, atol=1)


def test_pause_and_catch_up_are_asked_for_and_seen(shown: Shown) -> None:
    page = shown.page
    page.locator("#pause").click()
    eventually(lambda: page.locator("#pause").inner_text() == "Resume", "paused")
    assert "paused" in page.locator("#alert").inner_text()
    assert shown.daemon.paused
    shown.press("p")
    eventually(lambda: page.locator("#pause").inner_text() == "Pause", "goes on")
    page.locator("#catch-up").click()  # in the initial state, idle workers catch up
    eventually(lambda: wire.CatchUp(False) in shown.daemon.actions, "not any more")
    page.locator("#catch-up").click()
    eventually(lambda: wire.CatchUp(True) in shown.daemon.actions, "again")


# -- faults ---------------------------------------------------------------------------------


def test_a_killed_worker_is_seen_within_two_seconds_and_so_is_the_next(shown: Shown) -> None:
    page, daemon = shown.page, shown.daemon
    daemon.kill_worker()
    try:
        eventually(lambda: page.locator("#workers [data-state=none]").count(), "worker gone", 2.0)
        eventually(lambda: "No worker" in page.locator("#alert").inner_text(), "said so", 2.0)
        assert "ended" in page.locator("#events li").first.inner_text()
        daemon.restart_worker()
        eventually(lambda: page.locator("#workers [data-state=starting]").count(), "next", 2.0)
    finally:
        daemon.worker_ready()
    eventually(lambda: page.locator("#workers [data-state=ready]").count(), "ready", 2.0)
    eventually(lambda: not page.locator("#alert").is_visible(), "no alert", 2.0)
    first = shown.drawn()
    eventually(lambda: shown.drawn() > first, "frames go on")


def test_the_page_comes_back_when_the_view_is_restarted(
    browser: Browser, daemon: StandIn, scene: Scene
) -> None:
    with (
        view_process(daemon.endpoint) as (process, view),
        open_page(browser, view.entry) as page,
    ):
        shown = Shown(page, daemon, scene)
        eventually(lambda: shown.drawn() > 3, "frames")
        process.kill()
        process.wait()
        eventually(lambda: page.locator("#alert").is_visible(), "lost", 3.0)
        assert "does not answer" in page.locator("#alert").inner_text()
        with view_process(daemon.endpoint, view.port):
            first = shown.drawn()
            eventually(lambda: shown.drawn() > first + 3, "frames again")
            assert not page.locator("#alert").is_visible()


def test_a_hidden_page_listens_to_nothing(shown: Shown, port: int) -> None:
    """Browsers hold six connections to one server: forty hidden tabs must not take them."""
    shown.page.evaluate(
        "() => { Object.defineProperty(document, 'hidden', {get: () => true, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    eventually(lambda: ask(port, "/api/status").json()["pages"] == 0, "no page open")
    shown.page.evaluate(
        "() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }"
    )
    eventually(lambda: ask(port, "/api/status").json()["pages"] == 1, "open again")


def test_many_frames_do_not_grow_memory(
    browser: Browser, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames come as fast as possible here; `benchmarks/speed/view.py` runs for an hour."""
    for module in (link, events):
        monkeypatch.setattr(module, "MAX_FPS", 1000.0)
    monkeypatch.setattr(link, "MAX_BYTES_PER_S", 1e12)
    monkeypatch.setattr(events, "MAX_NOTICES_PER_S", 1000.0)
    corner = np.s_[:, :128, :128]
    small = replace(scene, raw=scene.raw[corner].copy(), refocused=scene.refocused[corner].copy())
    with (
        StandIn(small, fps=0) as daemon,
        view_of(daemon.endpoint) as port,
        open_page(browser, f"http://127.0.0.1:{port}/", (600, 400)) as page,
    ):
        shown = Shown(page, daemon, scene)
        session = page.context.new_cdp_session(page)

        def heap() -> float:
            session.send("HeapProfiler.collectGarbage")
            used = session.send("Runtime.getHeapUsage")
            return float(used["usedSize"] + used.get("backingStorageSize", 0)) / 2**20

        # Before measuring, let the plot and the log reach their limits.
        eventually(lambda: shown.drawn() > 700, "700 frames")
        before, first = heap(), shown.drawn()
        eventually(lambda: shown.drawn() > first + 600, "600 more", 90.0)
        grown = heap() - before
        assert grown < 0.8, f"{grown:.2f} MiB more after {shown.drawn() - first} frames"


def test_the_page_asks_nobody_else(shown: Shown, port: int) -> None:
    asked: list[str] = []
    shown.page.on("request", lambda request: asked.append(request.url))
    shown.page.reload()
    eventually(lambda: shown.drawn() > 3, "frames")
    assert asked
    assert all(url.startswith((f"http://127.0.0.1:{port}/", "data:")) for url in asked)
    assert json.dumps(asked).count("/api/v1/events") == 1


def test_a_job_is_offered_the_newest_acquisition_but_doctor_no_dataset(shown: Shown) -> None:
    """It makes files in the folder that it is given."""
    page = shown.page
    newest = shown.daemon.status().details[-1].raw
    shown.press("j")
    path = page.locator("#job-path")
    expect(path).to_have_value(newest)
    page.get_by_label("What to do").select_option("doctor")
    expect(path).to_have_value("")
    path.fill("/data")
    page.get_by_label("What to do").select_option("verify")
    expect(path).to_have_value(newest)
    # Cleared, it stays empty, and the acquisitions are offered.
    path.fill("")
    expect(page.locator(f'#job-paths option[value="{newest}"]')).to_have_count(1)
    expect(path).to_have_value("")
