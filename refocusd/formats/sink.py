"""A sink: what takes refocused frames and makes a dataset of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from refocusd.frame import Axes, Pixels

__all__ = ["Sink"]


class Sink(Protocol):
    """One refocused dataset, written by one thread, closed by its context.

    ==============  =======================================================
    implementation  dataset
    ==============  =======================================================
    `NDTiffSink`    NDTiff, as pycromanager and Micro-Manager write it
    `OmeZarrSink`   OME-Zarr 0.5, one chunk a frame
    ==============  =======================================================

    A frame is in the dataset, readable by others and safe from a killed
    process, when `write` returns.  What every implementation promises is
    tested for all of them alike (``tests/formats/test_sinks_common.py``).
    """

    @property
    def path(self) -> Path:
        """The dataset's folder."""

    def write(self, pixels: Pixels, axes: Axes, metadata: Mapping[str, Any]) -> None:
        """Add one frame, in any order of axes.

        Parameters
        ----------
        pixels : ndarray of uint8 or uint16, shape (height, width)
            Counts; of one shape and dtype throughout a dataset.
        axes : mapping of str to int or str
            Not written before.
        metadata : mapping
            JSON-serialisable.

        Raises
        ------
        OutputError
            If the frame cannot be added.  The dataset is then as it was before.
        InputError
            If pixels or axes are not those of a frame.
        """

    def __contains__(self, axes_key: str) -> bool:
        """Whether the frame with these axes (`canonical_axes`) is written."""

    def close(self) -> None:
        """Give up the dataset's files.  A second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
