"""The daemon's sockets: a local endpoint, and one for workers on other hosts.

============  ===============================  ============================================
endpoint      where                            who
============  ===============================  ============================================
local         loopback                         processes of the same user, any role; those of
                                               users that a key was shared with
remote        any address, if one is set       good keys only, `worker`
============  ===============================  ============================================

Both take CURVE keys.  Pixels on one host stay in the shared ring, so that only headers are
encrypted there.  Each endpoint has a ZeroMQ context of its own: encrypting 8 MiB takes about
10 ms of an I/O thread, for which no local frame shall wait.  A relay stands before the remote
one, which limits and ends connections.

What can be caused from outside is bounded: connections by number and, until they
have proved a key, by time; messages by size, and by number for each connection.
A key is for users and hosts that are trusted, though: who has proved one can send the parts
of one message without end (ZeroMQ has no limit for that), or abort this process
with ZeroMQ's pings (libzmq#4364).
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, get_args

import zmq

from refocusd.errors import ConfigError, TransportError
from refocusd.transport.messages import Role
from refocusd.transport.secure.authenticator import ZAP_DOMAIN, Authenticator
from refocusd.transport.secure.keys import AllowList, KeyStore, ServerKeys
from refocusd.transport.secure.relay import SAY_S, Relay, listen
from refocusd.transport.secure.user_keys import user_store

log = logging.getLogger(__name__)

#: What a remote peer's identity starts with, and no local one's may.
REMOTE = b"@"
#: Room for a header; pixels are a part of their own.
HEADER_NBYTES = 1 << 16
#: Messages that wait for the broker, of one remote peer: it has a few frames at most.
RECEIVE_AHEAD = 4
#: Messages that wait for one remote peer.
SEND_AHEAD = 64
#: The same of one local peer.  What it is sent is small: outcomes of all its frames, at most.
LOCAL_RECEIVE_AHEAD, LOCAL_SEND_AHEAD = 64, 10_000
#: What a connection that has proved the daemon's own user sends under; no key has such a name.
OWN_USER = "."


def allowed_roles(remote: str | None) -> frozenset[Role]:
    """Roles that a peer may take.

    Parameters
    ----------
    remote : str or None
        As `Endpoints.remote` says: a key's name, or None for a process of this host.
    """
    return frozenset(get_args(Role)) if remote is None else frozenset({"worker"})


def check_listen_address(address: str, *, keys: bool) -> None:
    """Refuse to listen in the open.

    Parameters
    ----------
    address : str
        For example ``tcp://127.0.0.1:8751`` or ``tcp://0.0.0.0:8752``.
    keys : bool
        Whether peers must prove a key there.

    Raises
    ------
    ConfigError
        If it is no such address, or not a loopback one and `keys` is false.
    """
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else -1
    if not (address.startswith("tcp://") and colon and host and 0 <= number < 65536):
        raise ConfigError(f"{address!r} is no address to listen at; write tcp://HOST:PORT")
    if not keys and not _is_loopback(host):
        raise ConfigError(
            f"{address} can be reached from other hosts, so it takes keys: make one for each of them "
            "with `refocusd keys new NAME`, or listen at 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """Where the daemon listens for processes of this computer.

    Parameters
    ----------
    address : str
        For example ``tcp://127.0.0.1:8751``; port 0 takes a free one.
    store : KeyStore
        The user's own pair, and the keys that were shared with other users.
    message_nbytes : int
        Bytes of the largest message part.
    handshake_s : float
        Until a connection must have proved its key, in seconds.
    """

    address: str
    store: KeyStore = field(default_factory=user_store)
    message_nbytes: int = 128 << 20
    handshake_s: float = 5.0


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """Where the daemon listens for workers on other hosts, and for whom.

    Parameters
    ----------
    address : str
        For example ``tcp://0.0.0.0:8752``; port 0 takes a free one.
    store : KeyStore
        The daemon's key pair and the allow-list.
    frame_nbytes : int
        Bytes of the largest frame.
    connections : int
        At once, whether they have proved a key or not.  Those over it are closed.
    handshake_s : float
        Until a connection must have proved its key, in seconds.
    """

    address: str
    store: KeyStore = field(default_factory=KeyStore)
    frame_nbytes: int = 128 << 20
    connections: int = 64
    handshake_s: float = 5.0


@dataclass(frozen=True, slots=True)
class _Link:
    """One connection of a remote peer that has sent something."""

    routing: bytes
    name: str
    number: int


def _curve_server(
    context: zmq.Context[zmq.Socket[bytes]],
    keys: ServerKeys,
    options: Mapping[zmq.SocketOption, int],
) -> zmq.Socket[bytes]:
    """A ROUTER that takes only peers which the context's authenticator accepts."""
    socket = context.socket(zmq.ROUTER)
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()
    socket.curve_server = True
    socket.zap_domain = ZAP_DOMAIN
    # Without an authenticator nobody is let in.
    for option, value in {zmq.ZAP_ENFORCE_DOMAIN: 1, **options}.items():
        socket.setsockopt(option, value)
    return socket


