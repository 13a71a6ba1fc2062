"""The checksum of a frame that is too large to be read as a whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xxhash

from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Pixels

#: Rows that are read at a time.
STRIP_PX = 1024

#: Reads (rows, columns) of a frame.
ReadPart = Callable[[slice, slice], Pixels]


def checksum_by_strips(form: PageFormat, read: ReadPart) -> int:
    """As `refocusd.frame.checksum` of the whole frame."""
    digest = xxhash.xxh3_64()
    for top in range(0, form.height, STRIP_PX):
        strip = read(slice(top, min(top + STRIP_PX, form.height)), slice(0, form.width))
        digest.update(np.ascontiguousarray(strip).data.cast("B"))
    return digest.intdigest()
