"""Pages of reports: one HTML file each, with its style, pictures and tables inside; printed to PDF."""

from __future__ import annotations

import base64
import html
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refocusd.errors import ConfigError, OutputError
from refocusd.files import output, write_whole

STYLE = """
:root{color-scheme:light dark;--ink:#171c23;--quiet:#5c6773;--line:#dce1e7;--back:#fff;--bad:#c1342b;--wait:#8a6508;--good:#0b7f70}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebef;--quiet:#8e99a7;--line:#262e38;--back:#0e1115;--bad:#f0736b;--wait:#d9b14c;--good:#4cc2b0}}
body{font:15px/1.5 system-ui,sans-serif;max-width:1060px;margin:2em auto;padding:0 1em;color:var(--ink);background:var(--back)}
table{border-collapse:collapse;margin:.5em 0 1.5em;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:.2em 1.2em .2em 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
.grid th,.grid td{overflow-wrap:normal}.grid .code{overflow-wrap:anywhere;font:85%/1.5 ui-monospace,monospace}
th{color:var(--quiet);font-weight:500}img{max-width:100%;height:auto}code{font-size:85%;word-break:break-all}
figure{display:flex;flex-wrap:wrap;gap:.4em;margin:0 0 1.5em;break-inside:avoid}figure img{flex:1 1 200px;max-width:32%;align-self:flex-start;image-rendering:pixelated;border:1px solid var(--line)}
figcaption{flex-basis:100%}figcaption,.note{color:var(--quiet)}dt{font-weight:600}dd{margin:0 0 .3rem 1rem}.number{text-align:right;white-space:nowrap}
.bad,.worse,.untrusted{color:var(--bad)}.doubtful,.remark{color:var(--wait)}.better,.trusted{color:var(--good)}svg{max-width:100%;color:var(--good)}
th{overflow-wrap:normal}text{font-size:11px;fill:var(--quiet)}@media (max-width:700px){figure img{max-width:100%}}
@page{size:A4;margin:16mm}
@media print{:root{color-scheme:light;--ink:#000;--quiet:#444;--line:#bbb;--back:#fff;--bad:#a3211a;--wait:#6d4f04;--good:#0a6155}
body{font-size:10.5pt;margin:0;padding:0;max-width:none}h1{font-size:17pt}h2{font-size:12.5pt;break-after:avoid}tr{break-inside:avoid}figure img{print-color-adjust:exact}}
"""


def document(title: str, body: Iterable[str]) -> str:
    """The page with this title, of parts that are HTML already."""
    named = html.escape(title)
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{named}</title><style>{STYLE}</style></head><body>",
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
        Each cell a value, or a value and its CSS class; without `heads`, the first cell of a
        row names what follows.
    heads : sequence of str
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
    """Write a page, in a folder that is made where it is missing.

    Raises
    ------
    OutputError
    """
    with output(path):
        write_whole(path, page.encode())


#: Names of browsers that print without a window, and where Windows and macOS keep them.
BROWSERS = (
    *(
        "chromium",
        "chromium-browser",
        "chromium-headless-shell",
        "google-chrome",
        "chrome",
        "msedge",
    ),
    *("microsoft-edge", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
)
PRINT_S = 120.0


def print_pdf(page: Path, pdf: Path) -> None:
    """Print a page.

    Parameters
    ----------
    page : Path
        An HTML file.
    pdf : Path
        Written, or replaced.

    Raises
    ------
    ConfigError
        If there is no browser.
    OutputError
        If it prints nothing.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ConfigError(
            f"no Chromium, Chrome or Edge was found to print a PDF: open {page} in a browser and print it"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        printed = Path(folder) / "page.pdf"
        command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer"]
        # A profile of its own: one that is in use would take the page to its window.
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