class _Local:
    """What stands behind the local endpoint: ZeroMQ on loopback, an authenticator.

    Parameters
    ----------
    settings : LocalEndpoint

    Raises
    ------
    ConfigError, OutputError
        As `Endpoints`.
    zmq.ZMQError
        If the address cannot be listened at.
    """

    def __init__(self, settings: LocalEndpoint) -> None:
        keys = settings.store.server()
        self._own = keys.public
        self._shared = AllowList(settings.store)
        self._said_at = -SAY_S
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        options = {
            zmq.MAXMSGSIZE: settings.message_nbytes,
            zmq.RCVHWM: LOCAL_RECEIVE_AHEAD,
            zmq.SNDHWM: LOCAL_SEND_AHEAD,
            zmq.HANDSHAKE_IVL: round(settings.handshake_s * 1000),
        }
        self.socket = _curve_server(self._context, keys, options)
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
        """Whether a message comes from the daemon's own user, or a key that is still shared."""
        try:
            user = str(routing.get("User-Id"))  # from the authenticator, not from the peer
        except zmq.ZMQError:
            return False
        return user == OWN_USER or user in self._shared.good

    def look(self) -> None:
        """Log that somebody without a key has tried; call it a few times a second."""
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
        """Close all, giving what is queued `linger_ms` to leave."""
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
        """Anyone can cause these messages, so they are logged now and then."""
        now = time.monotonic()
        if now - self._said_at > SAY_S:
            self._said_at = now
            log.info("%s", text)


