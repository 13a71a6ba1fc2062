"""Every message of the wire, as typed and versioned msgpack headers.

All peers speak to one ROUTER socket of the daemon.  A message is one header,
followed by one part of raw pixels only for peers that said ``inline`` in their
`Hello`.  The first message of a peer is `Hello`; what it may send after that
depends on the role it named.

======== ==================================== ================================
role     sends                                receives
======== ==================================== ================================
source   `Open`, `Submit`, `Miss`, `Close`    `Welcome`, `Opened`, `Credit`,
                                              `Outcome`, `Closed`, `Refused`
worker   `Ready`, `Result`, `Failure`         `Welcome`, `Task`, `Stop`
control  `StatusRequest`, `Stop`              `Welcome`, `Status`, `Refused`
anyone   `Ping`                               `Ping`
======== ==================================== ================================

Headers are decoded into these types or refused: nothing of a message is
believed before that.  `PROTOCOL` changes whenever a field does.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from refocusd.errors import TransportError
from refocusd.transport.ring import RingAddress, Slot

__all__ = [
    "PROTOCOL",
    "Close",
    "Closed",
    "Counts",
    "Credit",
    "EngineInfo",
    "Failure",
    "FinalState",
    "FrameFacts",
    "Hello",
    "Message",
    "Miss",
    "Open",
    "Opened",
    "Outcome",
    "Ping",
    "Ready",
    "Refused",
    "Result",
    "Role",
    "Status",
    "StatusRequest",
    "Stop",
    "Submit",
    "Task",
    "Welcome",
    "decode",
    "encode",
]

#: Version of the wire; both sides must have the same.
PROTOCOL = 1

Role = Literal["source", "worker", "control"]
FinalState = Literal["refocused", "passed_through", "skipped", "failed"]
DType = Literal["uint8", "uint16"]
#: A UUID: it names files of ours, so nothing else is taken.
AcquisitionId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f-]{36}$")]


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages; the tag is the class name."""


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


class Refused(Message, frozen=True):
    """What was asked for is not done; `reason` says why and what to do."""

    reason: str
    acquisition: str = ""


class Ping(Message, frozen=True):
    """I am alive.  Any other message says so as well."""


class Counts(msgspec.Struct, frozen=True):
    """Frames of one acquisition, by final state; `pending` have none yet."""

    acquired: int = 0
    refocused: int = 0
    passed_through: int = 0
    skipped: int = 0
    failed: int = 0
    pending: int = 0

    @property
    def final(self) -> int:
        """Frames that reached a final state."""
        return self.refocused + self.passed_through + self.skipped + self.failed


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


class Opened(Message, frozen=True):
    """The acquisition has a place; slots come as `Credit`."""

    acquisition: str
    run: str
    output: str


class Credit(Message, frozen=True):
    """These slots of the ring are the source's to fill, one frame each."""

    acquisition: str
    slots: list[Slot]


class Submit(Message, frozen=True):
    """One frame, in the slot named.

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


class Miss(Message, frozen=True):
    """Frames that will not be submitted, by canonical axes, and why."""

    acquisition: str
    axes: Annotated[list[str], msgspec.Meta(max_length=1000)]
    state: Literal["skipped", "failed"]
    reason: str


class Close(Message, frozen=True):
    """No more frames will be submitted; at least `acquired` went by in all.

    Where there is raw data the daemon compares what it has with what was saved.
    """

    acquisition: str
    acquired: int


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


class EngineInfo(msgspec.Struct, frozen=True):
    """What a worker runs: enough to repeat it.

    Parameters
    ----------
    backend, precision, device : str
        For example ``openvino``, ``bf16``, ``CPU``.
    key : str
        Content key of the compiled engine.
    model_id, model_sha256 : str
        Which bundle it was built from.
    """

    backend: str
    precision: str
    device: str
    key: str
    model_id: str
    model_sha256: str


class Ready(Message, frozen=True):
    """The worker's engine is built and warmed up."""

    engine: EngineInfo
    seconds: float


class Task(Message, frozen=True):
    """One frame for a worker: read the slot's raw half, fill its refocused half."""

    task: int
    slot: Slot
    height: int
    width: int
    dtype: DType
    checksum: int


class FrameFacts(msgspec.Struct, frozen=True):
    """What the worker found out about one frame.

    Parameters
    ----------
    offset, scale : float
        Counts; what the engine saw was (counts - offset) / scale.
    engine_ms : float
        Time inside the engine alone.
    worker_ms : float
        Time in the worker, copies and normalisation included.
    focus_before, focus_after : float
        Focus score of the raw and the refocused frame.
    flux_ratio : float
        Sum over background of the refocused frame over that of the raw one.
    clipped : int
        Pixels cut at the ends of the counts scale.
    verdict : str
        ``refocused``, or ``in focus`` when the raw frame needs nothing.
    """

    offset: float
    scale: float
    engine_ms: float
    worker_ms: float
    focus_before: float
    focus_after: float
    flux_ratio: float
    clipped: int
    verdict: Literal["refocused", "in focus"]


class Result(Message, frozen=True):
    """The refocused half of the slot is filled."""

    task: int
    checksum: int
    facts: FrameFacts


class Failure(Message, frozen=True):
    """The worker is well, but this frame could not be refocused."""

    task: int
    reason: str


class StatusRequest(Message, frozen=True):
    """Ask the daemon how it is."""


class Status(Message, frozen=True):
    """State of the daemon."""

    version: str
    pid: int
    workers: int
    engine: EngineInfo | None
    acquisitions: dict[str, Counts]
    stopping: bool


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
    | Submit
    | Miss
    | Close
    | Closed
    | Outcome
    | Ready
    | Task
    | Result
    | Failure
    | StatusRequest
    | Status
    | Stop
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
