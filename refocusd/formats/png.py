"""A greyscale PNG as a frame."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from refocusd.errors import InputError
from refocusd.files import open_shared
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import MIN_SIDE, AxisValue, Pixels, checked_pixels

#: Start of a PNG up to its colour type (W3C PNG specification 11.2.2).
_HEADER = struct.Struct(">8sI4sIIBB")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class PngImageFile:
    """An `ImageFile` of one frame; its header is checked when it is opened.

    Parameters
    ----------
    path : Path
    max_frame_bytes : int
        An image that claims to be larger is an error.

    Raises
    ------
    InputError
        If the file is no PNG, or not greyscale of 8 or 16 bits.
    """

    set_files: frozenset[str] = frozenset()
    kept_axes: frozenset[str] = frozenset()

    def __init__(self, path: Path, max_frame_bytes: int) -> None:
        self.path = path
        try:
            with open_shared(path) as file:
                head = file.read(_HEADER.size)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): check it") from error
        if len(head) < _HEADER.size or head[:8] != _SIGNATURE:
            raise InputError(f"{path} is not a PNG file: give a PNG or a TIFF")
        _, _, _, width, height, bits, colour = _HEADER.unpack(head)
        if colour != 0 or bits not in (8, 16):
            raise InputError(
                f"{path} is a PNG in colour or of {bits} bits; refocusd takes greyscale of 8 or 16 "
                "bits: convert it without changing values"
            )
        self.format = PageFormat(height, width, np.dtype(f"u{bits // 8}"))
        if self.format.nbytes > max_frame_bytes or min(width, height) < MIN_SIDE:
            raise InputError(
                f"{path} promises a frame of {self.format}; taken are sides from {MIN_SIDE} px and "
                f"up to {max_frame_bytes} bytes"
            )
        self.source = "nothing in the file"
        self.axes: Sequence[Mapping[str, AxisValue]] = ({},)
        self.elapsed_ms: Sequence[float | None] = (None,)
        self.pixel_um: float | None = None
        self.summary: dict[str, Any] = {}

    def metadata(self, index: int) -> dict[str, Any]:  # noqa: ARG002
        """Nothing: what a PNG says of itself is not read."""
        return {}

    def read(self, index: int) -> Pixels:  # noqa: ARG002
        """Pixels of the image; `index` is 0.

        Raises
        ------
        InputError
            If the image cannot be decoded, or has changed.
        """
        try:
            with open_shared(self.path) as file:
                pixels = imagecodecs.png_decode(file.readall())
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            raise InputError(f"{self.path} is damaged ({error}): copy it again") from error
        if (*pixels.shape, pixels.dtype) != (
            self.format.height,
            self.format.width,
            self.format.dtype,
        ):
            raise InputError(
                f"{self.path} is transparent, or has changed since it was opened: convert it to plain "
                "greyscale without changing values, or open it again"
            )
        return checked_pixels(pixels, what=str(self.path))

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""
