"""The contact sheet: raw, refocused and truth side by side, one row a defocus.

Made so that it cannot flatter: the three pictures of a row share one grey
scale, which is taken from the truth and written beside them, and the region
shown is the middle of the frame unless the caller asks for another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from refocusd.demo.lettering import Ink, Lettering
from refocusd.errors import InputError, OutputError

__all__ = ["Region", "SheetRow", "contact_sheet", "defocus_label"]

#: Any real 2-D picture in camera counts.
Picture = NDArray[Any]

COLUMNS = ("raw", "refocused", "truth")
#: Percentiles of the truth that become black and white.
BLACK_PERCENTILE, WHITE_PERCENTILE = 1.0, 99.7
#: Longest side of the region shown, and least side it is enlarged to, in pixels.
PANEL_PX = 256

_PAPER: Ink = (18, 20, 24)
_INK: Ink = (236, 238, 242)
_QUIET: Ink = (150, 156, 166)
_BETTER: Ink = (110, 205, 160)
_WORSE: Ink = (240, 150, 110)

_MARGIN = 28
_GAP = 10
_LABEL_GAP = 24


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


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
    region: Region | None = None,
) -> Path:
    """Write the contact sheet as PNG.

    Parameters
    ----------
    rows : sequence of SheetRow
        From top to bottom; frames of one size.
    path : Path
        Written, or replaced; its folder must exist.
    title : str
    pixel_um : float or None
        Camera pixel in the specimen plane, in micrometres; None leaves the
        scale bar out.
    caption : str
        Put before the explanation of the grey scale.
    region : Region, optional
        What is shown of each frame; by default its middle, at most 256 px a
        side.  Small regions are enlarged by a whole number, pixel by pixel.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InputError
        If there is no row, the pictures do not match, or the region or the
        pixel size is none.
    OutputError
        If the file cannot be written.
    """
    frame = _common_shape(rows)
    shown = _checked_region(region, frame) if region else _middle(frame)
    if pixel_um is not None and not (math.isfinite(pixel_um) and pixel_um > 0):
        raise InputError(f"pixel size is {pixel_um} um; give a positive length, or None")
    sheet = _Sheet(rows, shown, title, pixel_um, caption).drawn()
    try:
        sheet.save(path, format="PNG", optimize=True)
    except OSError as error:
        raise OutputError(
            f"the contact sheet {path} cannot be written ({error}); choose a folder that exists "
            "and can be written to"
        ) from error
    return path


class _Sheet:
    """Measures first, so that nothing is clipped; then draws."""

    def __init__(
        self,
        rows: Sequence[SheetRow],
        shown: Region,
        title: str,
        pixel_um: float | None,
        caption: str,
    ) -> None:
        self._rows = rows
        self._shown = shown
        self._pixel_um = pixel_um
        self._scale = max(1, PANEL_PX // max(shown.height, shown.width))
        self._panel = (shown.width * self._scale, shown.height * self._scale)
        self._notes = [self._note(row) for row in rows]
        self._label_width = max(
            letters.width(text) for note in self._notes for letters, text in note
        )
        heading = max(Lettering(15, _QUIET).width(name) for name in COLUMNS)
        self._column = max(self._panel[0], heading)
        self._left = _MARGIN + self._label_width + _LABEL_GAP
        self._width = self._left + 3 * self._column + 2 * _GAP + _MARGIN
        inner = self._width - 2 * _MARGIN
        self._title = [(Lettering(22, _INK), line) for line in _wrap(22, title, inner)]
        explained = (
            f"{caption} Grey: the range at the left, black to white, is the {BLACK_PERCENTILE:g}st "
            f"to {WHITE_PERCENTILE:g}th percentile of the truth shown, and the same for the three "
            f"pictures of a row. {self._dimensions()}"
        )
        self._caption = [(Lettering(13, _QUIET), line) for line in _wrap(13, explained, inner)]
        note_height = max(sum(letters.height for letters, _ in note) for note in self._notes)
        self._row_height = max(self._panel[1], note_height)

    def _dimensions(self) -> str:
        height, width = self._rows[0].truth.shape
        shown = self._shown
        parts = []
        if (shown.height, shown.width) != (height, width):
            parts.append(f"{shown.width}×{shown.height} of {width}×{height} px shown.")
        if self._scale > 1:
            parts.append(f"Enlarged {self._scale}×.")
        if self._pixel_um is not None:
            parts.append(f"{self._pixel_um:g}\N{NO-BREAK SPACE}µm a pixel.")
        return " ".join(parts)

    def _note(self, row: SheetRow) -> list[tuple[Lettering, str]]:
        note = [(Lettering(20, _INK), row.label)]
        before, after = row.psnr_before, row.psnr_after
        if before is not None and after is not None:
            gain = round(after - before, 1)
            ink = _BETTER if gain > 0 else _WORSE if gain < 0 else _QUIET
            sign = "\N{MINUS SIGN}" if gain < 0 else "+"
            note += [
                (Lettering(13, _QUIET), "PSNR"),
                (Lettering(15, _INK), f"{before:.1f} → {after:.1f} dB"),
                (Lettering(15, ink), f"{sign}{abs(gain):.1f} dB"),
            ]
        black, white = _grey_range(self._cut(row.truth))
        note.append((Lettering(13, _QUIET), f"{black:.0f}–{white:.0f} counts"))
        return note

    def _cut(self, picture: Picture) -> NDArray[np.float32]:
        top, left = self._shown.top, self._shown.left
        cut = picture[top : top + self._shown.height, left : left + self._shown.width]
        return cut.astype(np.float32)

    def drawn(self) -> Image.Image:
        blocks = (self._title, self._caption)
        title, caption = (sum(letters.height for letters, _ in block) for block in blocks)
        heading = Lettering(15, _QUIET)
        rows = len(self._rows) * (self._row_height + _GAP)
        height = _MARGIN + title + 10 + heading.height + 4 + rows + 8 + caption + _MARGIN
        image = Image.new("RGB", (self._width, height), _PAPER)
        draw = ImageDraw.Draw(image)
        top = _write_block(draw, _MARGIN, _MARGIN, self._title) + 10
        for index, name in enumerate(COLUMNS):
            heading.write(draw, self._column_left(index), top, name)
        top += heading.height + 4
        for row, note in zip(self._rows, self._notes, strict=True):
            _write_block(draw, _MARGIN, top, note)
            self._paste_pictures(image, top, row)
            top += self._row_height + _GAP
        last = top - self._row_height - _GAP
        if self._pixel_um is not None:
            self._draw_scale_bar(draw, self._column_left(2), last, self._pixel_um / self._scale)
        _write_block(draw, _MARGIN, top + 8, self._caption)
        return image

    def _column_left(self, index: int) -> int:
        return self._left + index * (self._column + _GAP)

    def _paste_pictures(self, image: Image.Image, top: int, row: SheetRow) -> None:
        black, white = _grey_range(self._cut(row.truth))
        for index, picture in enumerate((row.raw, row.refocused, row.truth)):
            grey = (self._cut(picture) - black) * (255 / (white - black)) + 0.5
            pixels = np.clip(np.nan_to_num(grey), 0, 255).astype(np.uint8)
            enlarged = pixels.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
            image.paste(Image.fromarray(enlarged), (self._column_left(index), top))

    def _draw_scale_bar(
        self, draw: ImageDraw.ImageDraw, left: int, top: int, pixel_um: float
    ) -> None:
        width, height = self._panel
        length_um = _round_length(0.35 * width * pixel_um)
        length = max(1, round(length_um / pixel_um))
        letters = Lettering(15, (255, 255, 255))
        text = f"{length_um:g} µm"
        # Bar and text are centred on a plate of their own, to be read on nuclei too.
        plate_width = max(length, letters.width(text)) + 16
        plate_height = letters.height + 16
        if plate_width + 12 > width or plate_height + 12 > height:
            return  # The caption tells the pixel size.
        plate_left, plate_top = left + width - plate_width - 6, top + height - plate_height - 6
        draw.rectangle(
            (plate_left, plate_top, plate_left + plate_width - 1, plate_top + plate_height - 1),
            fill=(0, 0, 0),
        )
        text_left = plate_left + (plate_width - letters.width(text)) // 2
        letters.write(draw, text_left, plate_top + 2, text)
        bar_left = plate_left + (plate_width - length) // 2
        bar_top = plate_top + plate_height - 9
        draw.rectangle((bar_left, bar_top, bar_left + length - 1, bar_top + 3), fill=(255,) * 3)


def _wrap(size: int, text: str, width: int) -> list[str]:
    return Lettering(size, _INK).wrapped(text, width)


def _write_block(
    draw: ImageDraw.ImageDraw, left: int, top: int, lines: Sequence[tuple[Lettering, str]]
) -> int:
    for letters, text in lines:
        letters.write(draw, left, top, text)
        top += letters.height
    return top


def _grey_range(truth: NDArray[np.float32]) -> tuple[float, float]:
    black, white = np.percentile(truth, (BLACK_PERCENTILE, WHITE_PERCENTILE))
    # A flat truth has no range; one count keeps it flat.
    return float(black), float(max(white, black + 1))


def _round_length(most_um: float) -> float:
    """Find the longest of 1, 2, 5, 10, 20 ... that is not longer than asked for."""
    decade = 10.0 ** math.floor(math.log10(most_um))
    return next(step * decade for step in (5, 2, 1) if step * decade <= most_um * (1 + 1e-9))


def _middle(shape: tuple[int, int]) -> Region:
    height, width = (min(side, PANEL_PX) for side in shape)
    return Region((shape[0] - height) // 2, (shape[1] - width) // 2, height, width)


def _checked_region(region: Region, shape: tuple[int, int]) -> Region:
    fits = (
        min(region.top, region.left) >= 0
        and min(region.height, region.width) >= 1
        and region.top + region.height <= shape[0]
        and region.left + region.width <= shape[1]
    )
    if not fits:
        raise InputError(f"{region} does not lie in a frame of {shape[1]}×{shape[0]} px")
    return region


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
