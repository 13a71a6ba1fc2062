"""One image file of a recording, and what all kinds of them offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import AxisValue, Pixels

__all__ = ["ImageFile"]


class ImageFile(Protocol):
    """The frames of one file, found and checked when it was opened.

    | implemented by | for |
    |---|---|
    | `tiff.TiffImageFile` | TIFF, OME-TIFF, ImageJ, Micro-Manager stacks |
    | `png.PngImageFile` | greyscale PNG |

    Attributes
    ----------
    path : Path
    format : PageFormat
        Shape and type of every frame.
    axes : sequence of mapping of str to int or str
        Of each frame, with axes of length one; empty for a single image.
    elapsed_ms : sequence of float or None
        Of each frame.
    pixel_um : float or None
    summary : mapping
    """

    path: Path
    format: PageFormat
    axes: Sequence[Mapping[str, AxisValue]]
    elapsed_ms: Sequence[float | None]
    pixel_um: float | None
    summary: Mapping[str, Any]

    def read(self, index: int) -> tuple[Pixels, dict[str, Any]]:
        """Pixels and metadata of one frame; opens the file if it is closed."""
        ...

    def close(self) -> None:
        """Close the file until the next `read`."""
        ...
