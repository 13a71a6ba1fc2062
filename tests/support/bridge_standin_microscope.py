"""What the stand-in's Micro-Manager does: acquisitions, live mode, snaps.  No bridge in it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Microscope", "Store", "StoredImage"]

Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """An image in a datastore."""

    coords: Mapping[str, int]
    pixels: Pixels
    metadata: Mapping[str, Any]


@dataclass
class Store:
    """A datastore: of an acquisition, or (`rewritable`) of the Snap/Live window."""

    name: str
    save_path: str = ""
    channels: tuple[str, ...] = ()
    rewritable: bool = False
    frozen: bool = False
    images: dict[tuple[tuple[str, int], ...], StoredImage] = field(default_factory=dict)

    def put(self, coords: Mapping[str, int], pixels: Pixels, **metadata: Any) -> None:
        about = {
            "UUID": str(uuid.uuid4()),
            "Camera": "Camera",
            "ExposureMs": 10.0,
            "PixelSizeUm": 0.645,
            "ReceivedTime": time.strftime("%Y-%m-%d %H:%M:%S +0000"),
            **metadata,
        }
        key = tuple(sorted(coords.items()))
        self.images = {**({} if self.rewritable else self.images)}
        self.images[key] = StoredImage(dict(coords), pixels, about)

    @property
    def axes(self) -> list[str]:
        return sorted({axis for key in self.images for axis, _ in key})

    def next_index(self, axis: str) -> int:
        return max((dict(key).get(axis, -1) for key in self.images), default=-1) + 1


@dataclass
class Microscope:
    """State that the user changes and the bridge tells of."""

    running: bool = False
    #: Stores with a window, oldest first.
    windows: list[Store] = field(default_factory=list)
    snap_live: Store | None = None
    sequence_running: bool = False
    #: The core's circular buffer: pixels and tags of the newest frame.
    newest: tuple[Pixels, dict[str, Any]] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, name: str = "MDA", *, save_path: str = "", window: bool = True) -> Store:
        """The user presses the button that starts an acquisition."""
        store = Store(name, save_path, ("DAPI", "Cy5"))
        if window:
            self.windows.append(store)
        self.running = True
        return store

    def end(self, store: Store) -> None:
        """The acquisition is over; its window stays open."""
        store.frozen = True
        self.running = False

    def snap(self, pixels: Pixels) -> None:
        """The user presses Snap."""
        if self.snap_live is None:
            self.snap_live = Store("Snap/Live View", rewritable=True)
            self.windows.append(self.snap_live)
        self.snap_live.put({"channel": 0}, pixels, ImageNumber=0)

    def expose(self, number: int, pixels: Pixels, *, components: int = 1) -> None:
        """The camera, in live mode, has one frame more; one in colour has four components."""
        height, width = pixels.shape
        tags = {
            "ImageNumber": str(number),
            "ElapsedTime-ms": f"{number * 10.0:.2f}",
            "Width": str(width),
            "Height": str(height),
            "PixelType": "GRAY16" if pixels.dtype == np.uint16 else "GRAY8",
            "Camera": "Camera",
        }
        self.newest = (np.repeat(pixels.ravel(), components), tags)
        self.sequence_running = True

    def stop_live(self) -> None:
        """The user ends live mode."""
        self.sequence_running = False
