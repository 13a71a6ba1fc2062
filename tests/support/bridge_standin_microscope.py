"""What the stand-in's Micro-Manager does: acquisitions, live mode, snaps; without the bridge.

It behaves as a real Micro-Manager Studio 2 was measured to do: the bridge's server has one thread
and answers nobody while a caller's acquisition blocks it; windows and their data stay after the
end of an acquisition; an Album is a window but not an acquisition; the Clojure engine writes a
UUID into its summary and AcqEngJ does not.  According to their source code, both engines keep the
summary of their last acquisition, in which AcqEngJ names a folder even if nothing is saved.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]
Engine = Literal["AcqEngJ", "Clojure"]
CHANNELS = ("DAPI", "Cy5")


@dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """An image in a datastore."""

    coords: Mapping[str, int]
    pixels: Pixels
    metadata: Mapping[str, Any]


@dataclass(eq=False)
class Store:
    """The datastore of an acquisition, of an Album, or (`rewritable`) of the Snap/Live window."""

    name: str
    save_path: str = ""
    channels: tuple[str, ...] = ()
    rewritable: bool = False
    frozen: bool = False
    #: Whether its window was closed: Micro-Manager has then freed the images.
    closed: bool = False
    #: Only for an acquisition: an Album states neither its start time nor its settings.
    summary: Mapping[str, Any] = field(default_factory=dict)
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


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings for saving in the acquisition dialog."""

    save: bool = False
    root: str = ""
    prefix: str = "MDA"


@dataclass
class Microscope:
    """State that the user changes and the bridge reports."""

    running: bool = False
    #: Stores with a window, oldest first; then the stores of all windows so far.
    windows: list[Store] = field(default_factory=list)
    made: list[Store] = field(default_factory=list)
    snap_live: Store | None = None
    album: Store | None = None
    settings: Settings = Settings()
    #: Summary metadata of the engine's last acquisition; None: a version that does not report it.
    last_summary: Mapping[str, Any] | None = field(default_factory=dict)
    live_mode_on: bool = False
    sequence_running: bool = False
    #: The core's circular buffer: pixels and tags of the newest frame.
    newest: tuple[Pixels, dict[str, Any]] | None = None
    #: Stands for the only thread of the bridge's server: held while it works for a caller.
    server: threading.Lock = field(default_factory=threading.Lock)

    def begin(
        self,
        name: str = "MDA",
        *,
        save_path: str = "",
        window: bool = True,
        engine: Engine = "AcqEngJ",
        started: datetime | None = None,
    ) -> Store:
        """Start an acquisition, as the user does with the button."""
        begun = (started or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M:%S.%f")
        summary = {"Prefix": name, "StartTime": f"{begun[:-3]} +0000", "MDA_Settings": "{}"}
        if engine == "Clojure":
            summary["UUID"] = str(uuid.uuid4())
        store = Store(name, save_path, CHANNELS, summary=summary)
        root = self.settings.root if save_path or engine == "AcqEngJ" else ""
        settings = json.dumps({"save": bool(save_path), "root": root})
        if self.last_summary is not None:
            said = {"Directory": root, "MDA_Settings": settings, "Slices": 1, "Channels": 1}
            self.last_summary = {**summary, **said}
        self.made.append(store)
        if window:
            self.windows.append(store)
        self.running = True
        return store

    def end(self, store: Store) -> None:
        """End the acquisition; its window stays open."""
        store.frozen = True
        self.running = False

    def acquire(self, name: str, frames: list[Pixels], **options: Any) -> Store:
        """Run a short acquisition of a few time points from begin to end."""
        store = self.begin(name, **options)
        for number, pixels in enumerate(frames):
            store.put({"time": number}, pixels)
        self.end(store)
        return store

    def close(self, store: Store) -> None:
        """Close a window, as the user does."""
        store.closed, store.images = True, {}
        self.windows.remove(store)

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """While a caller of the bridge waits for its acquisition, answer nobody else."""
        with self.server:
            yield

    def add_to_album(self, pixels: Pixels) -> None:
        """Add to the Album, as the user does with its button."""
        if self.album is None:
            self.album = Store("Album", channels=("",))
            self.windows.append(self.album)
        self.album.put({"time": len(self.album.images)}, pixels)

    def snap(self, pixels: Pixels) -> None:
        """Snap, as the user does with the button."""
        self._snap_live().put({"channel": 0}, pixels, ImageNumber=0)

    def expose(self, number: int, pixels: Pixels, *, components: int = 1) -> None:
        """Deliver one frame in live mode; a colour frame has four components."""
        self.stream(number, pixels, components=components)
        self.live_mode_on = True

    def stream(self, number: int, pixels: Pixels, *, components: int = 1) -> None:
        """Put a frame of a sequence (live mode or a hooked acquisition) into the core's buffer."""
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
        """End live mode or a sequence."""
        self.sequence_running = self.live_mode_on = False

    def _snap_live(self) -> Store:
        if self.snap_live is None:
            self.snap_live = Store("Snap/Live View", rewritable=True)
            self.windows.append(self.snap_live)
        return self.snap_live
