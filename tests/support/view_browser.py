"""A real headless Chromium for the tests of the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright
from waiting import until as eventually

__all__ = ["chromium", "dataset", "eventually", "open_page"]

#: The system's Chromium (Debian: `apt-get install chromium-headless-shell`), used if playwright has
#: #: none of its own (`playwright install chromium`).
SYSTEM_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
DESK, PHONE = (1280, 800), (390, 844)


@contextmanager
def chromium(**options: Any) -> Iterator[Browser]:
    """Run a browser.  Without one, tests fail if they must run (CI), and are skipped otherwise."""
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        path = own if own.exists() else next(filter(None, map(shutil.which, SYSTEM_BROWSERS)), None)
        why = (
            "no Chromium: run `playwright install chromium`, or install the system's (Debian: "
            "apt-get install chromium-headless-shell)"
        )
        if path is None:
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(why)
        try:
            browser = playwright.chromium.launch(executable_path=path, **options)
        except Error as error:
            pytest.fail(f"{path} does not start: {error}")
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(
    browser: Browser, url: str, size: tuple[int, int] = DESK, **context: Any
) -> Iterator[Page]:
    """Open a page in its own context; errors that it reports fail the test."""
    complaints: list[str] = []
    made = browser.new_context(viewport={"width": size[0], "height": size[1]}, **context)
    page = made.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    try:
        yield page
    finally:
        made.close()
    assert not complaints, complaints


def dataset(page: Page, selector: str = "#stage") -> dict[str, str]:
    """The ``data-`` attributes of an element."""
    found: dict[str, str] = page.locator(selector).evaluate("e => ({...e.dataset})")
    return found
