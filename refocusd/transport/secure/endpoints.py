"""The daemon's sockets: a local endpoint, and one for workers on other hosts.

============  ===============================  ============================================
endpoint      where                            who
============  ===============================  ============================================
local         loopback                         processes of the same user, any role; those of
                                               users that a key was shared with
remote        any address, if one is set       workers with an accepted key only
============  ===============================  ============================================

Both use CURVE keys.  Pixels on one host stay in the shared ring, so only headers are encrypted
there.  Each endpoint has its own ZeroMQ context, because encrypting 8 MiB occupies an I/O thread for
about 10 ms, for which no local frame should wait.  A relay in front of the remote endpoint limits and
ends connections.

Outsiders can only use bounded resources: the number of connections, the time within which each of them
must prove a key, the size of messages, and the number of messages per connection are limited.  Keys are
for trusted users and hosts only: a peer that has proved one can send a message with any number of parts
(ZeroMQ has no limit for that), or abort this process with ZeroMQ's pings (libzmq#4364).
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import zmq

from refocusd.transport.messages import Role
from refocusd.transport.secure.local_endpoint import LocalEndpoint, LocalSocket
from refocusd.transport.secure.remote_endpoint import RemoteEndpoint, RemoteSocket

log = logging.getLogger(__name__)

#: Prefix of the identities of remote peers, which local peers must not use.
REMOTE = b"@"


def allowed_roles(remote: str | None) -> frozenset[Role]:
    """Roles that a peer may have.

    Parameters
    ----------
    remote : str or None
        What `Endpoints.remote` returned: a key's name, or None for a process of this host.
    """
    return frozenset(get_args(Role)) if remote is None else frozenset({"worker"})


@dataclass(frozen=True, slots=True)
class _Link:
    """One connection of a remote peer that has sent something."""

    routing: bytes
    name: str
    number: int


class Endpoints:
    """Owns the ROUTER sockets, which only the broker's thread uses.

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
        If the remote address cannot be opened.
    zmq.ZMQError
        If the local address cannot be opened.
    """

    def __init__(self, local: LocalEndpoint, remote: RemoteEndpoint | None = None) -> None:
        self._local = LocalSocket(local)
        self.local_endpoint = self._local.endpoint
        self._links: dict[bytes, _Link] = {}
        self._by_number: dict[int, bytes] = {}
        self._gone: list[tuple[bytes, str]] = []
        self._turn = 0
        try:
            self._remote = RemoteSocket(remote) if remote is not None else None
        except BaseException:
            self._local.close(linger_ms=0)
            raise
        self.remote_endpoint = self._remote.endpoint if self._remote is not None else ""

    def register(self, poller: zmq.Poller) -> None:
        """Register the endpoints with a poller."""
        poller.register(self._local.socket, zmq.POLLIN)
        if self._remote is not None:
            poller.register(self._remote.socket, zmq.POLLIN)

    def receive(
        self, ready: Container[Any], limit: int = 64
    ) -> Iterator[tuple[bytes, list[zmq.Frame]]]:
        """Yield arrived messages: their sender and their parts.

        Parameters
        ----------
        ready : container of zmq.Socket
            What the poller returned.
        limit : int
            Largest number of messages, so that other work gets its turn.

        This never waits for a message, and takes from the endpoints in turn.
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
            As yielded by `receive`.
        parts : list of bytes-like
        copy : bool
            False sends large parts without a copy: they must not change until the peer has
            answered.
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
        """Remote peers that left since the last call, with the reason; call it a few times a second.

        Their connection ended, or their key was revoked; in the latter case, this ends the connection.
        Nothing more is received from that identity; a peer that returns gets another one.
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
        """End the connection of a remote peer, e.g. one that does not answer; `gone` then names it."""
        if self._remote is not None and (link := self._links.get(identity)):
            self._remote.relay.cut(link.number)
            self._forget(identity, why)

    def close(self, linger: int = 500) -> None:
        """Close the endpoints; queued messages have `linger` ms to be sent."""
        self._local.close(linger)
        if self._remote is not None:
            self._remote.close(linger)
            self._remote = None

    def _local_sender(self, routing: zmq.Frame) -> bytes | None:
        """Identity of the local peer that sent this; None if its messages are ignored."""
        identity = routing.bytes
        if identity.startswith(REMOTE):
            log.warning("a local peer calls itself %r: such names are remote peers'", identity)
            return None
        return identity if self._local.may_send(routing) else None

    def _remote_sender(self, routing: zmq.Frame) -> bytes | None:
        """Identity of the remote peer that sent this; None if its messages are ignored."""
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
            # A message may be read after its connection has ended.
            if not self._remote.relay.is_open(number):
                return None
            self._links[identity] = _Link(routing.bytes, name, number)
            self._by_number[number] = identity
        return identity

    def _forget(self, identity: bytes, why: str) -> None:
        link = self._links.pop(identity)
        self._by_number.pop(link.number, None)
        self._gone.append((identity, why))
