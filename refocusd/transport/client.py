"""A peer's side of the wire: a connection, and an acquisition uploaded over it.

Neither class starts a thread; each object belongs to the thread that made it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

import msgspec
import numpy as np
import zmq

from refocusd.errors import InputError, TransportError
from refocusd.frame import Pixels, checksum
from refocusd.transport.messages import (
    PROTOCOL,
    Advice,
    Close,
    Closed,
    Credit,
    Hello,
    Message,
    Miss,
    Open,
    Opened,
    Outcome,
    Ping,
    Refused,
    Role,
    Submit,
    Welcome,
    decode,
    encode,
)
from refocusd.transport.ring import SharedRing, Slot
from refocusd.transport.secure.keys import ClientKeys
from refocusd.transport.secure.link import link_of

__all__ = ["DEFAULT_ENDPOINT", "Connection", "Upload", "default_endpoint"]

log = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "tcp://127.0.0.1:8751"
#: A peer that has nothing to say says Ping this often.
HEARTBEAT_S = 1.0
#: Silence after which the other side is taken for gone.
SILENCE_S = 5.0
#: Nothing that a daemon sends is larger: frames stay in the ring.
MAX_MESSAGE = 1 << 30
#: Metadata of one frame, or of an acquisition, in characters of JSON.
MAX_METADATA_CHARS = 1 << 20
#: Axes named in one message.
MAX_MISSED = 1000


def default_endpoint() -> str:
    """``REFOCUSD_ENDPOINT``, or the loopback address that `refocusd run` binds."""
    return os.environ.get("REFOCUSD_ENDPOINT", DEFAULT_ENDPOINT)


class Connection:
    """A DEALER socket that has introduced itself to a daemon.

    Parameters
    ----------
    endpoint : str
        For example ``tcp://127.0.0.1:8751``.
    role : {"source", "worker", "control"}
        What this peer is to the daemon.
    token : str
        Proof that the daemon started this worker.
    identity : str
        Name of the peer in the daemon's books; made up if empty.
    inline : bool
        Send pixels through the socket even where the ring could be mapped.
    version : str
        Version of this side, named in the daemon's refusal if it cannot be served.
    keys : ClientKeys, optional
        Encrypts the link, and proves each side to the other.  The daemon then names this
        peer, and `identity` must be empty.

    Connecting never blocks and never fails while no daemon is there; `welcome`
    says whether one answered.
    """

    def __init__(
        self,
        endpoint: str,
        role: Role,
        *,
        token: str = "",
        identity: str = "",
        inline: bool = False,
        version: str = "",
        keys: ClientKeys | None = None,
    ) -> None:
        if identity and keys is not None:
            raise TransportError("a peer with keys has the name that the daemon gave its key")
        self.endpoint = endpoint
        self.inline = inline
        self.ring: SharedRing | None = None
        self._hello = Hello(
            protocol=PROTOCOL,
            version=version,
            role=role,
            pid=os.getpid(),
            token=token,
            inline=inline,
        )
        # A context of its own: pyjavaz shares the global one and is torn down with it.
        self._context = zmq.Context(io_threads=1)
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        # What cannot be delivered is bounded: with no daemon there, sends are refused at once.
        self._socket.setsockopt(zmq.SNDHWM, 1000)
        self._socket.setsockopt(zmq.RCVHWM, 1000)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        if identity:
            self._socket.setsockopt(zmq.IDENTITY, identity.encode())
        self._link = link_of(self._socket, endpoint, keys)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise TransportError(
                f"{endpoint!r} is not an address to connect to: {error}"
            ) from error
        self._last_sent = 0.0
        self._last_heard = self._last_listened = time.monotonic()
        self.send(self._hello)

    @property
    def silent_s(self) -> float:
        """Seconds since the daemon was last heard."""
        return time.monotonic() - self._last_heard

    @property
    def lost(self) -> str:
        """Why the link was lost, as far as known: with keys at once, else silence has to tell."""
        return self._link.lost if self._link.over else ""

    @property
    def key_refused(self) -> bool:
        """Whether the daemon does not take this peer's key: there is no use in trying again."""
        return self._link.refused

    def welcome(self, timeout_s: float, asked: threading.Event | None = None) -> Welcome:
        """Wait for the daemon's answer to `Hello` and attach its ring.

        Raises
        ------
        TransportError
            If nobody answers in time or before `asked` is set, or the daemon refuses this peer.
        """
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            message = self.receive(min(left, HEARTBEAT_S))
            if isinstance(message, Refused):
                raise TransportError(message.reason)
            if isinstance(message, Welcome):
                return self.accept(message)
            if self._link.over or (asked and asked.is_set()):
                break
        raise TransportError(self._link.lost or self._link.nobody)

    def accept(self, message: Welcome) -> Welcome:
        """Attach the ring that the daemon offers; where that cannot be, say so and go inline."""
        if self.ring is not None and self.ring.address != message.ring:
            self.ring.close()  # of a daemon that is gone
            self.ring = None
        if not self.inline and self.ring is None:
            try:
                self.ring = SharedRing.attach(message.ring)
            except TransportError as error:
                log.info("pixels go through the socket: %s", error)
                self.inline = True
                self._hello = msgspec.structs.replace(self._hello, inline=True)
                self.hello_again()
        return message

    def hello_again(self) -> bool:
        """Introduce this peer again, to a daemon that does not know it (any more).

        The answer is a `Welcome` for `accept`.  False if the queue is full.
        """
        self._link.renew()
        return self.send(self._hello)

    def send(self, message: Message, pixels: Pixels | None = None) -> bool:
        """Send one message; False if the socket's bounded queue is full."""
        parts: list[bytes | memoryview] = [encode(message)]
        if pixels is not None:
            parts.append(pixels.data.cast("B"))
        try:
            # Copied: the caller may use the array again as soon as this returns.
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._last_sent = time.monotonic()
        return True

    def lend(self, message: Message, pixels: Pixels) -> zmq.MessageTracker | None:
        """Send one message with pixels that are not copied; None if the queue is full.

        The array must not change until the tracker that is returned says ``done``.
        """
        parts: list[bytes | memoryview] = [encode(message), pixels.data.cast("B")]
        try:
            tracker = self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False, track=True)
        except zmq.Again:
            return None
        self._last_sent = time.monotonic()
        assert isinstance(tracker, zmq.MessageTracker)
        return tracker

    def receive_parts(self, timeout_s: float) -> tuple[Message, memoryview | None] | None:
        """The next message and its pixels, if any; None when nothing came in time.

        Says Ping whenever this side has been quiet, however long it waits here.
        """
        now = time.monotonic()
        if now - self._last_listened > HEARTBEAT_S:
            # We did not listen meanwhile (a long frame, a stopped process): that was no silence.
            self._last_heard = now
        deadline = now + timeout_s
        while True:
            if now - self._last_sent > HEARTBEAT_S:
                self.send(Ping())
            wait_s = min(max(0.0, deadline - now), HEARTBEAT_S / 2)
            arrived = self._link.wait(round(wait_s * 1000))
            now = self._last_listened = time.monotonic()
            if arrived:
                break
            if now >= deadline or self._link.over:
                return None
        parts = self._socket.recv_multipart(copy=False)
        self._last_heard = now
        return decode(parts[0].buffer), parts[1].buffer if len(parts) > 1 else None

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, or None when nothing came within `timeout_s` seconds."""
        received = self.receive_parts(timeout_s)
        return received[0] if received else None

    def close(self, linger_s: float = 0.0) -> None:
        """Close the socket, giving what is queued `linger_s` seconds to leave."""
        if not self._socket.closed:
            self._link.close()
            self._socket.close(linger=round(linger_s * 1000))
        self._context.term()
        if self.ring is not None:
            self.ring.close()
            self.ring = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Upload:
    """One acquisition, frame by frame, to a daemon.

    Parameters
    ----------
    connection : Connection
        Of the role ``source``, welcomed.
    open : Open
        The announcement; sent at once.
    on_outcome : callable, optional
        Told every frame's final state, if `open` asks for reports.
    on_advice : callable, optional
        Told how far the stage is from focus, if `open` asks for it.

    Attributes
    ----------
    opened : Opened or None
        Set once the daemon has made room for it.
    refused : str
        Why the daemon did not, if it did not.
    again : bool
        Whether it may in a moment.
    closed : Closed or None
        Set once every frame has a final state.
    """

    def __init__(
        self,
        connection: Connection,
        open: Open,  # noqa: A002 (the message's name)
        on_outcome: Callable[[Outcome], None] | None = None,
        on_advice: Callable[[Advice], None] | None = None,
    ) -> None:
        self.acquisition = open.acquisition
        self.opened: Opened | None = None
        self.closed: Closed | None = None
        self.refused = ""
        self.again = False
        self._connection = connection
        self._on_outcome = on_outcome
        self._on_advice = on_advice
        self._shape = (open.height, open.width)
        self._dtype = open.dtype
        self._slots: deque[Slot] = deque()
        connection.send(open)

    @property
    def credit(self) -> int:
        """Frames that can be submitted now."""
        return len(self._slots)

    def pump(self, timeout_s: float = 0.0) -> bool:
        """Handle one message, waiting up to `timeout_s`; False when none came."""
        message = self._connection.receive(timeout_s)
        if message is None:
            return False
        if isinstance(message, Credit):
            self._slots.extend(message.slots)
        elif isinstance(message, Opened):
            self.opened = message
        elif isinstance(message, Closed):
            self.closed = message
        elif isinstance(message, Refused):
            if message.acquisition in ("", self.acquisition):
                self.refused = message.reason
                self.again = message.again
        elif isinstance(message, Outcome) and self._on_outcome is not None:
            self._on_outcome(message)
        elif isinstance(message, Advice) and self._on_advice is not None:
            self._on_advice(message)
        return True

    def submit(
        self, pixels: Pixels, axes: str, metadata: str, taken_ns: int, *, live: bool = True
    ) -> bool:
        """Copy one frame into a slot and announce it; False without credit.

        Parameters
        ----------
        pixels : ndarray
            Of the shape and type announced in `Open`.
        axes : str
            Canonical axes.
        metadata : str
            JSON of the frame's metadata.
        taken_ns : int
            `time.perf_counter_ns` when the frame was handed over.

        Raises
        ------
        InputError
            If the frame is of another shape or type than was announced.
        """
        if pixels.shape != self._shape or pixels.dtype.name != self._dtype:
            raise InputError(
                f"frame {axes} is {pixels.shape[1]}×{pixels.shape[0]} {pixels.dtype}, but its "
                f"acquisition began with {self._shape[1]}×{self._shape[0]} {self._dtype}: keep the "
                "camera's ROI, binning and bit depth within one acquisition"
            )
        if len(metadata) > MAX_METADATA_CHARS:
            raise InputError(f"the metadata of frame {axes} are larger than 1 MiB")
        if not self._slots:
            return False
        slot = self._slots[0]
        ring = self._connection.ring
        inline: Pixels | None = pixels
        if ring is not None:
            np.copyto(ring.view(slot.offset, self._shape, self._dtype), pixels)
            inline = None
        message = Submit(
            acquisition=self.acquisition,
            axes=axes,
            slot=slot,
            checksum=checksum(pixels),
            metadata=metadata,
            taken_ns=taken_ns,
            live=live,
        )
        # The slot is spent once the frame has left, and not by one that cannot be sent.
        if not self._connection.send(message, inline):
            return False
        self._slots.popleft()
        return True

    def miss(self, axes: list[str], state: Literal["skipped", "failed"], reason: str) -> None:
        """Name frames that will not be submitted, and why."""
        for first in range(0, len(axes), MAX_MISSED):
            some = axes[first : first + MAX_MISSED]
            # No credit bounds these: where the queue is full, they wait for the daemon.
            while not self._connection.send(Miss(self.acquisition, some, state, reason)):
                if self._connection.silent_s > SILENCE_S:
                    return
                self.pump(0.05)

    def close(self, acquired: int) -> None:
        """Say that no more frames will come; at least `acquired` went by."""
        while not self._connection.send(Close(self.acquisition, acquired)):
            if self._connection.silent_s > SILENCE_S:
                return
            self.pump(0.05)
