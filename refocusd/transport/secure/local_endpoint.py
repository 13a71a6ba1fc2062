"""The daemon's local endpoint: ZeroMQ on loopback, for processes of this computer."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field

import zmq

from refocusd.transport.secure.authenticator import Authenticator, curve_server
from refocusd.transport.secure.keys import AllowList, KeyStore
from refocusd.transport.secure.relay import SAY_S
from refocusd.transport.secure.user_keys import user_store

log = logging.getLogger(__name__)

#: Queues of messages from and to one local peer.  Messages to it are small: at most the
#: outcomes of all its frames.
RECEIVE_AHEAD, SEND_AHEAD = 64, 10_000
#: ``User-Id`` of connections that have proved the daemon's own user; no key can have this name.
OWN_USER = "."


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """Where the daemon listens for processes of this computer.

    Parameters
    ----------
    address : str
        For example ``tcp://127.0.0.1:8751``; port 0 chooses a free one.
    store : KeyStore
        The user's own key pair, and the keys that were shared with other users.
    message_nbytes : int
        Largest size of a message part, in bytes.
    handshake_s : float
        Time within which a connection must have proved its key, in seconds.
    """

    address: str
    store: KeyStore = field(default_factory=user_store)
    message_nbytes: int = 128 << 20
    handshake_s: float = 5.0


class LocalSocket:
    """The ROUTER of the local endpoint, with its authenticator.

    Parameters
    ----------
    settings : LocalEndpoint

    Raises
    ------
    ConfigError, OutputError
        As `Endpoints`.
    zmq.ZMQError
        If the address cannot be opened.
    """

    def __init__(self, settings: LocalEndpoint) -> None:
        keys = settings.store.server()
        self._own = keys.public
        self._shared = AllowList(settings.store)
        self._said_at = -SAY_S
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        options = {
            zmq.MAXMSGSIZE: settings.message_nbytes,
            zmq.RCVHWM: RECEIVE_AHEAD,
            zmq.SNDHWM: SEND_AHEAD,
            zmq.HANDSHAKE_IVL: round(settings.handshake_s * 1000),
        }
        self.socket = curve_server(self._context, keys, options)
        self._authenticator = Authenticator(self._context, self._user_of, self._shared.refresh)
        self._monitor = self.socket.get_monitor_socket(
            zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
        )
        self._authenticator.start()
        address = settings.address
        try:
            self.socket.bind(
                address.removesuffix(":0") + ":*" if address.endswith(":0") else address
            )
        except zmq.ZMQError:
            self.close(linger_ms=0)
            raise
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def may_send(self, routing: zmq.Frame) -> bool:
        """Whether a message comes from the daemon's own user, or from a key that is still shared."""
        try:
            user = str(routing.get("User-Id"))  # from the authenticator, not from the peer
        except zmq.ZMQError:
            return False
        return user == OWN_USER or user in self._shared.good

    def look(self) -> None:
        """Log attempts to connect without a key; call it a few times a second."""
        failed = False
        with suppress(zmq.Again):
            while self._monitor.recv_multipart(zmq.NOBLOCK):
                failed = True
        if failed:
            self._say(
                "a connection without the key of this user was refused: of a program that left again, "
                "of refocusd 0.1.0 (upgrade it), or of another user (`refocusd keys share` lets one in)"
            )

    def close(self, linger_ms: int) -> None:
        """Close everything; queued messages have `linger_ms` to be sent."""
        self.socket.disable_monitor()
        self._monitor.close(linger=0)
        self.socket.close(linger=linger_ms)
        self._context.term()
        self._authenticator.join()

    def _user_of(self, key: str, _address: str) -> str:
        if key == self._own:
            return OWN_USER
        if name := self._shared.names.get(key):
            return name
        self._say("a connection was refused: its key was never shared, or was revoked")
        return ""

    def _say(self, text: str) -> None:
        """Log a message; because anyone can cause it, at most one every `SAY_S` seconds."""
        now = time.monotonic()
        if now - self._said_at > SAY_S:
            self._said_at = now
            log.info("%s", text)
