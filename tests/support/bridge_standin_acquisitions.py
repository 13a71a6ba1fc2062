"""Saved acquisitions of the stand-in's Micro-Manager, in the layout of Micro-Manager's writers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from bridge_standin_microscope import CHANNELS, Microscope, Settings, Store
from java_ndtiff import JavaNDTiff, JavaStack
from numpy.typing import NDArray

SaveMode = Literal["NDTIFF", "MULTIPAGE_TIFF", "SINGLEPLANE_TIFF_SERIES"]


class Saved:
    """One acquisition with the settings of the acquisition dialog, image by image.

    Parameters
    ----------
    microscope : Microscope
    root : Path
    name : str
        Its folder is ``<name>_<number>``, one above the highest that exists.
    mode : {"NDTIFF", "MULTIPAGE_TIFF", "SINGLEPLANE_TIFF_SERIES"}
    frames : int
        Number of time points, with one image each.
    channels : tuple of str
        Channel names; the index and its texts are in cp1252, as on a western Windows.
    options : Any
        For `Microscope.begin`.
    """

    def __init__(
        self,
        microscope: Microscope,
        root: Path,
        name: str,
        mode: SaveMode = "NDTIFF",
        frames: int = 3,
        channels: tuple[str, ...] = CHANNELS,
        **options: Any,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        there = (re.match(rf"{re.escape(name)}_(\d+)", each.name) for each in root.iterdir())
        number = max((int(found[1]) for found in there if found), default=0)
        self.folder = root / f"{name}_{number + 1}"
        self._microscope = microscope
        microscope.settings = Settings(save=True, root=str(root), prefix=name)
        self.store: Store = microscope.begin(
            self.folder.name, save_path=str(self.folder), **options
        )
        self._frames = frames
        self._channels = channels
        self._mode = mode
        self._ndtiff: JavaNDTiff | None = None
        self._stack: JavaStack | None = None
        self._notes: list[str] = []
        if mode == "NDTIFF":
            summary = {"ChNames": list(channels), **self.store.summary}
            self._ndtiff = JavaNDTiff(self.folder, name, summary, encoding="cp1252")

    def put(self, number: int, pixels: NDArray[np.uint16], channel: int = 0) -> None:
        """Write the image of a channel at the next time point."""
        coords = {"time": number, "channel": channel}
        said: dict[str, Any] = {
            "FrameIndex": number,
            "SliceIndex": 0,
            "ChannelIndex": channel,
            "PositionIndex": 0,
        }
        said |= {"Camera": "Camera", "PixelSizeUm": 0.645}
        if self._ndtiff is not None:
            # The GUI's axes are numbers, and its frames' metadata state neither axes nor channel.
            self._ndtiff.put(coords, pixels, {"Camera": "Camera"})
        elif self._mode == "MULTIPAGE_TIFF":
            if self._stack is None:
                path = self.folder / f"{self.folder.name}_MMStack_Default.ome.tif"
                summary: dict[str, Any] = {
                    "Frames": self._frames,
                    "Slices": 1,
                    "Channels": 1,
                    "Positions": 1,
                }
                summary |= {"ChNames": [self._channels[0]], **self.store.summary}
                self._stack = JavaStack(path, summary, pixels.shape[0], self._frames)
            self._stack.put((channel, 0, number, 0), pixels, said)
        else:
            self._put_file(number, channel, pixels, said)
        self.store.put(coords, pixels)

    def end(self, *, files: bool = True) -> None:
        """End the acquisition; without `files` its files stay open."""
        self._microscope.end(self.store)
        if files:
            self.close_files()

    def close_files(self) -> None:
        """Close the files, as the engine does, possibly some time after the end."""
        if self._ndtiff is not None:
            self._ndtiff.finish()
        if self._stack is not None:
            self._stack.finish()
        if self._notes:
            self._write_notes("\n}\n")

    def run(self, images: Sequence[NDArray[np.uint16]]) -> Saved:
        """Acquire all images, from begin to end."""
        for number, pixels in enumerate(images):
            self.put(number, pixels)
        self.end()
        return self

    def _put_file(
        self, number: int, channel: int, pixels: NDArray[np.uint16], said: dict[str, Any]
    ) -> None:
        """Write a file, then its entry; the first image creates the folder."""
        place = self.folder / "Default"
        if not self._notes:
            place.mkdir(parents=True)
            summary: dict[str, Any] = {"Frames": self._frames, "Slices": 1, "Channels": 1}
            summary |= {"Positions": 1, "ChNames": [self._channels[0]], **self.store.summary}
            self._notes = [f'"Summary": {json.dumps(summary, indent=2)}']
        name = f"img_channel{channel:03d}_position000_time{number:09d}_z000.tif"
        tifffile.imwrite(place / name, pixels, imagej=True, metadata={"Info": json.dumps(said)})
        self._notes.append(f'"Coords-Default/{name}": {json.dumps({"time": number}, indent=2)}')
        self._notes.append(f'"Metadata-Default/{name}": {json.dumps(said, indent=2)}')
        self._write_notes("")

    def _write_notes(self, end: str) -> None:
        text = "{\n" + ",\n".join(self._notes) + end
        (self.folder / "Default" / "metadata.txt").write_text(text, encoding="utf-8")
