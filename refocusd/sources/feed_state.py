"""State of one acquisition, shared by the hooks and the feed's thread."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refocusd.formats.ndtiff.reader import place_of
from refocusd.frame import Pixels
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.buffer import FrameBuffer
from refocusd.sources.raw_reader import read_metadata
from refocusd.transport.messages import Open


@dataclass(frozen=True, slots=True)
class FirstFrame:
    """Properties of the first frame, for the announcement."""

    shape: tuple[int, int]
    dtype: str
    metadata: dict[str, Any]
    channel: Any

    @classmethod
    def of(cls, pixels: Pixels, metadata: Any, channel: Any) -> FirstFrame:
        """The properties of a frame, without its pixels, whose array may be reused."""
        return cls(pixels.shape, pixels.dtype.name, dict(metadata), channel)


@dataclass(slots=True)
class FeedState:
    """One acquisition; ``buffer.changed`` is held while hooks and thread change it.

    Parameters
    ----------
    buffer : FrameBuffer
    output : str
        Folder of the refocused dataset; empty for the one beside raw.
    expected : int
        Frames that will come; 0 if not known.
    name : str
        Name of the acquisition.
    has_raw, raw, summary
        Whether raw data are saved, their folder (once it is known), and their summary as JSON.
    taken : int
        Frames that the hooks have seen.
    first : FirstFrame or None
    awaited : set of str
        Axes of frames that are read from disk once they are saved, to keep the order.
    replaced : Counter of str
        By axes, how many frames will be saved and then replaced by another frame.
    skipped : dict of str to list of str
        By reason, the axes in the ledger of skipped frames that were not reported to the daemon yet.
    ended_at : float
        When the acquisition ended, by the monotonic clock; 0 while it runs.
    leaving : bool
        Whether the interpreter is exiting.
    listening, in_order : bool
        Whether a daemon answers, and whether it wants the frames in order.
    """

    buffer: FrameBuffer
    output: str
    expected: int
    name: str = ""
    has_raw: bool = False
    raw: str = ""
    summary: str = "{}"
    taken: int = 0
    first: FirstFrame | None = None
    awaited: set[str] = field(default_factory=set)
    replaced: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    ended_at: float = 0.0
    leaving: bool = False
    listening: bool = False
    in_order: bool = False

    @property
    def ended(self) -> bool:
        """Whether no more frames will come."""
        return self.ended_at > 0

    @property
    def announceable(self) -> bool:
        """Whether there is a frame, and the folder of the raw dataset, if there is one, is known."""
        known = self.first is not None or len(self.buffer) > 0
        return known and (bool(self.raw) or not self.has_raw)

    def announcement(self, *, advise: bool) -> Open:
        """The announcement to the daemon, once it can be made.

        Raises
        ------
        InputError, OSError
            If the first frame is not (yet) in its file.
        """
        first = self.first
        if first is None:
            held = self.buffer.first
            assert held is not None
            assert held.place is not None
            form, metadata = held.place.format, read_metadata(self.raw, held.place)
            channel = json.loads(held.axes).get("channel", "")
            first = FirstFrame((form.height, form.width), form.dtype_name, metadata, channel)
        height, width = first.shape
        return Open(
            acquisition=str(uuid.uuid4()),
            # As the folder is called: the name that was asked for may have been taken.
            name=place_of(Path(self.raw)).name or self.name,
            height=height,
            width=width,
            dtype="uint8" if first.dtype == "uint8" else "uint16",
            raw=self.raw,
            output=self.output,
            summary=self.summary,
            expected=self.expected,
            report=not self.has_raw,
            advise=advise,
            first=first_of(first.metadata, first.channel),
        )
