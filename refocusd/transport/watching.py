"""Messages of peers that monitor the daemon."""

from __future__ import annotations

from typing import Annotated

import msgspec

from refocusd.frame import DType, FinalState
from refocusd.transport.records import (
    AcquisitionStatus,
    Counts,
    DoubtedFrame,
    Engines,
    FrameFacts,
    Histogram,
    Message,
    WorkerStatus,
)

#: Largest size of a trust map, which has one byte per 256 pixels.
MAX_TRUST_NBYTES = 1 << 22


class StatusRequest(Message, frozen=True):
    """Ask the daemon for its state.

    Parameters
    ----------
    answered : int
        Number of answers that this peer has read so far; a peer that does not read them gets no more.
    """

    answered: int = 0


class Status(Message, frozen=True):
    """State of the daemon.

    Parameters
    ----------
    workers : int
        Number of workers that can take frames.
    acquisitions : dict of str to Counts
        Frames of each acquisition by its id; open acquisitions and the last that ended.
    details : list of AcquisitionStatus
        The same acquisitions in full, oldest first.
    crew : list of WorkerStatus
        All workers, also those that are starting.
    ring_nbytes, ring_free : int
        Shared memory for frames in flight, and how much of it is free, in bytes.
    paused : bool
        No frame is sent to workers; acquisitions continue.
    catch_up : bool
        Idle workers catch up during acquisitions.
    frames : dict of str to int
        Number of frames since the start, by ``state`` or ``state: reason``.
    verdicts : dict of str to int
        Number of frames since the start, by verdict.
    doubted : list of DoubtedFrame
        The last doubtful and untrusted frames, the newest first.
    unseen : int
        Number of acquisitions since the start that ran, but of which no frame could be read.
    unseen_last : list of str
        Descriptions of the last of them, the newest last.
    stages : dict of str to Histogram
        ``queue`` (from the hook until sent to a worker), ``worker``, ``engine``,
        ``total`` (from the hook to the disk); live frames only.
    raw_nbytes : int
        Bytes of raw pixels taken since the start.
    serial : int
        Serial of the newest frame written, for `Look`.
    uptime_s : float
    """

    version: str
    pid: int
    workers: int
    engine: Engines | None
    acquisitions: dict[str, Counts]
    stopping: bool
    details: list[AcquisitionStatus] = msgspec.field(default_factory=list)
    crew: list[WorkerStatus] = msgspec.field(default_factory=list)
    ring_nbytes: int = 0
    ring_free: int = 0
    paused: bool = False
    catch_up: bool = True
    frames: dict[str, int] = msgspec.field(default_factory=dict)
    stages: dict[str, Histogram] = msgspec.field(default_factory=dict)
    raw_nbytes: int = 0
    serial: int = 0
    uptime_s: float = 0.0
    verdicts: dict[str, int] = msgspec.field(default_factory=dict)
    doubted: list[DoubtedFrame] = msgspec.field(default_factory=list)
    unseen: int = 0
    unseen_last: list[str] = msgspec.field(default_factory=list)


class Look(Message, frozen=True):
    """Ask for the newest frame, as soon as there is one later than serial `after`.

    Each `Look` gets one answer, so that a slow view gets only the latest frame.
    """

    after: int
    #: Both sides are reduced by an integer step until they are not longer than this.
    max_side: Annotated[int, msgspec.Meta(ge=64, le=4096)] = 1024


class Shown(Message, frozen=True):
    """The newest frame, for a view; the raw and then the refocused pixels follow as one part.

    Each has ``ceil(height / step) × ceil(width / step)`` pixels: every `step`-th one.
    """

    serial: int
    acquisition: str
    name: str
    axes: str
    state: FinalState
    height: int
    width: int
    dtype: DType
    step: int
    metadata: str
    facts: FrameFacts
    #: From the hook to the disk.
    latency_ms: float
    live: bool
    #: Trust map of the frame, as in `Result`.
    trust: Annotated[bytes, msgspec.Meta(max_length=MAX_TRUST_NBYTES)] = b""


class Follow(Message, frozen=True):
    """Ask for the outcomes of frames, as soon as there is one later than serial `after`.

    Each `Follow` gets one answer.
    """

    after: Annotated[int, msgspec.Meta(ge=0)]


class FrameOutcome(msgspec.Struct, frozen=True):
    """The outcome of one frame, for peers that follow.

    Parameters
    ----------
    at : float
        Seconds since 1970.
    acquisition, name : str
        The acquisition's id and name.
    axes : str
        Canonical axes.
    state : {"refocused", "passed_through", "skipped", "failed"}
    reason : str
        Reason of the state.
    verdict : str or None
        None for a frame that no worker has judged: skipped by a rule, or failed.
    reasons : list of str
        Reasons of the verdict.
    written : str or None
        What the frame's pixels are, see `FrameFacts`.
    error_chance, blur_px, defocus_um, defocus_uncertainty_um : float or None
        See `FrameFacts`.
    """

    at: float
    acquisition: str
    name: str
    axes: str
    state: FinalState
    reason: str = ""
    verdict: str | None = None
    reasons: list[str] = []
    written: str | None = None
    error_chance: float | None = None
    blur_px: float | None = None
    defocus_um: float | None = None
    defocus_uncertainty_um: float | None = None


class Outcomes(Message, frozen=True):
    """Outcomes in order; `serial` is that of the last one, and `missed` earlier ones are no longer kept."""

    serial: int
    missed: int
    outcomes: list[FrameOutcome]


class Pause(Message, frozen=True):
    """Stop or resume sending frames to workers; acquisitions are not affected."""

    paused: bool


class CatchUp(Message, frozen=True):
    """Let the daemon catch up deferred frames whenever it is idle, or only after acquisitions."""

    on: bool
