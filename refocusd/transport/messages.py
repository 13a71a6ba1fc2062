"""Every message of the wire, as typed and versioned msgpack headers.

All peers speak to one ROUTER socket of the daemon.  A message is one header,
followed by one part of raw pixels only for peers that said ``inline`` in their
`Hello`.  The first message of a peer is `Hello`; what it may send after that
depends on the role it named.

======== ==================================== ================================
role     sends                                receives
======== ==================================== ================================
source   `Open`, `Submit`, `Miss`, `Behind`,  `Welcome`, `Opened`, `Credit`,
         `GiveBack`, `Close`                  `Recall`, `Outcome`, `Advice`,
                                              `Closed`, `Refused`
worker   `Ready`, `Result`, `Failure`         `Welcome`, `Calibration`, `Task`,
                                              `Stop`
control  `StatusRequest`, `Pause`, `CatchUp`, `Welcome`, `Status`, `Refused`
         `Stop`
view     `StatusRequest`, `Look`, `Follow`,   `Welcome`, `Status`, `Shown`,
         `Pause`, `CatchUp`                   `Outcomes`, `Refused`
anyone   `Ping`                               `Ping`
======== ==================================== ================================

Headers are decoded into these types or refused: nothing of a message is
believed before that.  `PROTOCOL` changes whenever a field does.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from refocusd.errors import TransportError
from refocusd.frame import DType, FinalState
from refocusd.transport.records import (
    AcquisitionStatus,
    Counts,
    DoubtedFrame,
    EngineInfo,
    Engines,
    FocusAdvice,
    FocusOptics,
    FrameFacts,
    Histogram,
    KnownBlur,
    Message,
    WorkerStatus,
)
from refocusd.transport.ring import RingAddress, Slot
from refocusd.transport.watching import (
    MAX_TRUST_NBYTES,
    CatchUp,
    Follow,
    FrameOutcome,
    Look,
    Outcomes,
    Pause,
    Shown,
    Status,
    StatusRequest,
)

__all__ = [
    "MAX_CALIBRATIONS",
    "PROTOCOL",
    "AcquisitionStatus",
    "Advice",
    "Behind",
    "Calibration",
    "CatchUp",
    "Close",
    "Closed",
    "Counts",
    "Credit",
    "DType",
    "DoubtedFrame",
    "EngineInfo",
    "Engines",
    "Failure",
    "FinalState",
    "FocusAdvice",
    "FocusOptics",
    "Follow",
    "FrameFacts",
    "FrameOutcome",
    "GiveBack",
    "Hello",
    "Histogram",
    "KnownBlur",
    "Look",
    "Message",
    "Miss",
    "Open",
    "Opened",
    "Outcome",
    "Outcomes",
    "Pause",
    "Ping",
    "Ready",
    "Recall",
    "Refused",
    "Result",
    "Role",
    "SavedFrame",
    "Shown",
    "Status",
    "StatusRequest",
    "Stop",
    "Submit",
    "Task",
    "Welcome",
    "WorkerStatus",
    "decode",
    "encode",
]

#: Version of the wire; both sides must have the same.
PROTOCOL = 8

#: Frames of an acquisition at most: what is added up stays a number that messages can hold.
MAX_FRAMES = 1 << 40
#: Of calibrations a worker remembers so many; the daemon sends an older one again.
MAX_CALIBRATIONS = 16
Role = Literal["source", "worker", "control", "view"]
#: A UUID: it names files of ours, so nothing else is taken.
AcquisitionId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f-]{36}$")]


class Hello(Message, frozen=True):
    """First message of every peer."""

    protocol: int
    version: str
    role: Role
    pid: int
    #: Given by the daemon to the workers that it starts, so that no other process takes their place.
    token: str = ""
    #: The peer cannot map the ring: its pixels travel as a message part of their own.
    inline: bool = False


class Welcome(Message, frozen=True):
    """The daemon accepts the peer; `ring` is where pixels on this host are exchanged."""

    protocol: int
    version: str
    ring: RingAddress
    #: What is done with frames that an engine is too slow for, see `refocusd.config.Settings`.
    policy: Literal["defer", "complete"] = "defer"
    #: Whether workers return frames that are in focus already as they are: one run, one rule.
    pass_in_focus: bool = True


class Refused(Message, frozen=True):
    """What was asked for is not done; `reason` says why and what to do."""

    reason: str
    acquisition: str = ""
    #: The same may be asked again in a moment.
    again: bool = False


class Ping(Message, frozen=True):
    """I am alive.  Any other message says so as well."""


class Open(Message, frozen=True):
    """A source announces an acquisition, once its raw data has a place."""

    acquisition: AcquisitionId
    name: str
    height: int
    width: int
    dtype: DType
    #: Folder of the raw NDTiff dataset, from which the daemon can catch up; "" if there is none.
    raw: str
    #: Folder for the refocused dataset; "" stands for ``<raw>_refocused``.
    output: str
    #: Summary metadata of the raw dataset, as JSON.
    summary: str
    #: Frames that will come, 0 if not known: decides how much disk must be free.
    expected: int = 0
    #: Whether the daemon tells this source every frame's outcome.
    report: bool = False
    #: Frames are shown to those who watch, and written nowhere: the live camera.
    preview: bool = False
    #: Whether the source may move the stage, and wants every `Advice`.
    advise: bool = False
    #: What the metadata of the first frame tell of the microscope, as JSON; "" if not known.
    first: str = ""
    #: Ids of the calibration profiles that the run was begun with; None lets the daemon choose.
    profiles: Annotated[list[str], msgspec.Meta(max_length=1000)] | None = None
    #: Fingerprint of the recording on disk (`datasets.identity.Recording`), as JSON; "" without one.
    recording: Annotated[str, msgspec.Meta(max_length=1 << 16)] = ""


class Opened(Message, frozen=True):
    """The acquisition has a place; slots come as `Credit`."""

    acquisition: str
    run: str
    output: str
    #: The daemon finds the raw dataset on its own disks: a frame there need not be sent.
    reads_raw: bool = False


class Credit(Message, frozen=True):
    """These slots of the ring are the source's to fill, one frame each."""

    acquisition: str
    slots: list[Slot]


