"""What a recording is: frames on disk that can be replayed as if acquired now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from refocusd.frame import Axes, Frame

__all__ = ["MAX_FRAME_BYTES", "Recording", "RecordingPlan"]

#: Largest frame taken unless said otherwise: 23 170² pixels of 16 bits.
MAX_FRAME_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class RecordingPlan:
    """What a recording holds, known before any frame is read.

    Parameters
    ----------
    axes : tuple of mapping of str to int or str
        Of each frame, in acquisition order.
    elapsed_ms : tuple of float or None
        When each frame was taken, since the first or the acquisition's start;
        None where that is not recorded.
    height, width : int
        Of every frame, in pixels.
    dtype : numpy dtype
        Of every frame: uint8 or uint16, native byte order.
    pixel_um : float or None
        Width of a pixel in the specimen, in um, if recorded.
    summary : mapping
        What the recording says of the whole acquisition.
    missing : int
        Frames that the recording names, but whose pixels are not on disk: of
        an acquisition that is running or was killed.
    """

    axes: tuple[Axes, ...]
    elapsed_ms: tuple[float | None, ...]
    height: int
    width: int
    dtype: np.dtype[Any]
    pixel_um: float | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    missing: int = 0

    def __len__(self) -> int:
        return len(self.axes)


class Recording(Protocol):
    """Frames on disk; a context manager.

    Attributes
    ----------
    path : Path
    name : str
        Of the recording without folder and ending, to name its output by.
    """

    path: Path
    name: str

    def plan(self) -> RecordingPlan:
        """Return what the recording holds; the same object at each call."""
        ...

    def read(self, index: int) -> Frame:
        """Frame number `index` of the plan, read from disk now.

        Raises
        ------
        InputError
            If there is no such frame, or its pixels cannot be read or decoded.
        """
        ...

    def close(self) -> None:
        """Close all files; closing twice does no harm."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
