"""A peer's end of the wire: a socket that has announced itself to a daemon."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Self

import msgspec
import zmq

from refocusd.config import DEFAULT_ENDPOINT
from refocusd.errors import ConfigError, OutputError, TransportError
from refocusd.frame import Pixels
from refocusd.transport.messages import (
    PROTOCOL,
    Hello,
    Message,
    Ping,
    Refused,
    Role,
    Welcome,
    decode,
    encode,
)
from refocusd.transport.ring import SharedRing
from refocusd.transport.secure.keys import ClientKeys
from refocusd.transport.secure.link import LocalLink, RemoteLink
from refocusd.transport.secure.user_keys import own_keys

log = logging.getLogger(__name__)

#: An idle peer sends a Ping this often.
HEARTBEAT_S = 1.0
#: The other side counts as gone after this much silence.
SILENCE_S = 5.0
#: Largest message that is accepted, in bytes.
MAX_MESSAGE = 1 << 30
#: Largest size of the metadata of a frame, or of an acquisition, in characters of JSON.
MAX_METADATA_CHARS = 1 << 20


def default_endpoint() -> str:
    """``REFOCUSD_ENDPOINT``, or the loopback address that `refocusd run` binds."""
    return os.environ.get("REFOCUSD_ENDPOINT", DEFAULT_ENDPOINT)


class Connection:
    """A DEALER socket that has announced itself to a daemon.

    Parameters
    ----------
    endpoint : str
        For example ``tcp://127.0.0.1:8751``.
    role : {"source", "worker", "control", "view"}
        Role of this peer.
    token : str
        Proof that the daemon started this worker.
    identity : str
        Name of this peer at the daemon; generated if empty.
    inline : bool
        Send pixels through the socket even if the ring could be mapped.
    version : str
        Version of this side; the daemon names it if it must refuse this peer.
    keys : ClientKeys, optional
        Keys for a daemon on another host, which then names this peer: `identity` must be empty.
        Without keys, the daemon is on this host, and both sides prove that they belong to the same
        user.

    Connecting never blocks, and does not fail if there is no daemon; `welcome` says whether one
    answered.  A connection starts no thread, and belongs to the thread that creates it.

    Attributes
    ----------
    greeting : Welcome or None
        The daemon's answer to Hello; None before it arrives.
    ring : SharedRing or None
        Where pixels are exchanged; None if they go through the socket.

    Raises
    ------
    TransportError
        If `endpoint` is not an address, or the keys cannot be used.
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
            raise TransportError("leave out the name: a peer with a key is named by the key")
        self.endpoint = endpoint
        self.inline = inline
        self.greeting: Welcome | None = None
        self.ring: SharedRing | None = None
        self._hello = Hello(
            protocol=PROTOCOL,
            version=version,
            role=role,
            pid=os.getpid(),
            token=token,
            inline=inline,
        )
        # A separate context, because pyjavaz uses the global one and terminates it.
        self._context = zmq.Context(io_threads=1)
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        # Undelivered messages are bounded: without a daemon, a send is refused at once.
        self._socket.setsockopt(zmq.SNDHWM, 1000)
        self._socket.setsockopt(zmq.RCVHWM, 1000)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        if identity:
            self._socket.setsockopt(zmq.IDENTITY, identity.encode())
        try:
            self._link = (
                RemoteLink(self._socket, endpoint, keys)
                if keys is not None
                else LocalLink(self._socket, endpoint, own_keys())
            )
        except (ConfigError, OutputError) as error:
            self._context.destroy(linger=0)
            raise TransportError(
                f"daemons on this computer answer only with the key of this user, which cannot be read: {error}"
            ) from error
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
    def nobody(self) -> str:
        """Message for the time until a daemon has answered."""
        return self._link.nobody

    @property
    def lost(self) -> str:
        """Why the link to another host was lost; on this host, only silence shows it."""
        return self._link.lost if self._link.over else ""

    @property
    def key_refused(self) -> bool:
        """Whether the daemon rejects this peer's key, so that another attempt is useless."""
        return self._link.refused

    def welcome(self, timeout_s: float, asked: threading.Event | None = None) -> Welcome:
        """Wait for the daemon's answer to `Hello` and attach its ring.

        Parameters
        ----------
        timeout_s : float
        asked : threading.Event, optional
            Set when this process is asked to stop, which ends the wait within `HEARTBEAT_S`.

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
        """Attach the daemon's ring; if this is impossible, log it and send pixels through the socket."""
        self.greeting = message
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
        """Announce this peer again, to a daemon that does not know it (any more).

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
            # Copied, so that the caller may reuse the array as soon as this returns.
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._last_sent = time.monotonic()
        return True

    def lend(self, message: Message, pixels: Pixels) -> zmq.MessageTracker | None:
        """Send one message with pixels that are not copied; None if the queue is full.

        The array must not change until the returned tracker is ``done``.
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
        """The next message and its pixels, if any; None if nothing arrived in time.

        While waiting, it sends a Ping whenever this side has been idle.

        Raises
        ------
        TransportError
            If what arrived is not a message.
        """
        now = time.monotonic()
        if now - self._last_listened > HEARTBEAT_S:
            # This side did not listen (a long frame, a suspended process): that is no silence.
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
        """The next message, or None if nothing arrived within `timeout_s` seconds."""
        received = self.receive_parts(timeout_s)
        return received[0] if received else None

    def close(self, linger_s: float = 0.0) -> None:
        """Close the socket; queued messages have `linger_s` seconds to be sent."""
        if not self._socket.closed:
            self._link.close()
            self._socket.close(linger=round(linger_s * 1000))
        self._context.term()
        if self.ring is not None:
            self.ring.close()
            self.ring = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
