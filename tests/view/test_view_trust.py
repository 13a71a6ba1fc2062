"""The page in a real headless Chromium: trust maps, and the frames to look at."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from view_browser import dataset, eventually, open_page
from view_pages import DRAWN, Shown
from view_standin import StandIn


def _colours(page: Page) -> NDArray[Any]:
    """Pixels of the stage, in colour."""
    page.evaluate(DRAWN)
    image = Image.open(io.BytesIO(page.locator("#stage").screenshot()))
    return np.asarray(image.convert("RGB"), float)


@pytest.mark.parametrize("query", ["", "?2d"], ids=["webgl2", "canvas"])
def test_t_lays_the_trust_map_over_the_refocused_frame_only(
    browser: Browser, port: int, daemon: StandIn, query: str
) -> None:
    with open_page(browser, f"http://127.0.0.1:{port}/{query}") as page:
        eventually(lambda: int(dataset(page).get("drawn", 0)) >= 2, "frames")
        page.keyboard.press("Space")
        page.locator("[data-axis=z] input").fill("1")
        eventually(lambda: dataset(page)["frame"].endswith('"z":1}'), "z = 1")
        page.keyboard.press("4")
        page.keyboard.press("z")
        plain = _colours(page)
        page.keyboard.press("t")
        assert page.locator("#trust-map").get_attribute("aria-pressed") == "true"
        legend = page.locator("#trust-legend").inner_text()
        assert legend.split("\n") == [
            "Error over 10 % is",
            "likely, 50 % and more",
            "possible, 25 % and more",
            "unlikely",
        ]
        changed = np.abs(_colours(page) - plain).max(axis=-1) > 15
        # At 1:1 the frame's 512 px are in the middle; its top cells are marked as raw.
        top, left = (changed.shape[0] - 512) // 2, (changed.shape[1] - 512) // 2
        inside = changed[top : top + 512, left : left + 512]
        assert inside[80:, 260:].mean() > 0.8
        assert inside[40:, :].mean() > 0.6
        assert not inside[:15, :200].any()
        assert not changed[:, : left - 2].any()
        page.keyboard.press("3")
        raw = _colours(page)
        page.keyboard.press("t")
        assert page.locator("#trust-legend").is_hidden()
        # The legend is on the right.
        np.testing.assert_allclose(_colours(page)[:, :400], raw[:, :400], atol=1)


def test_a_frame_as_it_was_taken_has_no_colour(shown: Shown) -> None:
    shown.freeze()
    shown.page.locator("[data-axis=z] input").fill("3")
    shown.said("#verdict", "Passed through")
    shown.press("t")
    legend = shown.page.locator("#trust-legend b")
    eventually(lambda: legend.inner_text() == "Error: as it was taken", "said so")
    expect(shown.page.locator("#trust-legend span:visible")).to_have_count(0)


def test_the_readout_says_the_interval_of_a_pixel_and_how_likely_a_large_error_is(
    shown: Shown,
) -> None:
    shown.freeze()
    shown.choose("z", 1)
    shown.press("4")
    box = shown.page.locator("#stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.page.mouse.move(x, y)
    shown.page.evaluate(DRAWN)
    readout = dataset(shown.page, "#readout")
    counts = int(readout["refocused"])
    half = 12.5 + 0.25 * max(0, counts - shown.scene.facts(0).offset)
    assert float(readout["error"]) == pytest.approx(half)
    cell = shown.scene.trust(0)[int(readout["y"]) // 16, int(readout["x"]) // 16]
    assert int(readout["percent"]) == cell
    assert re.search(rf"{counts} ± {half:.0f}\b", shown.page.locator("#readout").inner_text())


def test_doubtful_frames_are_listed_and_shown_with_their_reasons(shown: Shown) -> None:
    page = shown.page
    buttons = page.locator("#doubted button")
    eventually(lambda: buttons.count() == 2, "two frames")
    assert "time 1" in buttons.first.inner_text()
    buttons.nth(1).click()
    wanted = '{"channel":"DAPI","time":0,"z":0}'
    eventually(lambda: dataset(page)["frame"].endswith(wanted), wanted)
    assert shown.axes() == {"channel": "DAPI", "time": 0, "z": 0}
    shown.said("#verdict", "Refocused (doubtful)")
    assert "light of one part changed by 23%" in page.locator("#verdict-why").inner_text()
    # The same with the keyboard alone.
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    wanted = wanted.replace('"time":0', '"time":1')
    eventually(lambda: dataset(page)["frame"].endswith(wanted), wanted)
