"""The contact sheet: raw, refocused and truth side by side, one row a defocus.

Made so that it cannot flatter: the three pictures of a row share one grey
scale, which is taken from the truth and written beside them, and what is shown
is the middle of the frame.
"""

from __future__ import annotations

import math
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
#: Percentiles of the truth that become black and white.
BLACK_PERCENTILE, WHITE_PERCENTILE = 1.0, 99.7
#: Longest side of the region shown, and least side it is enlarged to, in pixels.
PANEL_PX = 256

#: One point is one pixel: sizes of text are in pixels, as everything else.
_DPI = 72
_PAPER, _INK, _QUIET = "#121418", "#eceef2", "#969ca6"
_BETTER, _WORSE = "#6ecda0", "#f0966e"
_MARGIN, _GAP, _LABEL_GAP = 28, 10, 24
#: Panels are at least so wide apart and so high: room for the headings and the notes.
_LEAST_WIDTH, _LEAST_HEIGHT = 100, 110


@dataclass(frozen=True, slots=True, eq=False)
class SheetRow:
    """One frame, before and after.

    Parameters
    ----------
    label : str
        E.g. ``"+8 µm"``; see `defocus_label`.
    raw, refocused, truth : ndarray, shape (height, width)
        In camera counts, any real type.
    psnr_before, psnr_after : float, optional
        In dB, against the truth.
    """

    label: str
    raw: Picture
    refocused: Picture
    truth: Picture
    psnr_before: float | None = None
    psnr_after: float | None = None


def defocus_label(defocus_um: float) -> str:
    """Name a defocus: ``"+8 µm"``, ``"−16 µm"``, ``"in focus"``."""
    if round(defocus_um, 2) == 0:
        return "in focus"
    sign = "+" if defocus_um > 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(round(defocus_um, 2)):g} µm"


def contact_sheet(
    rows: Sequence[SheetRow],
    path: Path,
    *,
    title: str,
    pixel_um: float | None,
    caption: str = "",
) -> Path:
    """Write the contact sheet as PNG.

    Parameters
    ----------
    rows : sequence of SheetRow
        From top to bottom; frames of one size, of which the middle is shown, at
        most 256 px a side.  Small frames are enlarged by a whole number.
    path : Path
        Written, or replaced; its folder must exist.
    title : str
    pixel_um : float or None
        Camera pixel in the specimen plane, in micrometres; None leaves the
        scale bar out.
    caption : str
        Put before the explanation of the grey scale.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InputError
        If there is no row, the pictures do not match, or the pixel size is none.
    ConfigError
        If matplotlib is not installed.
    OutputError
        If the file cannot be written.
    """
    shape = _common_shape(rows)
    if pixel_um is not None and not (math.isfinite(pixel_um) and pixel_um > 0):
        raise InputError(f"pixel size is {pixel_um} um; give a positive length, or None")
    need("matplotlib", "the contact sheet", "demo")
    sheet = _Sheet(shape, len(rows))
    sheet.draw_text(title, f"{caption} {_explanation(shape, sheet.enlarged, pixel_um)}")
    for index, row in enumerate(rows):
        panels = sheet.draw_row(index, row)
    if pixel_um is not None:
        _draw_scale_bar(panels[-1], pixel_um)
    with output(path):
        sheet.save(path)
    return path


