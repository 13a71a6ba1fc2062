"""Draws a profile as a picture (PNG) or a self-contained page (HTML)."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from refocusd.errors import ConfigError, OutputError
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
from refocusd_calibration.profile.rows import Rows, profile_rows
from refocusd_calibration.profile.write import read_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["write_report"]

#: Draws one figure into axes.
Draw = Callable[["Figure", "Axes"], None]

_CSS = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1050px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0 1.5em}td,th{padding:.25em .8em;text-align:left;
border-bottom:1px solid #ddd;vertical-align:top}td.value{text-align:right;white-space:nowrap}
.failed{color:#b00020;font-weight:600}.remark{background:#fff3cd;padding:.5em .8em;margin:.3em 0}
img{max-width:100%}code{font-size:85%;word-break:break-all}
"""


def write_report(profile_path: str | Path, report_path: str | Path) -> None:
    """Write the report of a profile.

    Parameters
    ----------
    profile_path : Path
    report_path : Path
        Ends with ``.png`` (the figures) or ``.html`` (figures, numbers, checks and
        remarks; one file, no network).

    Raises
    ------
    InputError
        If the profile or one of its maps cannot be read.
    ConfigError
        If matplotlib is not installed, or the ending is another.
    OutputError
        If it cannot be written.
    """
    report_path = Path(report_path)
    ending = report_path.suffix.lower()
    if ending not in (".png", ".html"):
        raise ConfigError(f"{report_path}: a report ends with .png or .html")
    profile = load_profile(profile_path)
    picture = _picture(profile, Path(profile_path))
    data = picture if ending == ".png" else _page(profile, Path(profile_path), picture).encode()
    try:
        report_path.parent.mkdir(parents=True, exist_ok=True)
        report_path.write_bytes(data)
    except OSError as error:
        raise OutputError(
            f"the report {report_path} cannot be written: {error.strerror}"
        ) from error


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
        # Kernels stand side by side: a strip over the whole width.
        draw_kernels(figure.add_subplot(grid[rows, :]), profile.psf, microscope)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _page(profile: Profile, path: Path, picture: bytes) -> str:
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        f"<title>{html.escape(path.name)}</title><style>{_CSS}</style></head><body>",
        f"<h1>Calibration profile {html.escape(path.stem)}</h1>",
        f"<p>id <code>{profile.id()}</code>, written {html.escape(profile.created)}</p>",
        f"<p>by refocusd {html.escape(profile.version)}</p>",
    ]
    if profile.insisted:
        parts.append(
            "<p class=remark>Written although checks failed, because the user insisted.</p>"
        )
    parts += [f"<p class=remark>{html.escape(remark)}</p>" for remark in stale(profile)]
    encoded = base64.b64encode(picture).decode()
    parts.append(f'<img alt="figures of the profile" src="data:image/png;base64,{encoded}">')
    for section, rows in profile_rows(profile).items():
        date = profile.measured.get(section)
        parts.append(
            f"<h2>{section}{f' <small>({html.escape(date[:10])})</small>' if date else ''}</h2>"
        )
        parts.append(_table(rows))
    parts.append("<h2>checks</h2><table><tr><th>check<th><th>what was found</tr>")
    for item in profile.checks:
        state = "<td>passed" if item.passed else "<td class=failed>FAILED"
        parts.append(f"<tr><td>{html.escape(item.name)}{state}<td>{html.escape(item.detail)}</tr>")
    parts.append("</table><h2>raw data</h2><table><tr><th>what<th>where<th>sha256</tr>")
    parts += [
        f"<tr><td>{html.escape(raw.what)}<td><code>{html.escape(raw.path)}</code>"
        f"<td><code>{raw.sha256}</code></tr>"
        for raw in profile.raw
    ]
    parts.append("</table></body></html>\n")
    return "\n".join(parts)


def _table(rows: Rows) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(name)}<td class=value>{html.escape(value)}</tr>"
        for name, value in rows
    )
    return f"<table>{cells}</table>"
