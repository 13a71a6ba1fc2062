"""A user's script: a real MMCore with hooks that acquires on order; `acquisition.py` runs it.

Standard input: one JSON object per line, each one acquisition (see `Order`), and an empty line to
end an acquisition of unlimited length.  Standard output: every saved frame, with the checksum of
its pixels when they were handed to pycromanager's writer.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from pycromanager import Acquisition

import refocusd
from refocusd.demo.microscope import DemoMicroscope
from refocusd.frame import checksum

#: For an acquisition that continues until it is told to end.
MOST_FRAMES = 5000


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One acquisition.

    Parameters
    ----------
    endpoint, directory, name : str
    frames : int
        0 continues until an empty line comes.
    exposure_ms : float
        Determines the rate: 10 ms give about 95 frames per second.
    buffer_mib : int
        The source's.
    wait_s : float
        How long to wait for the daemon's counts at the end.
    hooked : bool
        If False, the acquisition runs as if refocusd were not installed.
    """

    endpoint: str
    directory: str
    name: str
    frames: int = 100
    exposure_ms: float = 10.0
    buffer_mib: int = 16
    wait_s: float = 0.0
    hooked: bool = True


def main() -> None:
    """Acquire until standard input ends."""
    said = threading.Lock()

    def say(**what: Any) -> None:
        with said:  # hooks run in separate threads
            sys.stdout.write(json.dumps(what) + "\n")
            sys.stdout.flush()

    with DemoMicroscope() as microscope:
        say(said="ready")
        # "for line in sys.stdin" would read ahead.
        while line := sys.stdin.readline():
            _acquire(microscope, msgspec.json.decode(line, type=Order), say)


def _until_told(microscope: DemoMicroscope, saved: threading.Semaphore) -> Iterator[dict[str, Any]]:
    """Yield events for snaps, each once the last one is saved, until standard input has a line."""
    told = threading.Thread(target=sys.stdin.readline, name="end")
    told.start()
    for event in microscope.events_snapped(MOST_FRAMES, [0.0]):
        yield event
        saved.acquire()
        if not told.is_alive():
            return
    told.join()


def _acquire(microscope: DemoMicroscope, order: Order, say: Any) -> None:
    checksums: dict[str, int] = {}
    frame_saved = threading.Semaphore(0)

    def process(image: Any, metadata: Any) -> Any:
        key = refocusd.frame.canonical_axes(metadata["Axes"])
        checksums[key] = checksum(np.ascontiguousarray(image))
        return image, metadata

    def saved(axes: Any, dataset: Any) -> None:
        key = refocusd.frame.canonical_axes(axes)
        say(said="saved", axes=key, checksum=checksums[key], raw=str(dataset.path))
        frame_saved.release()

    microscope.core.set_exposure(order.exposure_ms)
    events: Any = (
        microscope.events_sequenced(order.frames, [0.0])
        if order.frames
        else _until_told(microscope, frame_saved)
    )
    arguments: dict[str, Any] = {"directory": order.directory, "name": order.name}
    arguments |= {"image_process_fn": process, "image_saved_fn": saved}
    source = None
    if order.hooked:
        source = refocusd.Source(order.endpoint, buffer_mib=order.buffer_mib)
        arguments = source.hooks(**arguments)
    with Acquisition(show_display=False, **arguments) as acquisition:
        acquisition.acquire(events)
    say(said="acquired")
    counts = source.wait(order.wait_s) if source is not None and order.wait_s else None
    say(said="done", counts=msgspec.to_builtins(counts))


if __name__ == "__main__":
    main()