class _Sheet:
    """A figure of three columns of panels; text stands around them.

    Pixels of the panels are pixels of the file: everything lies at whole numbers.
    """

    def __init__(self, shape: tuple[int, int], rows: int) -> None:
        from matplotlib.figure import Figure

        height, width = (min(side, PANEL_PX) for side in shape)
        top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
        self._shown = np.s_[top : top + height, left : left + width]
        self.enlarged = max(1, PANEL_PX // max(height, width))
        self._panel = (width * self.enlarged, height * self.enlarged)
        self._column = max(self._panel[0], _LEAST_WIDTH) + _GAP
        self._row = max(self._panel[1], _LEAST_HEIGHT) + _GAP
        self._width, self._height = 3 * self._column - _GAP, rows * self._row
        self._figure: Figure = Figure((self._width / _DPI, self._height / _DPI), dpi=_DPI)

    def draw_text(self, title: str, caption: str) -> None:
        """Write the title and the names of the columns above, the caption below."""
        for column, name in enumerate(COLUMNS):
            self._write(column * self._column, self._height + 6, name, 15, _QUIET, va="bottom")
        self._write(0, self._height + 34, self._wrapped(title, 22), 22, _INK, va="bottom")
        self._write(0, -4, self._wrapped(caption, 13), 13, _QUIET, va="top")

    def draw_row(self, index: int, row: SheetRow) -> list[Axes]:
        """Draw the three pictures of a row in one grey scale, and its figures; the panels."""
        top = self._height - index * self._row
        black, white = np.percentile(row.truth[self._shown], (BLACK_PERCENTILE, WHITE_PERCENTILE))
        # A flat truth has no range; one count keeps it flat.
        white = max(white, black + 1)
        width, height = self._panel
        panels = []
        for column, picture in enumerate((row.raw, row.refocused, row.truth)):
            left, bottom = column * self._column, top - height
            place = np.divide(
                (left, bottom, width, height),
                (self._width, self._height, self._width, self._height),
            )
            panel = self._figure.add_axes(tuple(place), frameon=False, xticks=(), yticks=())
            panel.imshow(
                np.nan_to_num(picture[self._shown].astype(np.float32)),
                cmap="gray",
                vmin=black,
                vmax=white,
                interpolation="nearest",
                origin="upper",
            )
            panels.append(panel)
        for text, size, colour in _notes(row, black, white):
            self._write(-_LABEL_GAP, top, text, size, colour, ha="right", va="top")
            top -= round(1.4 * size)
        return panels

    def save(self, path: Path) -> None:
        """Write the file: what was drawn, with a margin."""
        from matplotlib.transforms import Bbox

        drawn = self._figure.get_tightbbox()
        corners = np.array([drawn.min, drawn.max]) * _DPI
        whole = np.array([np.floor(corners[0]) - _MARGIN, np.ceil(corners[1]) + _MARGIN])
        self._figure.savefig(path, format="png", facecolor=_PAPER, bbox_inches=Bbox(whole / _DPI))

    def _write(self, x: float, y: float, text: str, size: int, colour: str, **place: Any) -> Any:
        return self._figure.text(
            x / self._width,
            y / self._height,
            text,
            size=size,
            color=colour,
            family="DejaVu Sans",
            parse_math=False,
            **place,
        )

    def _wrapped(self, text: str, size: int) -> str:
        """Break the text at spaces into lines no wider than the panels."""
        probe = self._write(0, 0, "", size, _INK)
        lines = [""]
        for word in text.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            probe.set_text(longer)
            if probe.get_window_extent().width <= self._width:
                lines[-1] = longer
            else:
                lines.append(word)
        probe.remove()
        return "\n".join(lines)


def _notes(row: SheetRow, black: float, white: float) -> list[tuple[str, int, str]]:
    """What stands beside a row: text, size and colour of each line."""
    notes = [(row.label, 20, _INK)]
    before, after = row.psnr_before, row.psnr_after
    if before is not None and after is not None:
        gain = round(after - before, 1)
        colour = _BETTER if gain > 0 else _WORSE if gain < 0 else _QUIET
        sign = "\N{MINUS SIGN}" if gain < 0 else "+"
        notes += [
            ("PSNR", 13, _QUIET),
            (f"{before:.1f} → {after:.1f} dB", 15, _INK),
            (f"{sign}{abs(gain):.1f} dB", 15, colour),
        ]
    return [*notes, (f"{black:.0f}–{white:.0f} counts", 13, _QUIET)]


def _explanation(shape: tuple[int, int], enlarged: int, pixel_um: float | None) -> str:
    height, width = shape
    grey = (
        f"Grey: the range at the left, black to white, is the {BLACK_PERCENTILE:g}st to "
        f"{WHITE_PERCENTILE:g}th percentile of the truth shown, and the same for the three pictures "
        "of a row."
    )
    parts = [grey]
    if max(shape) > PANEL_PX:
        shown = f"{min(width, PANEL_PX)}×{min(height, PANEL_PX)}"
        parts.append(f"{shown} of {width}×{height} px shown.")
    if enlarged > 1:
        parts.append(f"Enlarged {enlarged}×.")
    if pixel_um is not None:
        parts.append(f"{pixel_um:g}\N{NO-BREAK SPACE}µm a pixel.")
    return " ".join(parts)


def _draw_scale_bar(panel: Axes, pixel_um: float) -> None:
    """Draw a bar on a plate of its own, to be read on nuclei too, if there is room for it."""
    from matplotlib.font_manager import FontProperties
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
    length_um = _round_length(0.35 * (right - left) * pixel_um)
    bar = AnchoredSizeBar(
        panel.transData,
        max(1, round(length_um / pixel_um)),
        f"{length_um:g} µm",
        "lower right",
        pad=0.4,
        borderpad=0.4,
        color="white",
        label_top=True,
        size_vertical=abs(top - bottom) / panel.bbox.height * 4,
        fontproperties=FontProperties(family="DejaVu Sans", size=14),
    )
    bar.patch.set(facecolor="black", edgecolor="black")
    for rectangle in bar.size_bar.get_children():
        rectangle.set(fill=True, linewidth=0)  # an edge would make it longer
    panel.add_artist(bar)
    plate = bar.get_window_extent()
    if plate.width + 12 > panel.bbox.width or plate.height + 12 > panel.bbox.height:
        bar.remove()  # the caption has the pixel size


def _round_length(most_um: float) -> float:
    """Find the longest of 1, 2, 5, 10, 20 ... that is not longer than asked for."""
    decade = 10.0 ** math.floor(math.log10(most_um))
    return next(step * decade for step in (5, 2, 1) if step * decade <= most_um * (1 + 1e-9))


def _common_shape(rows: Sequence[SheetRow]) -> tuple[int, int]:
    if not rows:
        raise InputError("a contact sheet without rows shows nothing; give at least one frame")
    shape = rows[0].truth.shape
    for row in rows:
        for name in COLUMNS:
            picture: Picture = getattr(row, name)
            if picture.ndim != 2 or picture.shape != shape or picture.size == 0:
                raise InputError(
                    f"the {name} picture of row {row.label!r} has shape {picture.shape}, the first "
                    f"row's truth {shape}; a contact sheet takes 2-D frames of one size"
                )
    return shape[0], shape[1]
