"""Shape and type of a frame on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refocusd.frame import DType

#: Largest frame taken unless said otherwise: 23 170² pixels of 16 bits.
MAX_FRAME_BYTES = 1 << 30
#: Frames with more pixels are slides: where they lie in parts, they are read and refocused in tiles.
SLIDE_PX = 1 << 26


@dataclass(frozen=True, slots=True)
class PageFormat:
    """What all frames of a recording have in common.

    Parameters
    ----------
    height, width : int
        In pixels.
    dtype : numpy dtype
        uint8 or uint16, in native byte order.
    """

    height: int
    width: int
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of one frame."""
        return self.height * self.width * self.dtype.itemsize

    @property
    def dtype_name(self) -> DType:
        """The type's name, as messages carry it."""
        return "uint8" if self.dtype.itemsize == 1 else "uint16"

    def __str__(self) -> str:
        return f"{self.width}×{self.height} px {self.dtype}"
