"""Page of `refocusd report`: one HTML file that contains its pictures and figures."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.cli.html_page import document, grey_png, picture, table
from refocusd.datasets.judged import JudgedFrame
from refocusd.frame import Pixels, counted
from refocusd.imaging.pair_evidence import CELL_PX

#: Side of the pictures, px: at most twice this.
SIDE_PX = 320
#: χ² that is white in the map of residuals.
WHITE_CHI2 = 30.0


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
    dataset : str
        Name of the refocused dataset.
    made : mapping of str to str
        What made the frames: software, model, settings.
    states, verdicts : mapping of str to int
        Number of frames.
    agreement : mapping of str to str
        Agreement with raw: the name of each measure, and its values in words.
    blur_px : sequence of float
        Blur of each frame for which it is known, in the order of the frames.
    blur_sources : mapping of str to int
        Number of frames by the source of their blur.
    doubted : sequence of JudgedFrame
        The worst first.
    worst : sequence of Pictures
        Pictures of the first of these.
    """

    dataset: str
    made: Mapping[str, str]
    states: Mapping[str, int]
    verdicts: Mapping[str, int]
    agreement: Mapping[str, str]
    blur_px: Sequence[float]
    blur_sources: Mapping[str, int]
    doubted: Sequence[JudgedFrame]
    worst: Sequence[Pictures]

    @property
    def figures(self) -> dict[str, Any]:
        """The same as plain values, for JSON; without the pictures."""
        names = ("dataset", "made", "states", "verdicts", "agreement", "blur_px", "blur_sources")
        frames = [
            {"axes": frame.axes, "verdict": frame.verdict, "reasons": list(frame.reasons)}
            for frame in self.doubted
        ]
        return {**{name: getattr(self, name) for name in names}, "frames": frames}


def page(report: RunReport) -> str:
    """The HTML of a report."""
    figures = json.dumps(report.figures, indent=1).replace("</", "<\\/")
    return document(
        f"{report.dataset}: refocusing report",
        [
            *_statement(report),
            "<h2>What made the frames</h2>",
            table(report.made.items()),
            "<h2>Frames</h2>",
            table((name.replace("_", " "), count) for name, count in report.states.items()),
            "<h2>Verdicts</h2>",
            table(
                (name.replace("_", " "), (count, name)) for name, count in report.verdicts.items()
            ),
            "<h2>Agreement with raw</h2>",
            table(report.agreement.items()),
            *(_blur(report) if report.blur_px else ()),
            *(("<h2>Frames to look at</h2>",) if report.worst else ()),
            *(_figure(pictures) for pictures in report.worst),
            f'<script type="application/json" id="figures">{figures}</script>',
        ],
    )


def _statement(report: RunReport) -> list[str]:
    made = report.made
    who = html.escape(f"refocusd {made.get('version', '')} ({made.get('model', 'no model')})")
    trusted, judged = report.verdicts.get("trusted", 0), sum(report.verdicts.values())
    text = (
        f"Out-of-focus frames were refocused computationally with {who}. Refocused frames are "
        "estimates: raw frames are kept, unaltered, and are the record of the measurement. Each frame was "
        "judged by whether the result, blurred again, explains the raw frame, and by its similarity to frames "
        f"on which the method was tested; {trusted} of {counted(judged)} were judged trusted; frames without "
        "anything to refocus were left as they were taken. Intensities of refocused frames should be "
        "measured only on frames judged trusted, and checked against the raw frames."
    )
    return ["<h2>Statement of use</h2>", f"<p>{text}</p>"]


def _blur(report: RunReport) -> tuple[str, ...]:
    sources = ((f"found from: {source}", count) for source, count in report.blur_sources.items())
    return "<h2>Blur of raw, px</h2>", _line(report.blur_px), table(sources)


def _line(values: Sequence[float]) -> str:
    """A curve, with its smallest and largest value."""
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
        f"<p>{counted(len(values))} in their order, {min(values):.1f} to {max(values):.1f} px</p>"
    )


def _figure(pictures: Pictures) -> str:
    frame = pictures.frame
    both = pictures.raw, pictures.refocused
    low = float(np.percentile(pictures.raw[::4, ::4], 0.5))
    # Refocused objects are brighter: on the scale of raw alone, they would be saturated.
    high = max(float(np.percentile(pixels[::4, ::4], 99.8)) for pixels in both)
    shown = {
        name: grey_png(pixels, low, high, side_px=SIDE_PX)
        for name, pixels in zip(("raw", "written"), both, strict=True)
    }
    if pictures.residuals is not None:
        chi2 = np.log1p(pictures.residuals) / np.log1p(WHITE_CHI2)
        name = f"residuals by {CELL_PX} px, white: χ² over {WHITE_CHI2:.0f}"
        shown[name] = grey_png(np.kron(chi2, np.ones((8, 8))), 0.0, 1.0, side_px=SIDE_PX)
    axes = html.escape(", ".join(f"{name} {value}" for name, value in frame.axes.items()))
    said = html.escape(f"{frame.verdict.replace('_', ' ')}: {'; '.join(frame.reasons)}")
    pngs = " ".join(picture(png, name) for name, png in shown.items())
    caption = f'{axes} — <b class="{html.escape(frame.verdict)}">{said}</b> ({", ".join(shown)})'
    return f"<figure>{pngs}<figcaption>{caption}</figcaption></figure>"
