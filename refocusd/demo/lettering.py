"""Text in pictures with the font that Pillow carries, and the signs it lacks.

Pillow's scalable default font is a subset of Aileron without µ, the minus sign,
dashes and arrows.  A figure of micrometres needs them, and a font file of
our own is not worth its size: they are drawn from parts of other glyphs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Lettering"]

_BARS = "\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}"
_MICRO = "\N{MICRO SIGN}\N{GREEK SMALL LETTER MU}"
_ARROW = "\N{RIGHTWARDS ARROW}"
#: Text falls into single signs that the font lacks, and runs of those it has.
_RUNS = re.compile(f"[{_BARS}{_MICRO}{_ARROW}]|[^{_BARS}{_MICRO}{_ARROW}]+")

Ink = tuple[int, int, int]


@dataclass(frozen=True)
class Lettering:
    """Text of one size and colour.

    Parameters
    ----------
    size : int
        Of the font, in pixels.
    ink : (int, int, int)
        Red, green, blue.
    """

    size: int
    ink: Ink
    _font: ImageFont.FreeTypeFont = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Load the font."""
        font = ImageFont.load_default(size=self.size)
        # Without FreeType, Pillow falls back to a bitmap font of one size;
        # its wheels all have it.
        assert isinstance(font, ImageFont.FreeTypeFont)
        object.__setattr__(self, "_font", font)

    @property
    def height(self) -> int:
        """From one line to the next, in pixels."""
        return round(1.35 * self.size)

    def width(self, text: str) -> int:
        """How wide the text will be, in pixels."""
        return math.ceil(sum(self._advance(run) for run in _runs(text)))

    def wrapped(self, text: str, width: int) -> list[str]:
        """Break the text at spaces into lines no wider than `width`.

        A word that is wider is left whole; a no-break space is not broken at.
        """
        lines: list[str] = []
        for word in filter(None, text.split(" ")):
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.width(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    def write(self, draw: ImageDraw.ImageDraw, left: float, top: int, text: str) -> None:
        """Write one line with the upper left corner of its box at (left, top)."""
        baseline = top + self.size
        for run in _runs(text):
            if run in _BARS:
                self._minus(draw, left, baseline)
            elif run == _ARROW:
                self._arrow(draw, left, baseline)
            elif run in _MICRO:
                self._micro(draw, left, baseline)
            else:
                draw.text((left, baseline), run, font=self._font, fill=self.ink, anchor="ls")
            left += self._advance(run)

    def _advance(self, run: str) -> float:
        if run in _BARS:
            return self._font.getlength("+")
        if run == _ARROW:
            return 0.9 * self.size
        return self._font.getlength("u" if run in _MICRO else run)

    @property
    def _stroke(self) -> int:
        return max(1, round(self.size / 13))

    def _minus(self, draw: ImageDraw.ImageDraw, x: float, baseline: int) -> None:
        left, top, right, bottom = self._font.getbbox("+", anchor="ls")
        self._bar(draw, x + left, x + right, baseline + (top + bottom) / 2)

    def _arrow(self, draw: ImageDraw.ImageDraw, x: float, baseline: int) -> None:
        """Draw a shaft that ends in the point of a single guillemet."""
        _, top, right, bottom = self._font.getbbox("›", anchor="ls")
        point = x + 0.84 * self.size - right
        draw.text((point, baseline), "›", font=self._font, fill=self.ink, anchor="ls")
        end = point + right - self._stroke
        self._bar(draw, x + 0.08 * self.size, end, baseline + (top + bottom) / 2)

    def _micro(self, draw: ImageDraw.ImageDraw, x: float, baseline: int) -> None:
        """Draw a u and, below it, the stem of a p: a µ."""
        at = round(x)
        draw.text((at, baseline), "u", font=self._font, fill=self.ink, anchor="ls")
        stem = Image.new("L", (self.size, 2 * self.size))
        ImageDraw.Draw(stem).text((0, self.size), "p", font=self._font, fill=255, anchor="ls")
        # Left of the bowl, and from the lower part of the u downwards.
        _, _, right, _ = self._font.getbbox("l", anchor="ls")
        top = self.size - round(0.2 * self.size)
        stem = stem.crop((0, top, math.ceil(right), 2 * self.size))
        draw.bitmap((at, baseline - (self.size - top)), stem, fill=self.ink)

    def _bar(self, draw: ImageDraw.ImageDraw, left: float, right: float, middle: float) -> None:
        # Not `round`, which takes halves up and down in turn.
        top = math.floor(middle - self._stroke / 2 + 0.5)
        draw.rectangle((round(left), top, round(right) - 1, top + self._stroke - 1), fill=self.ink)


def _runs(text: str) -> list[str]:
    # An x is close enough to a multiplication sign.
    for missing, sign in (("\N{MULTIPLICATION SIGN}", "x"), ("\N{NO-BREAK SPACE}", " ")):
        text = text.replace(missing, sign)
    runs: list[str] = _RUNS.findall(text)
    return runs
