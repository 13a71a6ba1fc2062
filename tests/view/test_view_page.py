"""The page in a real headless Chromium: frames and selectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser
from view_browser import dataset, eventually, open_page
from view_pages import DRAWN, Shown
from view_standin import PIXEL_UM, Scene, StandIn

# -- frames ---------------------------------------------------------------------------------


def test_frames_change(shown: Shown) -> None:
    first, pixels = shown.drawn(), shown.grey()
    eventually(lambda: shown.drawn() >= first + 10, "ten more frames")
    # The stand-in has few frames: the next one viewed may be the same.
    eventually(lambda: np.abs(shown.grey() - pixels).max() > 50, "another picture")


def test_a_state_is_said_plainly(shown: Shown) -> None:
    """In-focus frames pass through; the others are labelled as estimates."""
    shown.freeze()
    for z, words, tag in (
        (3, "Passed through", "passed through"),
        (1, "Refocused (estimate)", "estimate"),
    ):
        shown.page.locator("[data-axis=z] input").fill(str(z))
        shown.said("#verdict", words)
        assert tag in shown.page.locator("#tag-refocused").inner_text()
        blur = "6.3 px ± 12 %, measured PSF"
        assert (blur in shown.page.locator("#facts").inner_text()) == (tag == "estimate")


@pytest.mark.parametrize("query", ["", "?2d"], ids=["webgl2", "canvas"])
def test_swipe_shows_raw_left_and_refocused_right_in_one_grey_scale(
    browser: Browser, daemon: StandIn, port: int, scene: Scene, query: str
) -> None:
    with open_page(browser, f"http://127.0.0.1:{port}/{query}") as page:
        shown = Shown(page, daemon, scene)
        eventually(lambda: shown.drawn() >= 2, "frames")
        assert dataset(page)["renderer"] == ("2d" if query else "webgl2")
        axes = shown.freeze()
        shown.choose("z", 1)
        index = shown.index({**axes, "z": 1})
        shown.press("z", "3")
        raw = shown.grey()
        shown.press("4")
        refocused = shown.grey()
        low, high = shown.window()
        # At 1:1 the middle of the stage is the middle of the frame.
        for grey, frames in ((raw, scene.raw), (refocused, scene.refocused)):
            expected = np.clip((frames[index].astype(float) - low) / (high - low), 0, 1) * 255
            top, left = (grey.shape[0] - 512) // 2, (grey.shape[1] - 512) // 2
            np.testing.assert_allclose(grey[top : top + 512, left : left + 512], expected, atol=2)
        shown.press("1")
        box = page.locator("#stage").bounding_box()
        handle = page.locator("#divider").bounding_box()
        assert box is not None
        assert handle is not None
        middle = handle["y"] + handle["height"] / 2
        page.mouse.move(handle["x"] + handle["width"] / 2, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.35 * box["width"], middle, steps=5)
        page.mouse.up()
        assert page.locator("#divider").get_attribute("aria-valuenow") == "35"
        swiped = shown.grey()
        at = round(0.35 * box["width"])
        np.testing.assert_allclose(swiped[:, : at - 2], raw[:, : at - 2], atol=1)
        np.testing.assert_allclose(swiped[:, at + 2 :], refocused[:, at + 2 :], atol=1)
        assert np.abs(raw - refocused)[:, at:].max() > 30


def test_side_by_side_zooms_and_moves_both_frames_together(shown: Shown) -> None:
    axes = shown.freeze()
    shown.press("2")
    box = shown.page.locator("#stage").bounding_box()
    assert box is not None
    shown.page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.4 * box["height"])
    for _ in range(3):
        shown.page.mouse.wheel(0, -400)
    shown.page.mouse.down()
    shown.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    shown.page.mouse.up()
    shown.press("z")
    grey = shown.grey()
    low, high = shown.window()
    index = shown.index(axes)
    half = (grey.shape[1] - 2) // 2
    places = []
    for pane, frames in (
        (grey[:, :half], shown.scene.raw),
        (grey[:, -half:], shown.scene.refocused),
    ):
        expected = np.clip((frames[index].astype(float) - low) / (high - low), 0, 1) * 255
        places.append(_place_of(pane[200:300, 150:250], expected))
    assert places[0] == places[1]


def _place_of(part: NDArray[Any], whole: NDArray[Any]) -> tuple[int, int]:
    """Position of `part` in `whole`, matched within a grey level or two."""
    windows = np.lib.stride_tricks.sliding_window_view(whole, (4, 4))
    corner = part[:4, :4]
    near = np.abs(windows - corner).max(axis=(2, 3)) <= 1.01
    for top, left in np.argwhere(near):
        there = whole[top : top + part.shape[0], left : left + part.shape[1]]
        if there.shape == part.shape and np.abs(there - part).max() <= 2:
            return int(top), int(left)
    raise AssertionError("what is shown is not in the frame")


def test_counts_under_the_cursor_are_those_of_the_frames(shown: Shown) -> None:
    index = shown.index(shown.freeze())
    box = shown.page.locator("#stage").bounding_box()
    assert box is not None
    for across, down in ((0.42, 0.3), (0.6, 0.71)):
        shown.page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
        shown.page.evaluate(DRAWN)
        readout = dataset(shown.page, "#readout")
        x, y = int(readout["x"]), int(readout["y"])
        assert int(readout["raw"]) == shown.scene.raw[index, y, x]
        assert int(readout["refocused"]) == shown.scene.refocused[index, y, x]


def test_the_scale_bar_is_as_long_as_it_says(shown: Shown) -> None:
    for key in ("f", "z", "+"):
        shown.press(key)
        shown.page.evaluate(DRAWN)
        bar = shown.page.locator("#scale i").bounding_box()
        assert bar is not None
        um = float(dataset(shown.page, "#scale")["um"])
        scale = float(dataset(shown.page)["scale"])
        assert bar["width"] == pytest.approx(um / PIXEL_UM * scale, abs=1.0)


def test_contrast_is_automatic_until_it_is_locked(shown: Shown) -> None:
    shown.page.locator("#high-n").fill("3000")
    assert shown.page.locator("#auto").get_attribute("aria-pressed") == "false"
    shown.page.locator("#low-n").fill("500")
    first = shown.drawn()
    eventually(lambda: shown.drawn() > first + 8, "more frames")
    shown.page.locator("#stage").click()
    assert shown.window() == (500, 3000)
    shown.press("a")
    eventually(lambda: shown.window() != (500, 3000), "automatic again")
    assert shown.page.locator("#auto").get_attribute("aria-pressed") == "true"


def test_a_channel_that_comes_after_the_contrast_was_locked_is_locked_as_well(shown: Shown) -> None:
    window = shown.page.evaluate(
        """async () => {
          const { Contrast } = await import("/static/contrast.js");
          const contrast = new Contrast((id) => document.getElementById(id));
          const frame = (channel) => ({
            header: { axes: { channel }, dtype: "uint16", live: true },
            raw: new Uint16Array([100, 200, 300]),
          });
          contrast.take(frame("DAPI"));
          contrast.set({ low: 500, high: 3000 });
          contrast.take(frame("Cy5"));
          return contrast.window;
        }"""
    )
    assert window == {"low": 500, "high": 3000}


# -- selectors ------------------------------------------------------------------------------


def test_selectors_show_any_frame_from_disk(shown: Shown) -> None:
    shown.freeze()
    page = shown.page
    page.locator("[data-axis=channel] [data-value=Cy5]").click()
    page.locator("[data-axis=z] input").fill("5")
    page.locator("[data-axis=time] input").fill("1")
    wanted = '{"channel":"Cy5","time":1,"z":5}'
    eventually(lambda: dataset(page)["frame"].endswith(wanted), wanted)
    assert shown.axes() == {"channel": "Cy5", "time": 1, "z": 5}
    shown.press("Space")
    eventually(lambda: "{" not in dataset(page)["frame"], "live again")


def test_a_pin_follows_one_channel_only(shown: Shown) -> None:
    shown.page.locator("[data-axis=channel] .pin").click()
    pinned = shown.axes()["channel"]
    first = shown.drawn()
    seen = set()
    while shown.drawn() < first + 12:
        seen.add(shown.axes()["channel"])
    assert seen == {pinned}
    assert shown.page.locator("#live").get_attribute("aria-pressed") == "true"


def test_a_pending_frame_is_not_shown_as_refocused(shown: Shown) -> None:
    shown.freeze()
    last = shown.scene.axes[-1]
    shown.page.locator(f"[data-axis=channel] [data-value={last['channel']}]").click()
    shown.page.locator("[data-axis=time] input").fill("1")
    shown.page.locator("[data-axis=z] input").fill(str(last["z"]))
    eventually(lambda: shown.page.locator("#verdict").inner_text() == "Not refocused", "said so")
    assert shown.page.locator("#tag-refocused").inner_text() == "not refocused"