class _Remote:
    """What stands behind the remote endpoint: a relay, ZeroMQ on loopback, an authenticator.

    Parameters
    ----------
    settings : RemoteEndpoint

    Raises
    ------
    ConfigError, OutputError, TransportError
        As `Endpoints`.
    """

    def __init__(self, settings: RemoteEndpoint) -> None:
        check_listen_address(settings.address, keys=True)
        keys = settings.store.server()
        self._allow_list = AllowList(settings.store)
        host, _, port = settings.address.removeprefix("tcp://").rpartition(":")
        try:
            listener = listen(host, int(port), settings.connections)
        except OSError as error:
            raise TransportError(
                f"{settings.address} cannot be listened at for workers on other hosts: {error}; choose "
                "another address or port"
            ) from error
        name = listener.getsockname()
        shown = f"[{name[0]}]" if ":" in name[0] else name[0]
        self.endpoint = f"tcp://{shown}:{name[1]}"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        options = {
            zmq.ROUTER_MANDATORY: 1,
            zmq.MAXMSGSIZE: settings.frame_nbytes + HEADER_NBYTES,
            zmq.RCVHWM: RECEIVE_AHEAD,
            zmq.SNDHWM: SEND_AHEAD,
            zmq.HANDSHAKE_IVL: round(settings.handshake_s * 1000),
            zmq.BACKLOG: settings.connections,
        }
        self.socket = _curve_server(self._context, keys, options)
        self.socket.bind("tcp://127.0.0.1:*")
        inner_port = int(self.socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self.relay = Relay(listener, ("127.0.0.1", inner_port), settings.connections)
        self._authenticator = Authenticator(self._context, self._user_of, self._allow_list.refresh)
        self._authenticator.start()
        self.relay.start()

    @property
    def good(self) -> frozenset[str]:
        """Names of the keys that are accepted."""
        return self._allow_list.good

    def close(self, linger_ms: int) -> None:
        """Close all, giving what is queued `linger_ms` to leave."""
        self.socket.close(linger=linger_ms)
        self._context.term()
        self._authenticator.join()
        self.relay.close(linger_ms / 1000)

    def _user_of(self, key: str, address: str) -> str:
        """``NAME/NUMBER``: the name of a good key, and the relay's number of the connection."""
        name = self._allow_list.names.get(key)
        number = self.relay.prove(address) if name is not None else None
        if name is not None and number is not None:
            return f"{name}/{number}"
        log.warning(
            "a connection from %s was refused: its key is not in the list, or was revoked (%s...)",
            self.relay.peer(address),
            key[:10],
        )
        return ""


class Endpoints:
    """Owns the ROUTER sockets; the broker's thread alone uses them.

    Parameters
    ----------
    local : LocalEndpoint
    remote : RemoteEndpoint, optional

    Attributes
    ----------
    local_endpoint, remote_endpoint : str
        Their addresses; the latter is empty without a remote endpoint.

    Raises
    ------
    ConfigError
        For a bad address, keys that cannot be read, or a ZeroMQ without CURVE.
    OutputError
        If a key pair cannot be written.
    TransportError
        If the remote address cannot be listened at.
    zmq.ZMQError
        If the local one cannot.
    """

    def __init__(self, local: LocalEndpoint, remote: RemoteEndpoint | None = None) -> None:
        self._local = _Local(local)
        self.local_endpoint = self._local.endpoint
        self._links: dict[bytes, _Link] = {}
        self._by_number: dict[int, bytes] = {}
        self._gone: list[tuple[bytes, str]] = []
        self._turn = 0
        try:
            self._remote = _Remote(remote) if remote is not None else None
        except BaseException:
            self._local.close(linger_ms=0)
            raise
        self.remote_endpoint = self._remote.endpoint if self._remote is not None else ""

    def register(self, poller: zmq.Poller) -> None:
        """Have a poller watch the endpoints for messages."""
        poller.register(self._local.socket, zmq.POLLIN)
        if self._remote is not None:
            poller.register(self._remote.socket, zmq.POLLIN)

    def receive(
        self, ready: Container[Any], limit: int = 64
    ) -> Iterator[tuple[bytes, list[zmq.Frame]]]:
        """Messages that have arrived: who sent them, and their parts.

        Parameters
        ----------
        ready : container of zmq.Socket
            What the poller said.
        limit : int
            Messages at most, so that others get their turn; never waits for one.  The
            endpoints take turns.
        """
        remote = self._remote.socket if self._remote is not None else None
        waiting = [s for s in (self._local.socket, remote) if s is not None and s in ready]
        while waiting and limit > 0:
            self._turn += 1
            socket = waiting[self._turn % len(waiting)]
            try:
                routing, *parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                waiting.remove(socket)
                continue
            limit -= 1
            sender = self._remote_sender if socket is remote else self._local_sender
            if (identity := sender(routing)) is not None:
                yield identity, parts

    def send(self, identity: bytes, parts: list[bytes | memoryview], *, copy: bool = True) -> bool:
        """Send to a peer, without waiting; False if it is gone or does not read.

        Parameters
        ----------
        identity : bytes
            As `receive` gave it.
        parts : list of bytes-like
        copy : bool
            False sends large parts as they lie in memory: they must not change until
            the peer has answered.
        """
        if not identity.startswith(REMOTE):
            socket, routing = self._local.socket, identity
        elif self._remote is not None and (link := self._links.get(identity)):
            socket, routing = self._remote.socket, link.routing
        else:
            return False
        try:
            socket.send_multipart([routing, *parts], zmq.NOBLOCK, copy=copy)
        except zmq.ZMQError as error:
            log.debug("to %r: %s", identity, error)
            return False
        return True

    def remote(self, identity: bytes) -> str | None:
        """Name of the key that a remote peer has proved; None for a process of this host."""
        if not identity.startswith(REMOTE):
            return None
        return identity[1:].rpartition(b"/")[0].decode("ascii", "replace")

    def gone(self) -> list[tuple[bytes, str]]:
        """Remote peers that are gone since the last call, and why; call it a few times a second.

        Their connection ended, or their key was revoked: then it is cut here.  Nothing
        is received from that identity any more; a peer that comes back has another one.
        """
        self._local.look()
        if self._remote is None:
            return []
        for number in self._remote.relay.take_ended():
            if identity := self._by_number.get(number):
                self._forget(identity, "its connection ended")
        good = self._remote.good
        for identity, link in list(self._links.items()):
            if link.name not in good:
                self.cut(identity, f"the key {link.name} was revoked")
        gone, self._gone = self._gone, []
        return gone

    def cut(self, identity: bytes, why: str = "it was cut") -> None:
        """End a remote peer's connection, e.g. one that does not answer; `gone` names it then."""
        if self._remote is not None and (link := self._links.get(identity)):
            self._remote.relay.cut(link.number)
            self._forget(identity, why)

    def close(self, linger: int = 500) -> None:
        """Close the endpoints, giving what is queued `linger` ms to leave."""
        self._local.close(linger)
        if self._remote is not None:
            self._remote.close(linger)
            self._remote = None

    def _local_sender(self, routing: zmq.Frame) -> bytes | None:
        """Identity of the local peer that sent this; None if it is not to be listened to."""
        identity = routing.bytes
        if identity.startswith(REMOTE):
            log.warning("a local peer calls itself %r: such names are remote peers'", identity)
            return None
        return identity if self._local.may_send(routing) else None

    def _remote_sender(self, routing: zmq.Frame) -> bytes | None:
        """Identity of the remote peer that sent this; None if it is not to be listened to."""
        assert self._remote is not None
        try:
            user = str(routing.get("User-Id"))  # from the authenticator, not from the peer
        except zmq.ZMQError:
            return None
        name, _, digits = user.rpartition("/")
        if name not in self._remote.good:
            return None
        identity, number = REMOTE + user.encode(), int(digits)
        if identity not in self._links:
            # A message may be read after its connection has ended, or was cut.
            if not self._remote.relay.is_open(number):
                return None
            self._links[identity] = _Link(routing.bytes, name, number)
            self._by_number[number] = identity
        return identity

    def _forget(self, identity: bytes, why: str) -> None:
        link = self._links.pop(identity)
        self._by_number.pop(link.number, None)
        self._gone.append((identity, why))
