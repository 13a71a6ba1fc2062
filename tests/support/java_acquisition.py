"""A pycromanager acquisition on the Java backend: Java saves each frame, then reports its entry."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from java_ndtiff import JavaNDTiff, frame_of
from live import read_all
from ndstorage import Dataset, NDTiffDataset
from numpy.typing import NDArray
from pycromanager import XYTiledAcquisition
from pycromanager.acquisition.acq_eng_py.main.acq_notification import AcqNotification

import refocusd
from refocusd.sources.raw_reader import full_resolution

SIDE = 64


def index_entry(text: bytes, name: bytes, place: tuple[int, ...]) -> bytes:
    """An index entry as Java sends it to pycromanager."""
    record = struct.pack("<I", len(text)) + text + struct.pack("<I", len(name)) + name
    return record + struct.pack("<8I", *place)


def axes_of(number: int) -> dict[str, Any]:
    return {"time": number, "channel": "DAPI"}


def contents(number: int) -> tuple[dict[str, Any], NDArray[Any], dict[str, Any]]:
    axes = axes_of(number)
    return axes, frame_of(number, SIDE), {"Axes": axes, "Camera": "c", "number": number}


class JavaAcquisition:
    """Does what pycromanager and Micro-Manager do around the hooks, with either one's writer.

    Parameters
    ----------
    source : refocusd.Source
    folder : Path
    by_java : bool
        Whether the dataset has the layout of Java's writer or of ndstorage.
    tiled : bool
        Whether the dataset is a pyramid, whose end is not announced.
    own : callable, optional
        The user's `image_saved_fn`.
    """

    def __init__(
        self,
        source: refocusd.Source,
        folder: Path,
        *,
        by_java: bool = True,
        tiled: bool = False,
        own: Any = None,
    ) -> None:
        self.raw = folder / "java_1"
        self.source = source
        kind = XYTiledAcquisition if tiled else None
        self.hooks = source.hooks(
            str(folder), "java", image_saved_fn=own, java=True, acquisition=kind
        )
        summary: dict[str, Any] = {"Prefix": "java"}
        if by_java:
            self._java = JavaNDTiff(self.raw / "Full resolution" if tiled else self.raw, "java")
        else:
            self.raw.mkdir()
            self._ndstorage = NDTiffDataset(str(self.raw), name=None, writable=True)
            self._ndstorage.initialize(summary)
        self._by_java = by_java
        if tiled:
            summary |= {"GridPixelOverlapX": 8, "GridPixelOverlapY": 8}
        self._view = Dataset(str(self.raw), summary_metadata=summary)

    def save(self, number: int) -> bytes:
        """Write a frame; returns its index entry."""
        if self._by_java:
            entry = self._java.put_image(*contents(number))
            self._java.put_entry(*entry)
            return index_entry(*entry)
        self._ndstorage.put_image(*contents(number))
        found = self._ndstorage.index[frozenset(axes_of(number).items())]
        told: bytes = found.as_byte_buffer().getvalue()
        return told

    def tell(self, number: int, entry: bytes) -> None:
        """Deliver a notification: the dataset's view knows the frame, and the hook is called."""
        self._view.add_index_entry(entry)
        self.hooks["image_saved_fn"](axes_of(number), self._view)

    def acquire(self, *numbers: int) -> None:
        for number in numbers:
            self.tell(number, self.save(number))

    def finish(self) -> None:
        if self._by_java:
            self._java.finish()
        else:
            self._ndstorage.current_writer.reader.close()  # finish() forgets it
            self._ndstorage.finish()
        if told := self.hooks.get("notification_callback_fn"):
            told(AcqNotification.create_data_sink_finished_notification())

    def close(self) -> None:
        full_resolution(self._view).close()
        if self._by_java:
            self._java.abandon()
        else:
            self._ndstorage.close()

    @property
    def refocused(self) -> Path:
        return self.raw.with_name(self.raw.name + "_refocused")

    def check(self, frames: int) -> None:
        """Assert that every frame was written, with its pixels and metadata."""
        written = read_all(self.refocused)
        assert len(written) == frames
        for number in range(frames):
            pixels, metadata = written[f'{{"channel":"DAPI","time":{number}}}']
            np.testing.assert_array_equal(pixels, frame_of(number, SIDE))
            assert (metadata["Camera"], metadata["number"]) == ("c", number)
