"""Raw and refocused in one file to keep: a PNG to show, or a TIFF to measure.

The PNG shows both frames in one grey scale, which is written under them with the
scale bar; the TIFF (for ImageJ and Fiji) has the counts themselves and all metadata.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from refocusd import __version__
from refocusd.frame import Pixels
from refocusd.profiles.microscope_metadata import pixel_um_of
from refocusd.view.frames.datasets import FramePair

#: Percentiles, over the pixels of both frames, that are shown black and white.
LOW_PERCENTILE, HIGH_PERCENTILE = 0.1, 99.9
_PAPER, _INK, _QUIET = (18, 20, 24), (236, 238, 242), (150, 156, 166)
_GAP = 8
#: Written into every file.
ESTIMATE = "The refocused frame is an estimate by a neural network, not a measurement."


@dataclass(frozen=True, slots=True)
class Window:
    """The counts that are shown black and white."""

    low: float
    high: float

    def grey(self, pixels: Pixels) -> NDArray[np.uint8]:
        """Counts as grey levels, 0 to 255, clipped to the window."""
        span = max(self.high - self.low, 1e-9)
        levels = (pixels.astype(np.float32) - self.low) * (255.0 / span)
        grey: NDArray[np.uint8] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        return grey


def auto_window(*frames: Pixels) -> Window:
    """One window for all frames, from percentiles of their pixels (at most 2¹⁸ per frame)."""
    samples = []
    for frame in frames:
        stride = max(1, math.ceil(math.sqrt(frame.size / (1 << 18))))
        samples.append(frame[::stride, ::stride].ravel())
    low, high = np.percentile(np.concatenate(samples), (LOW_PERCENTILE, HIGH_PERCENTILE))
    if high > low:
        return Window(float(low), max(float(high), float(low) + 1.0))
    # Frames of a single value keep their brightness: saturated ones are white.
    return Window(0.0, max(float(high), 1.0))


def scale_bar_um(width_um: float) -> float:
    """The largest length of the series 1, 2, 5, 10... that is at most a fifth of the width, in um.

    >>> scale_bar_um(330.0)
    50.0
    """
    wanted = width_um / 5
    decade = 10.0 ** math.floor(math.log10(wanted))
    return next(step * decade for step in (5, 2, 1) if step * decade <= wanted)


def scale_bar_text(um: float) -> str:
    """The text under the bar.  Pillow's own font has no micro sign."""
    return f"{um:g} um"


def png_snapshot(pair: FramePair, window: Window | None = None) -> bytes:
    """Raw on the left, refocused on the right, in one grey scale, with a caption under them.

    Parameters
    ----------
    pair : FramePair
    window : Window, optional
        By default from percentiles of both frames.
    """
    frames = pair.frames
    window = window or auto_window(*frames.values())
    height, width = pair.shape
    size = max(11, min(28, width // 40))
    font = ImageFont.load_default(size)
    line = round(size * 1.5)
    whole = Image.new(
        "RGB", (len(frames) * width + (len(frames) - 1) * _GAP, height + 3 * line + _GAP), _PAPER
    )
    draw = ImageDraw.Draw(whole)
    um = pixel_um_of(pair.metadata)
    for index, (name, pixels) in enumerate(frames.items()):
        left = index * (width + _GAP)
        whole.paste(Image.fromarray(window.grey(pixels)), (left, 0))
        caption = name if name == "raw" else _caption_of(pair)
        draw.text((left + 2, height + 4), caption, _INK, font)
    axes = ", ".join(f"{name} {value}" for name, value in json.loads(pair.key).items())
    shown = f"{pair.acquisition.name}: {axes}"
    counts = f"grey scale {window.low:.0f} to {window.high:.0f} counts, the same for both"
    draw.text((2, height + 4 + line), shown, _QUIET, font)
    draw.text((2, height + 4 + 2 * line), counts, _QUIET, font)
    if um is not None:
        _draw_scale_bar(draw, font, um, width, height, line, whole.width)
    about = PngInfo()
    about.add_itxt("Software", f"refocusd {__version__}")
    about.add_itxt("Description", json.dumps(_about(pair, window), ensure_ascii=False))
    output = io.BytesIO()
    whole.save(output, "PNG", pnginfo=about)
    return output.getvalue()


def _draw_scale_bar(
    draw: ImageDraw.ImageDraw, font: Any, um: float, width: int, height: int, line: int, right: int
) -> None:
    bar_um = scale_bar_um(um * width)
    length = round(bar_um / um)
    top = height + 4 + round(1.2 * line)
    draw.rectangle((right - 4 - length, top, right - 4, top + max(2, line // 8)), _INK)
    draw.text((right - 4, top + line // 4), scale_bar_text(bar_um), _INK, font, anchor="ra")


def _caption_of(pair: FramePair) -> str:
    if pair.made_by.get("state") == "passed_through":
        return "passed through: already in focus"
    return "refocused (estimate)"


def tiff_snapshot(pair: FramePair, window: Window | None = None) -> bytes:
    """The counts of both frames as an ImageJ TIFF: channels raw and refocused."""
    frames = pair.frames
    window = window or auto_window(*frames.values())
    metadata: dict[str, Any] = {
        "axes": "CYX",
        "mode": "grayscale",
        "Labels": list(frames),
        "Ranges": (window.low, window.high) * len(frames),
        "Info": json.dumps(_about(pair, window), ensure_ascii=True),
    }
    um = pixel_um_of(pair.metadata)
    resolution = None
    if um is not None:
        metadata["unit"] = "um"
        resolution = (1 / um, 1 / um)
    output = io.BytesIO()
    tifffile.imwrite(
        output,
        np.stack(list(frames.values())),
        imagej=True,
        metadata=metadata,
        resolution=resolution,
    )
    return output.getvalue()


def _about(pair: FramePair, window: Window) -> dict[str, Any]:
    return {
        "refocusd": __version__,
        "note": ESTIMATE,
        "acquisition": pair.acquisition.name,
        "acquisition_id": pair.acquisition.id,
        "axes": json.loads(pair.key),
        "window_counts": [window.low, window.high],
        "made_by": dict(pair.made_by),
        "metadata": {key: value for key, value in pair.metadata.items() if key != "refocusd"},
    }