class Recall(Message, frozen=True):
    """These slots are needed elsewhere: the source gives back those that it has not filled.

    Slots that it does not give back in time are taken; to fill one after that is refused.
    """

    acquisition: str
    slots: list[Slot]


class GiveBack(Message, frozen=True):
    """Slots that were recalled, and were not filled."""

    acquisition: str
    slots: Annotated[list[Slot], msgspec.Meta(max_length=1000)]


class SavedFrame(msgspec.Struct, frozen=True, array_like=True):
    """Where a frame lies in the raw dataset: the name of its file, and offsets there in bytes."""

    file: Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^/\\]+$")]
    offset: Annotated[int, msgspec.Meta(ge=0)]
    metadata_offset: Annotated[int, msgspec.Meta(ge=0)]
    metadata_length: Annotated[int, msgspec.Meta(ge=0)]


class Submit(Message, frozen=True):
    """One frame, in the slot named, or (`saved`) for the daemon to read into that slot from raw.

    `taken_ns` is when the frame was handed to the hook (`perf_counter_ns`, one
    clock for all processes of a host).
    """

    acquisition: str
    axes: str
    slot: Slot
    checksum: int
    metadata: str
    taken_ns: int
    live: bool = True
    saved: SavedFrame | None = None


class Miss(Message, frozen=True):
    """Frames that will not be submitted, by canonical axes, and why."""

    acquisition: str
    axes: Annotated[list[str], msgspec.Meta(max_length=1000)]
    state: Literal["skipped", "failed"]
    reason: str


class Behind(Message, frozen=True):
    """So many more frames went by that the source leaves to raw; `acquired` did so far in all."""

    acquisition: str
    frames: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAMES)]
    acquired: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAMES)]


class Close(Message, frozen=True):
    """No more frames will be submitted; at least `acquired` went by in all.

    Where there is raw data the daemon compares what it has with what was saved.
    """

    acquisition: str
    acquired: Annotated[int, msgspec.Meta(ge=0, le=MAX_FRAMES)]


class Closed(Message, frozen=True):
    """Every frame of the acquisition has a final state and is on disk."""

    acquisition: str
    counts: Counts


class Outcome(Message, frozen=True):
    """What became of one frame."""

    acquisition: str
    axes: str
    state: FinalState
    reason: str = ""


class Advice(Message, frozen=True):
    """How far the stage is from focus, for a source that asked: it may move it."""

    acquisition: str
    position: str
    channel: str
    focus: FocusAdvice


class Ready(Message, frozen=True):
    """The worker's engine is built and warmed up."""

    engine: Engines
    seconds: float


class Calibration(Message, frozen=True):
    """What tasks that name `key` need of a calibration profile; sent before the first of them.

    A worker keeps the last `MAX_CALIBRATIONS` of them.
    """

    key: str
    #: The profile's id.
    profile: str
    height: int
    width: int
    #: Pixels that are replaced in what the engine sees, as ``y * width + x``.
    hot_pixels: Annotated[
        list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=1 << 16)
    ]


class Task(Message, frozen=True):
    """One frame for a worker: read the slot's raw half, fill its refocused half."""

    task: int
    slot: Slot
    height: int
    width: int
    dtype: DType
    checksum: int
    #: Estimate how far out of focus the frame is, by these optics.
    focus: FocusOptics | None = None
    #: Key of a `Calibration`; "" where no profile applies.
    calibration: str = ""
    #: A channel that has a model of its own; "" for any other.
    channel: str = ""
    #: Frames of one stream differ in time alone: what one tells of the blur serves the next.
    stream: str = ""
    #: What is written where the result is not trusted, see `refocusd.config.Settings`.
    untrusted: Literal["mark", "pass", "deconvolve", "skip"] = "deconvolve"
    #: What is known of the blur before the frame is looked at.
    blur: KnownBlur | None = None


class Result(Message, frozen=True):
    """The refocused half of the slot is filled."""

    task: int
    checksum: int
    facts: FrameFacts
    #: Trust map of the frame, row by row (`refocusd.imaging.trust_map`); empty without one.
    trust: Annotated[bytes, msgspec.Meta(max_length=MAX_TRUST_NBYTES)] = b""


class Failure(Message, frozen=True):
    """The worker is well, but this frame could not be refocused."""

    task: int
    reason: str


class Stop(Message, frozen=True):
    """End: the daemon stops when asked by a control peer, a worker when asked by the daemon."""


_AnyMessage = (
    Hello
    | Welcome
    | Refused
    | Ping
    | Open
    | Opened
    | Credit
    | Recall
    | GiveBack
    | Submit
    | Miss
    | Behind
    | Close
    | Closed
    | Outcome
    | Advice
    | Ready
    | Calibration
    | Task
    | Result
    | Failure
    | StatusRequest
    | Status
    | Stop
    | Look
    | Shown
    | Follow
    | Outcomes
    | Pause
    | CatchUp
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(_AnyMessage)


def encode(message: Message) -> bytes:
    """The header's bytes."""
    return _encoder.encode(message)


def decode(header: bytes | memoryview) -> Message:
    """The message that `header` holds.

    Raises
    ------
    TransportError
        If it is not one of the messages above, exactly.
    """
    try:
        return _decoder.decode(header)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TransportError(f"not a message of protocol {PROTOCOL}: {error}") from error
