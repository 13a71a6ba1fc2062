"""Page of `refocusd report`: one HTML file that contains its pictures and figures."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refocusd.datasets.judged import JudgedFrame
from refocusd.frame import Pixels
from refocusd.imaging.pair_evidence import CELL_PX

__all__ = ["Pictures", "RunReport", "page"]

#: Sides of the pictures, px.
SIDE_PX = 320
#: χ² that is white in the map of residuals.
WHITE_CHI2 = 30.0
STYLE = """
:root{color-scheme:light dark;--ink:#171c23;--quiet:#5c6773;--line:#dce1e7;--back:#fff;--bad:#c1342b;--wait:#8a6508;--good:#0b7f70}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebef;--quiet:#8e99a7;--line:#262e38;--back:#0e1115;--bad:#f0736b;--wait:#d9b14c;--good:#4cc2b0}}
body{font:15px/1.5 system-ui,sans-serif;max-width:1060px;margin:2em auto;padding:0 1em;color:var(--ink);background:var(--back)}
table{border-collapse:collapse;margin:.5em 0 1.5em}th,td{padding:.2em 1.2em .2em 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
th{color:var(--quiet);font-weight:500}figure{margin:0 0 1.5em;break-inside:avoid}figure img{width:32%;min-width:200px;image-rendering:pixelated;border:1px solid var(--line)}
figcaption{color:var(--quiet)}.untrusted{color:var(--bad)}.doubtful{color:var(--wait)}.trusted{color:var(--good)}svg{max-width:100%;color:var(--good)}
th{overflow-wrap:normal}text{font-size:11px;fill:var(--quiet)}@media (max-width:700px){figure img{width:100%}}
@page{size:A4;margin:16mm}
@media print{:root{color-scheme:light;--ink:#000;--quiet:#444;--line:#bbb;--back:#fff;--bad:#a3211a;--wait:#6d4f04;--good:#0a6155}
body{font-size:10.5pt;margin:0;padding:0;max-width:none}h1{font-size:17pt}h2{font-size:12.5pt;break-after:avoid}tr{break-inside:avoid}figure img{min-width:0;print-color-adjust:exact}}
"""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """One frame in pictures.

    Parameters
    ----------
    frame : JudgedFrame
    raw, refocused : ndarray of uint8 or uint16, shape (height, width)
    residuals : ndarray of float32 or None
        χ² by cell, see `refocusd.imaging.pair_evidence`.
    """

    frame: JudgedFrame
    raw: Pixels
    refocused: Pixels
    residuals: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, eq=False)
class RunReport:
    """Content of the page of one run.

    Parameters
    ----------
    title : str
    made : mapping of str to str
        What made the frames: software, model, settings.
    states, verdicts : mapping of str to int
        Frames.
    agreement : mapping of str to str
        With raw.
    blur_px : sequence of float
        In the order of the frames.
    blur_sources : mapping of str to int
        Frames by what their blur rests on.
    worst : sequence of Pictures
    figures : mapping
        The same for machines.
    """

    title: str
    made: Mapping[str, str]
    states: Mapping[str, int]
    verdicts: Mapping[str, int]
    agreement: Mapping[str, str]
    blur_px: Sequence[float]
    blur_sources: Mapping[str, int]
    worst: Sequence[Pictures]
    figures: Mapping[str, Any]


def page(report: RunReport) -> str:
    """The HTML of a report."""
    title = html.escape(report.title)
    figures = json.dumps(report.figures, indent=1).replace("</", "<\\/")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title><style>{STYLE}</style></head><body>",
            f"<h1>{title}</h1>",
            *_statement(report),
            "<h2>What made the frames</h2>",
            _table(report.made.items()),
            "<h2>Frames</h2>",
            _table((name.replace("_", " "), count) for name, count in report.states.items()),
            "<h2>Verdicts</h2>",
            _table(
                (name.replace("_", " "), count, name) for name, count in report.verdicts.items()
            ),
            "<h2>Agreement with raw</h2>",
            _table(report.agreement.items()),
            *(_blur(report) if report.blur_px else ()),
            *(("<h2>Frames to look at</h2>",) if report.worst else ()),
            *(_figure(pictures) for pictures in report.worst),
            f'<script type="application/json" id="figures">{figures}</script>',
            "</body></html>",
        ]
    )


def _statement(report: RunReport) -> list[str]:
    made = report.made
    who = html.escape(f"refocusd {made.get('version', '')} ({made.get('model', 'no model')})")
    trusted, judged = report.verdicts.get("trusted", 0), sum(report.verdicts.values())
    text = (
        f"Out-of-focus frames were refocused computationally with {who}. Refocused frames are "
        "estimates: raw frames are kept, unaltered, and are the record of the measurement. Each frame was "
        "judged by whether the result, blurred again, explains the raw frame, and by its likeness to frames "
        f"on which the method was tested; {trusted} of {judged} frames were trusted, and frames without "
        "anything to refocus were left as they were taken. Intensities of refocused frames should be "
        "measured on frames judged trusted only, and checked against the raw frames."
    )
    return ["<h2>Statement of use</h2>", f"<p>{text}</p>"]


def _table(rows: Iterable[tuple[object, ...]]) -> str:
    cells = (
        f'<tr><th>{html.escape(str(name))}<td class="{html.escape(str(kind[0])) if kind else ""}">'
        f"{html.escape(str(value))}</tr>"
        for name, value, *kind in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _blur(report: RunReport) -> tuple[str, ...]:
    sources = ((f"found from: {source}", count) for source, count in report.blur_sources.items())
    return "<h2>Blur of raw, px</h2>", _line(report.blur_px), _table(sources)


def _line(values: Sequence[float]) -> str:
    """A curve, with its least and greatest value."""
    step = max(1, len(values) // 1000)
    shown = values[::step]
    top = max(max(shown), 1e-6)
    points = " ".join(
        f"{index * 960 / max(len(shown) - 1, 1):.1f},{100 - 90 * value / top:.1f}"
        for index, value in enumerate(shown)
    )
    return (
        '<svg viewBox="0 0 960 110" role="img" aria-label="blur by frame"><polyline fill="none" '
        f'stroke="currentColor" stroke-width="1.5" points="{points}"/>'
        f'<path d="M0 100H960" stroke="var(--line)"/><text y="9">{top:.1f}</text><text y="97">0</text></svg>'
        f"<p>{len(values)} frames in their order, {min(values):.1f} to {max(values):.1f} px</p>"
    )


def _figure(pictures: Pictures) -> str:
    frame = pictures.frame
    both = pictures.raw, pictures.refocused
    low = float(np.percentile(pictures.raw[::4, ::4], 0.5))
    # Objects in focus are brighter: by the range of raw alone, they would be flat and white.
    high = max(float(np.percentile(pixels[::4, ::4], 99.8)) for pixels in both)
    images = [_grey(pixels, low, high) for pixels in both]
    names = ["raw", "written"]
    if pictures.residuals is not None:
        chi2 = np.log1p(pictures.residuals) / np.log1p(WHITE_CHI2)
        images.append(_grey(np.kron(chi2, np.ones((8, 8))), 0.0, 1.0))
        names.append(f"residuals by {CELL_PX} px, white: χ² over {WHITE_CHI2:.0f}")
    axes = html.escape(", ".join(f"{name} {value}" for name, value in frame.axes.items()))
    said = html.escape(f"{frame.verdict.replace('_', ' ')}: {'; '.join(frame.reasons)}")
    pngs = "".join(
        f'<img alt="{name}" src="data:image/png;base64,{image}"> '
        for name, image in zip(names, images, strict=True)
    )
    caption = f'{axes} — <b class="{html.escape(frame.verdict)}">{said}</b> ({", ".join(names)})'
    return f"<figure>{pngs}<figcaption>{caption}</figcaption></figure>"


def _grey(values: NDArray[Any], low: float, high: float) -> str:
    """A PNG, in base64."""
    step = max(1, max(values.shape) // SIDE_PX)
    shown = (values[::step, ::step].astype(np.float32) - low) / max(high - low, 1e-6)
    grey = np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
