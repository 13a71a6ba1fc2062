"""Every message of the wire, as typed and versioned msgpack headers.

All peers speak to one ROUTER socket of the daemon.  A message is one header,
followed by one part of raw pixels for peers that set ``inline`` in their
`Hello`.  The first message of a peer is `Hello`; what it may send after that
depends on the role that it stated.

======== ==================================== ================================
role     sends                                receives
======== ==================================== ================================
source   `Open`, `Submit`, `Miss`, `Behind`,  `Welcome`, `Opened`, `Credit`,
         `GiveBack`, `Close`, `Unseen`        `Recall`, `Outcome`, `Advice`,
                                              `Closed`, `Refused`
worker   `Ready`, `Result`, `Failure`         `Welcome`, `Calibration`, `Task`,
                                              `Stop`
control  `StatusRequest`, `Pause`, `CatchUp`, `Welcome`, `Status`, `Refused`
         `Stop`
view     `StatusRequest`, `Look`, `Follow`,   `Welcome`, `Status`, `Shown`,
         `Pause`, `CatchUp`                   `Outcomes`, `Refused`
anyone   `Ping`                               `Ping`
======== ==================================== ================================

Headers are decoded into these types or refused; no part of a message is
used before that.  `PROTOCOL` changes whenever a field changes.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, Literal

import msgspec

from refocusd.errors import InputError, TransportError
from refocusd.frame import DType as DType
from refocusd.frame import FinalState as FinalState
from refocusd.transport.records import (
    AcquisitionStatus as AcquisitionStatus,
    Counts as Counts,
    DoubtedFrame as DoubtedFrame,
    EngineInfo as EngineInfo,
    Engines as Engines,
    FocusAdvice as FocusAdvice,
    FocusOptics as FocusOptics,
    FrameFacts as FrameFacts,
    Histogram as Histogram,
    KnownBlur as KnownBlur,
    Message as Message,
    WorkerStatus as WorkerStatus,
)
from refocusd.transport.ring import RingAddress, Slot
from refocusd.transport.watching import (
    MAX_TRUST_NBYTES,
    CatchUp as CatchUp,
    Follow as Follow,
    FrameOutcome as FrameOutcome,
    Look as Look,
    Outcomes as Outcomes,
    Pause as Pause,
    Shown as Shown,
    Status as Status,
    StatusRequest as StatusRequest,
)

#: Version of the wire; both sides must have the same.
PROTOCOL = 9

#: Largest number of frames of an acquisition, so that sums remain numbers that messages can hold.
MAX_FRAMES = 1 << 40
#: Number of calibrations that a worker remembers; the daemon sends an older one again.
MAX_CALIBRATIONS = 16
Role = Literal["source", "worker", "control", "view"]
#: A UUID: files are named after it, so nothing else is accepted.
AcquisitionId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f-]{36}$")]


class Hello(Message, frozen=True):
    """First message of every peer."""

    protocol: int
    version: str
    role: Role
    pid: int
    #: The daemon gives it to the processes that it starts, so that no other process can pose as one.
    token: str = ""
    #: The peer cannot map the ring: its pixels are sent as a separate part of the message.
    inline: bool = False


class Welcome(Message, frozen=True):
    """The daemon accepts the peer; `ring` is where pixels on this host are exchanged."""

    protocol: int
    version: str
    ring: RingAddress
    #: What happens if the engine is too slow, see `refocusd.config.Settings`.
    policy: Literal["defer", "complete"] = "defer"
    #: Whether workers return frames that are in focus unchanged; it is the same for the whole run.
    pass_in_focus: bool = True


class Refused(Message, frozen=True):
    """A request is refused; `reason` says why and what to do."""

    reason: str
    acquisition: str = ""
    #: The same request may succeed later.
    again: bool = False


class Ping(Message, frozen=True):
    """A sign of life, as any other message is."""


class Open(Message, frozen=True):
    """A source announces an acquisition, once the location of its raw data is known."""

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
    #: Expected number of frames, 0 if not known; determines how much disk space must be free.
    expected: int = 0
    #: Whether the daemon reports the outcome of every frame to this source.
    report: bool = False
    #: Frames are shown in the view, but not written: the live camera.
    preview: bool = False
    #: Whether the source may move the stage and wants each `Advice`.
    advise: bool = False
    #: The microscope, from the metadata of the first frame, as JSON; "" if not known.
    first: str = ""
    #: Ids of the calibration profiles with which the run started; None lets the daemon choose.
    profiles: Annotated[list[str], msgspec.Meta(max_length=1000)] | None = None
    #: Fingerprint of the recording on disk (`datasets.identity.Recording`), as JSON; "" without one.
    recording: Annotated[str, msgspec.Meta(max_length=1 << 16)] = ""


class Opened(Message, frozen=True):
    """The acquisition is accepted; slots follow as `Credit`."""

    acquisition: str
    run: str
    output: str
    #: The daemon finds the raw dataset on its own disks: a frame there need not be sent.
    reads_raw: bool = False


class Credit(Message, frozen=True):
    """The source may fill these slots of the ring, with one frame each."""

    acquisition: str
    slots: list[Slot]


class Recall(Message, frozen=True):
    """These slots are needed elsewhere: the source returns those that it has not filled.

    Slots that are not returned in time are withdrawn; a frame submitted in one later is refused.
    """

    acquisition: str
    slots: list[Slot]


class GiveBack(Message, frozen=True):
    """Slots that were recalled and had not been filled."""

    acquisition: str
    slots: Annotated[list[Slot], msgspec.Meta(max_length=1000)]


class SavedFrame(msgspec.Struct, frozen=True, array_like=True):
    """Where a frame lies in the raw dataset: the name of its file, and offsets there in bytes."""

    file: Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^/\\]+$")]
    offset: Annotated[int, msgspec.Meta(ge=0)]
    metadata_offset: Annotated[int, msgspec.Meta(ge=0)]
    metadata_length: Annotated[int, msgspec.Meta(ge=0)]


class Submit(Message, frozen=True):
    """One frame: its pixels are in `slot`, or, with `saved`, the daemon reads them from raw into `slot`.

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
    """Frames that will not be submitted, by canonical axes, with the reason."""

    acquisition: str
    axes: Annotated[list[str], msgspec.Meta(max_length=1000)]
    state: Literal["skipped", "failed"]
    reason: str


