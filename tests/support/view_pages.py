"""For the tests of the page: a page that shows frames, with the daemon behind it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page
from view_browser import chromium, dataset, eventually, open_page
from view_process import ask, view_of
from view_standin import Scene, StandIn, scene_of_nuclei, written_datasets

#: True once the requested frame is drawn.
DRAWN = """() => new Promise(done => requestAnimationFrame(() => {
  // The graphics process may be behind.
  document.getElementById('canvas').getContext('webgl2')?.finish();
  requestAnimationFrame(done);
}))"""


@dataclass(frozen=True)
class Shown:
    """A page that shows frames, with the daemon behind it."""

    page: Page
    daemon: StandIn
    scene: Scene

    def drawn(self) -> int:
        return int(dataset(self.page).get("drawn", 0))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def freeze(self) -> dict[str, Any]:
        """Stop at a frame; returns its axes."""
        self.press("Space")
        assert self.page.locator("#live").get_attribute("aria-pressed") == "false"
        self.page.evaluate(DRAWN)
        return self.axes()

    def choose(self, axis: str, value: int) -> None:
        """Move a selector, and wait for the frame, which is always read from disk."""
        before = self.drawn()
        self.page.locator(f"[data-axis={axis}] input").fill(str(value))
        there = f'"{axis}":{value}'
        eventually(
            lambda: self.drawn() > before and there in dataset(self.page)["frame"],
            f"{axis} = {value}",
        )

    def axes(self) -> dict[str, Any]:
        """The values of the selectors."""
        found: dict[str, Any] = {}
        for row in self.page.locator(".axis").all():
            name = row.get_attribute("data-axis") or ""
            if row.locator("[role=radio]").count():
                found[name] = row.locator("[aria-checked=true]").inner_text()
            else:
                found[name] = int(row.locator("output").inner_text().split(" / ")[0])
        return found

    def index(self, axes: dict[str, Any]) -> int:
        return self.scene.axes.index({"channel": axes["channel"], "z": axes["z"]})

    def grey(self) -> NDArray[Any]:
        """Pixels of the stage, without the overlays."""
        self.page.evaluate(
            "() => { for (const e of document.querySelectorAll('.tag,.divider,.scale,.readout,.hint'))"
            " e.style.visibility = 'hidden';"
            # The antialiasing of its round corners depends on what else is drawn.
            " document.getElementById('stage').style.borderRadius = '0'; }"
        )
        self.page.evaluate(DRAWN)
        image = Image.open(io.BytesIO(self.page.locator("#stage").screenshot()))
        self.page.evaluate(
            "() => { for (const e of document.querySelectorAll('.tag,.divider,.scale,.readout,.hint'))"
            " e.style.visibility = '';"
            " document.getElementById('stage').style.borderRadius = ''; }"
        )
        return np.asarray(image.convert("L"), float)

    def said(self, selector: str, words: str) -> None:
        """Wait until the element shows the words."""
        eventually(lambda: self.page.locator(selector).inner_text() == words, words)

    def window(self) -> tuple[int, int]:
        data = dataset(self.page)
        return int(data["low"]), int(data["high"])


@dataclass(frozen=True)
class Bench:
    """A browser, a daemon with datasets, and a view of it, made once per module."""

    browser: Browser
    daemon: StandIn
    port: int
    scene: Scene

    @contextmanager
    def shown(self, query: str = "") -> Iterator[Shown]:
        """Open a separate page that shows frames."""
        with open_page(self.browser, f"http://127.0.0.1:{self.port}/{query}") as page:
            here = Shown(page, self.daemon, self.scene)
            eventually(lambda: here.drawn() >= 2, "frames")
            yield here


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    scene = scene_of_nuclei()
    with (
        chromium() as browser,
        StandIn(scene, raw=written_datasets(folder, scene)) as daemon,
        view_of(daemon.endpoint) as port,
    ):
        eventually(lambda: ask(port, "/health").status == 200, "ready")
        yield Bench(browser, daemon, port, scene)
