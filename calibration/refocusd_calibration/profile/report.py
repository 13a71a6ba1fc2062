"""Draws a profile as a picture (PNG) or a self-contained page (HTML)."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from refocusd.cli.html_page import document, picture, table, write_page
from refocusd.errors import ConfigError
from refocusd.files import output
from refocusd.optional import need
from refocusd.profiles.conformity import stale
from refocusd.profiles.profile import Profile, load_profile
from refocusd_calibration.profile.report_figures import (
    draw_flat_field,
    draw_focus_curves,
    draw_focus_surface,
    draw_kernel_widths,
    draw_kernels,
    draw_residuals,
    draw_transfer,
)
from refocusd_calibration.profile.rows import profile_rows
from refocusd_calibration.profile.write import read_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Draws one figure into axes.
Draw = Callable[["Figure", "Axes"], None]


def write_report(profile_path: str | Path, report_path: str | Path) -> None:
    """Write the report of a profile.

    Parameters
    ----------
    profile_path : Path
    report_path : Path
        Ends with ``.png`` (the figures) or ``.html`` (figures, numbers, checks and
        remarks in one self-contained file).

    Raises
    ------
    InputError
        If the profile or one of its maps cannot be read.
    ConfigError
        If matplotlib is not installed, or the suffix is another.
    OutputError
        If it cannot be written.
    """
    report_path = Path(report_path)
    ending = check_report(report_path)
    profile = load_profile(profile_path)
    png = _picture(profile, Path(profile_path))
    if ending == ".html":
        write_page(report_path, _page(profile, Path(profile_path), png))
        return
    with output(report_path):
        report_path.write_bytes(png)


def check_report(path: Path) -> str:
    """Check that a report can be written to a file, and return its suffix in lower case.

    Raises
    ------
    ConfigError
        If matplotlib is not installed, or the suffix is not .png or .html.
    """
    need("matplotlib.figure", "a report", "calibrate")
    ending = path.suffix.lower()
    if ending not in (".png", ".html"):
        raise ConfigError(f"{path}: a report ends with .png or .html")
    return ending


def _figures(profile: Profile, path: Path) -> list[Draw]:
    draws: list[Draw] = []
    if (camera := profile.camera) is not None:
        draws += [lambda _, a: draw_transfer(a, camera), lambda _, a: draw_residuals(a, camera)]
        if "flat" in camera.maps:
            flat = read_map(path, camera.maps["flat"])
            draws.append(lambda f, a: draw_flat_field(f, a, flat))
    if (focus := profile.focus) is not None:
        draws += [
            lambda _, a: draw_focus_curves(a, focus),
            lambda f, a: draw_focus_surface(f, a, focus),
        ]
    if (psf := profile.psf) is not None:
        draws.append(lambda _, a: draw_kernel_widths(a, psf))
    return draws


def _picture(profile: Profile, path: Path) -> bytes:
    figures = need("matplotlib.figure", "a report", "calibrate")
    draws = _figures(profile, path)
    rows = -(-len(draws) // 2)
    strips = 1 if profile.psf is not None else 0
    heights = [4.2] * rows + [2.0] * strips or [1.0]
    figure: Figure = figures.Figure(figsize=(11, sum(heights) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    microscope = profile.microscope
    named = [microscope.camera, microscope.objective, microscope.channel]
    figure.suptitle(
        f"{', '.join(name for name in named if name) or 'Microscope'}, binning "
        f"{microscope.binning}: {profile.created[:10]}"
        + ("  (written although checks failed)" if profile.insisted else "")
    )
    for index, draw in enumerate(draws):
        draw(figure, figure.add_subplot(grid[index // 2, index % 2]))
    if profile.psf is not None:
        # The kernels are side by side, in a strip over the whole width.
        draw_kernels(figure.add_subplot(grid[rows, :]), profile, profile.psf)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _page(profile: Profile, path: Path, png: bytes) -> str:
    remarks = stale(profile)
    if profile.insisted:
        remarks = ["Written although checks failed, because the user insisted.", *remarks]
    parts = [
        f"<p>id <code>{profile.id()}</code>, written {html.escape(profile.created)}</p>",
        f"<p>by refocusd {html.escape(profile.version)}</p>",
        *(f"<p class=remark>{html.escape(remark)}</p>" for remark in remarks),
        picture(png, "figures of the profile"),
    ]
    for section, rows in profile_rows(profile).items():
        date = profile.measured.get(section)
        when = f" <small>({html.escape(date[:10])})</small>" if date else ""
        parts.append(f"<h2>{section}{when}</h2>")
        parts.append(table((name, (value, "number")) for name, value in rows))
    checks = (
        (item.name, "passed" if item.passed else ("FAILED", "bad"), item.detail)
        for item in profile.checks
    )
    raw = ((data.what, (data.path, "code"), (data.sha256, "code")) for data in profile.raw)
    parts += ["<h2>checks</h2>", table(checks, ("check", "", "what was found"))]
    parts += ["<h2>raw data</h2>", table(raw, ("what", "where", "sha256"))]
    return document(f"Calibration profile {path.stem}", parts)