class Behind(Message, frozen=True):
    """The source left `frames` more frames for the daemon to read from raw; `acquired` were taken so far."""

    acquisition: str
    frames: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAMES)]
    acquired: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAMES)]


class Close(Message, frozen=True):
    """No more frames will be submitted; at least `acquired` frames were taken.

    If there are raw data, the daemon compares the frames that it has with those that were saved.
    """

    acquisition: str
    acquired: Annotated[int, msgspec.Meta(ge=0, le=MAX_FRAMES)]


class Unseen(Message, frozen=True):
    """An acquisition ran, but the source could not get a single frame of it; `says` names it.

    Repeated with the same id, it counts once.
    """

    acquisition: AcquisitionId
    says: Annotated[str, msgspec.Meta(max_length=4096)]


class Closed(Message, frozen=True):
    """Every frame of the acquisition has a final state and is on disk."""

    acquisition: str
    counts: Counts


class Outcome(Message, frozen=True):
    """The outcome of one frame."""

    acquisition: str
    axes: str
    state: FinalState
    reason: str = ""


class Advice(Message, frozen=True):
    """The distance of the stage from focus, for a source that asked for it and may move the stage."""

    acquisition: str
    position: str
    channel: str
    focus: FocusAdvice


class Ready(Message, frozen=True):
    """The worker's engine is built and warmed up."""

    engine: Engines
    seconds: float


class Calibration(Message, frozen=True):
    """The part of a calibration profile that tasks with this `key` need; sent before the first of them.

    A worker keeps the last `MAX_CALIBRATIONS` of them.
    """

    key: str
    #: The profile's id.
    profile: str
    height: int
    width: int
    #: Pixels that are replaced before the engine sees the frame, as ``y * width + x``.
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
    #: Estimate the frame's distance from focus, with these optics.
    focus: FocusOptics | None = None
    #: Key of a `Calibration`; "" if no profile applies.
    calibration: str = ""
    #: A channel that has its own model; "" for any other.
    channel: str = ""
    #: Frames of one stream differ only in time; the blur of one is the starting value for the next.
    stream: str = ""
    #: What is written if the result is not trusted, see `refocusd.config.Settings`.
    untrusted: Literal["mark", "pass", "deconvolve", "skip"] = "deconvolve"
    #: What is known of the blur beforehand.
    blur: KnownBlur | None = None


class Result(Message, frozen=True):
    """The refocused half of the slot is filled."""

    task: int
    checksum: int
    facts: FrameFacts
    #: Trust map of the frame, row by row (`refocusd.imaging.trust_map`); empty without one.
    trust: Annotated[bytes, msgspec.Meta(max_length=MAX_TRUST_NBYTES)] = b""


class Failure(Message, frozen=True):
    """The worker works, but it could not refocus this frame."""

    task: int
    reason: str


class Stop(Message, frozen=True):
    """Stop: sent to the daemon by a control peer, and to a worker by the daemon."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(
    reduce(or_, Message.__subclasses__())  # those defined here and in `watching`
)


def encode(message: Message) -> bytes:
    """The message as bytes of a header.

    Raises
    ------
    InputError
        If a text in it, such as a path, cannot be written in UTF-8.
    """
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{error.object!a} is not written in UTF-8: rename that file or folder, or the channel"
        ) from error


def decode(header: bytes | memoryview) -> Message:
    """The message that `header` holds.

    Raises
    ------
    TransportError
        If it is not exactly one of the messages above.
    """
    try:
        return _decoder.decode(header)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TransportError(f"not a message of protocol {PROTOCOL}: {error}") from error
