"""HTML pages of reports, each one file with its style, pictures and tables; also printed to PDF."""

from __future__ import annotations

import base64
import html
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refocusd.errors import ConfigError, OutputError
from refocusd.files import output, write_whole


def document(title: str, body: Iterable[str]) -> str:
    """A page with this title; the parts of `body` are HTML already."""
    named = html.escape(title)
    style = resources.files(__package__).joinpath("report.css").read_text("utf-8")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{named}</title><style>\n{style}</style></head><body>",
            f"<h1>{named}</h1>",
            *body,
            "</body></html>\n",
        ]
    )


def table(rows: Iterable[Iterable[object]], heads: Sequence[str] = ()) -> str:
    """A table of plain text.

    Parameters
    ----------
    rows : iterable of iterables
        Each cell is a value, or a value and its CSS class.
    heads : sequence of str
        Column headings; without them, the first cell of each row is its heading.
    """
    found = [f"<tr>{''.join(map(_cell, heads, ['th'] * len(heads)))}</tr>"] if heads else []
    for row in rows:
        cells = list(row)
        tags = ["td" if heads else "th"] + ["td"] * (len(cells) - 1)
        found.append(f"<tr>{''.join(map(_cell, cells, tags))}</tr>")
    kind = ' class="grid"' if heads else ""
    return f"<table{kind}>{''.join(found)}</table>"


def _cell(cell: object, tag: str) -> str:
    value, kind = cell if isinstance(cell, tuple) else (cell, "")
    named = f' class="{html.escape(str(kind))}"' if kind else ""
    return f"<{tag}{named}>{html.escape(str(value))}</{tag}>"


def picture(png: bytes, alt: str) -> str:
    """A picture inside the page."""
    encoded = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{encoded}">'


def grey_png(values: NDArray[Any], low: float, high: float, *, side_px: int = 0) -> bytes:
    """A grey picture, black at `low` and white at `high`; reduced if it is much larger than asked."""
    step = max(1, max(values.shape) // side_px) if side_px else 1
    shown = (values[::step, ::step].astype(np.float32) - low) / max(high - low, 1e-6)
    file = io.BytesIO()
    grey = np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(grey).save(file, format="PNG", optimize=True)
    return file.getvalue()


def write_page(path: Path, page: str) -> None:
    """Write a page; make its folder if it is missing.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with output(path):
        write_whole(path, page.encode())


#: Names of browsers that print without a window, and where Windows and macOS keep them.
BROWSERS = (
    "chromium",
    "chromium-browser",
    "chromium-headless-shell",
    "google-chrome",
    "chrome",
    "msedge",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
)
#: Time limit for printing one page.
PRINT_S = 120.0


def print_pdf(page: Path, pdf: Path) -> None:
    """Print a page.

    Parameters
    ----------
    page : Path
        An HTML file.
    pdf : Path
        File to write or replace.

    Raises
    ------
    ConfigError
        If there is no browser.
    OutputError
        If the browser prints nothing.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ConfigError(
            f"no Chromium, Chrome or Edge was found to print a PDF: open {page} in a browser and print it"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        printed = Path(folder) / "page.pdf"
        command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer"]
        # Its own profile: a browser that is open with the same one would take over the page.
        command += [f"--user-data-dir={folder}/profile", f"--print-to-pdf={printed}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium's sandbox refuses root
        try:
            done = subprocess.run(
                [*command, page.resolve().as_uri()],
                capture_output=True,
                timeout=PRINT_S,
                check=False,
            )
            why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
        if not printed.is_file():
            raise OutputError(f"{browser} did not print {page} ({why}): print it from a browser")
        with output(pdf):
            shutil.copyfile(printed, pdf)
