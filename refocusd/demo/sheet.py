"""The contact sheet: raw, refocused and truth side by side, one row per defocus.

It is made so that it cannot flatter: the three pictures of a row share one grey
scale, which is taken from the truth and written beside them, and they always show
the middle of the frame.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.files import output
from refocusd.optional import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Any real 2-D picture in camera counts.
Picture = NDArray[Any]

COLUMNS = ("raw", "refocused", "truth")
#: Percentiles of the truth that are shown black and white.
BLACK_PERCENTILE, WHITE_PERCENTILE = 1.0, 99.7
#: Sides of the region shown, in pixels.
PANEL_PX = 256

#: One point is one pixel: text sizes are in pixels, and pixels of the panels are pixels of the file.
_DPI = 72
_PAPER, _INK, _QUIET = "#121418", "#eceef2", "#969ca6"
_BETTER, _WORSE = "#6ecda0", "#f0966e"
#: Space around the panels, px: the heading above, the notes at the left, the caption below.
_TOP, _LEFT, _BOTTOM, _MARGIN, _GAP = 96, 196, 96, 28, 10
_CAPTION_CHARS = 110


@dataclass(frozen=True, slots=True, eq=False)
class SheetRow:
    """One frame, before and after.

    Parameters
    ----------
    label : str
        E.g. ``"+8 µm"``; see `defocus_label`.
    raw, refocused, truth : ndarray, shape (height, width)
        In camera counts, any real type.
    psnr_before, psnr_after : float
        In dB, against the truth.
    """

    label: str
    raw: Picture
    refocused: Picture
    truth: Picture
    psnr_before: float
    psnr_after: float


def defocus_label(defocus_um: float) -> str:
    """Name a defocus: ``"+8 µm"``, ``"−16 µm"``, ``"in focus"``."""
    if round(defocus_um, 2) == 0:
        return "in focus"
    sign = "+" if defocus_um > 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(round(defocus_um, 2)):g} µm"


def contact_sheet(
    rows: Sequence[SheetRow], path: Path, *, title: str, pixel_um: float, caption: str
) -> Path:
    """Write the contact sheet as PNG.

    Parameters
    ----------
    rows : sequence of SheetRow
        From top to bottom; all frames have the same size, at least 256 px per side, of which the
        middle is shown.
    path : Path
        File to write or replace; its folder must exist.
    title : str
    pixel_um : float
        Camera pixel in the specimen plane, in micrometres.
    caption : str
        Text before the explanation of the grey scale.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InputError
        If there is no row, or the pictures do not match.
    ConfigError
        If matplotlib is not installed.
    OutputError
        If the file cannot be written.
    """
    height, width = _common_shape(rows)
    need("matplotlib", "the contact sheet", "demo")
    from matplotlib.figure import Figure

    step = PANEL_PX + _GAP
    wide = _LEFT + 3 * step - _GAP + _MARGIN
    high = _TOP + len(rows) * step - _GAP + _BOTTOM
    figure = Figure((wide / _DPI, high / _DPI), dpi=_DPI)
    _write(figure, _LEFT, _MARGIN, title, 22, _INK, va="top")
    for column, name in enumerate(COLUMNS):
        _write(figure, _LEFT + column * step, _TOP - 6, name, 15, _QUIET, va="bottom")
    top, left = (height - PANEL_PX) // 2, (width - PANEL_PX) // 2
    shown = np.s_[top : top + PANEL_PX, left : left + PANEL_PX]
    for index, row in enumerate(rows):
        last = _draw_row(figure, _TOP + index * step, row, shown)
    _draw_scale_bar(last, pixel_um)
    explanation = (
        f"{caption} Grey: the range at the left, black to white, is the {BLACK_PERCENTILE:g}st to "
        f"{WHITE_PERCENTILE:g}th percentile of the truth shown, and the same for the three pictures "
        f"of a row. {PANEL_PX}×{PANEL_PX} of {width}×{height} px shown. {pixel_um:g} µm a pixel."
    )
    wrapped = textwrap.fill(explanation, _CAPTION_CHARS)
    _write(figure, _LEFT, high - _BOTTOM + 14, wrapped, 13, _QUIET, va="top")
    with output(path):
        figure.savefig(path, format="png", facecolor=_PAPER)
    return path


def _write(figure: Figure, x: int, y: int, text: str, size: int, colour: str, **place: Any) -> None:
    """Write text at a point in pixels from the left and from the top."""
    figure.text(
        x / figure.bbox.width,
        1 - y / figure.bbox.height,
        text,
        size=size,
        color=colour,
        family="DejaVu Sans",
        parse_math=False,
        **place,
    )


def _draw_row(figure: Figure, top: int, row: SheetRow, shown: tuple[slice, slice]) -> Axes:
    """Draw the three pictures of a row in one grey scale, and its notes; return the last panel."""
    wide, high = figure.bbox.size
    black, white = np.percentile(row.truth[shown], (BLACK_PERCENTILE, WHITE_PERCENTILE))
    # A flat truth has no range; one count keeps it flat.
    white = max(white, black + 1)
    for column, picture in enumerate((row.raw, row.refocused, row.truth)):
        left = _LEFT + column * (PANEL_PX + _GAP)
        place = (left / wide, 1 - (top + PANEL_PX) / high, PANEL_PX / wide, PANEL_PX / high)
        panel = figure.add_axes(place, frameon=False, xticks=(), yticks=())
        grey = picture[shown].astype(np.float32)
        panel.imshow(grey, cmap="gray", vmin=black, vmax=white, interpolation="nearest")
    for text, size, colour in _notes(row, black, white):
        _write(figure, _LEFT - 24, top, text, size, colour, ha="right", va="top")
        top += round(1.4 * size)
    return panel


def _notes(row: SheetRow, black: float, white: float) -> list[tuple[str, int, str]]:
    """The notes beside a row: text, size and colour of each line."""
    gain = round(row.psnr_after - row.psnr_before, 1)
    colour = _BETTER if gain > 0 else _WORSE if gain < 0 else _QUIET
    sign = "\N{MINUS SIGN}" if gain < 0 else "+"
    return [
        (row.label, 20, _INK),
        ("PSNR", 13, _QUIET),
        (f"{row.psnr_before:.1f} → {row.psnr_after:.1f} dB", 15, _INK),
        (f"{sign}{abs(gain):.1f} dB", 15, colour),
        (f"{black:.0f}–{white:.0f} counts", 13, _QUIET),
    ]


def _draw_scale_bar(panel: Axes, pixel_um: float) -> None:
    """Draw a scale bar on a black plate, so that it can be read on nuclei too."""
    from matplotlib.font_manager import FontProperties
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    length_um = _round_length(0.35 * PANEL_PX * pixel_um)
    bar = AnchoredSizeBar(
        panel.transData,
        round(length_um / pixel_um),
        f"{length_um:g} µm",
        "lower right",
        pad=0.4,
        borderpad=0.4,
        color="white",
        label_top=True,
        size_vertical=4,
        fontproperties=FontProperties(family="DejaVu Sans", size=14),
    )
    bar.patch.set(facecolor="black", edgecolor="black")
    for rectangle in bar.size_bar.get_children():
        rectangle.set(fill=True, linewidth=0)  # an edge would make it longer
    panel.add_artist(bar)


def _round_length(most_um: float) -> float:
    """The largest of 1, 2, 5, 10, 20 ... that is at most `most_um`."""
    decade = 10.0 ** math.floor(math.log10(most_um))
    return next(step * decade for step in (5, 2, 1) if step * decade <= most_um * (1 + 1e-9))


def _common_shape(rows: Sequence[SheetRow]) -> tuple[int, int]:
    if not rows:
        raise InputError("a contact sheet without rows shows nothing; give at least one frame")
    shape = rows[0].truth.shape
    for row in rows:
        for name in COLUMNS:
            picture: Picture = getattr(row, name)
            if picture.ndim != 2 or picture.shape != shape or min(shape) < PANEL_PX:
                raise InputError(
                    f"the {name} picture of row {row.label!r} has shape {picture.shape}, the first "
                    f"row's truth {shape}; a contact sheet takes 2-D frames of one size, "
                    f"{PANEL_PX} px a side at least"
                )
    return shape[0], shape[1]
