"""An HTML page printed to PDF by a browser that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from refocusd.errors import ConfigError, OutputError
from refocusd.files import output

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
