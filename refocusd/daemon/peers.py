"""The connected peers: the role of each, and when it was last heard."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from refocusd import __version__
from refocusd.errors import TransportError
from refocusd.transport import messages as wire
from refocusd.transport.secure.endpoints import allowed_roles

#: Prefix of the names of the daemon's own workers.
WORKERS = b"worker-"

#: Largest number of peers at once.  Workers and catch-ups of the daemon itself, and workers
#: with a key, are not counted, so that nobody can take their places.
MAX_PEERS = 256
#: A peer is ignored after more refusals than this, at once and per second.  A source of an earlier daemon
#: causes one for each message that it had sent.
MAX_REFUSALS, REFUSALS_PER_S = 500, 20.0
#: Cost of a request that is answered, in refusals: 5000 at once, or 200 per second, are too many.
QUESTION_COST = 0.1
#: Number of peers whose refusals are remembered.
MAX_REFUSED_PEERS = 4096


@dataclass(slots=True)
class Peer:
    """One peer that has said Hello."""

    role: wire.Role
    #: Whether it has proved that this daemon started it.
    trusted: bool
    #: When its last message arrived (`time.monotonic`).
    heard_at: float = field(default_factory=time.monotonic)


class Peers:
    """All peers, by identity.

    Parameters
    ----------
    token : str
        Proof that the daemon started a worker or a catch-up.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._peers: dict[bytes, Peer] = {}
        #: Number of refusals that each peer may still cause, and when it was computed.
        self._patience: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        #: Number of peers since the start that are ignored.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._peers

    def greet(self, identity: bytes, message: wire.Hello, remote: str | None) -> list[bytes]:
        """Admit a peer.

        Parameters
        ----------
        identity : bytes
        message : Hello
        remote : str or None
            Name of the key that it has proved; None for a process of this host.

        Returns
        -------
        list of bytes
            Peers that were forgotten to make room.

        Raises
        ------
        TransportError
            If it is not admitted.
        """
        trusted = message.token == self._token
        if message.protocol != wire.PROTOCOL:
            older = "that side" if message.protocol < wire.PROTOCOL else "the daemon"
            raise TransportError(
                f"a peer of refocusd {message.version} speaks protocol {message.protocol}, this "
                f"daemon ({__version__}) {wire.PROTOCOL}: upgrade {older}"
            )
        if identity.startswith(WORKERS) and not trusted:
            raise TransportError(f"names that begin with {WORKERS.decode()} are this daemon's own")
        if message.role not in allowed_roles(remote):
            raise TransportError(f"a peer on another host cannot be a {message.role} here")
        if message.role == "worker" and not (trusted or remote):
            raise TransportError(
                "a worker must be started by this daemon, or connect with a key where it listens "
                "for workers on other hosts"
            )
        ours = trusted or message.role == "worker"
        forgotten = self._make_room() if not ours and identity not in self else []
        self._peers[identity] = Peer(message.role, trusted)
        return forgotten

    def _make_room(self) -> list[bytes]:
        """Forget the control peer or view that was silent for longest, if there are too many peers."""
        others = {
            key: peer
            for key, peer in self._peers.items()
            if not (peer.trusted or peer.role == "worker")
        }
        if len(others) < MAX_PEERS:
            return []
        asked = [key for key, peer in others.items() if peer.role in ("control", "view")]
        if not asked:
            raise TransportError(f"{MAX_PEERS} peers are connected; close some")
        longest = min(asked, key=lambda key: self._peers[key].heard_at)
        self.forget(longest)
        return [longest]

    def heard(self, identity: bytes) -> Peer:
        """The peer that a message came from.

        Raises
        ------
        TransportError
            If it has not said Hello.
        """
        peer = self._peers.get(identity)
        if peer is None:
            raise TransportError("say Hello first (the daemon may have been restarted)")
        peer.heard_at = time.monotonic()
        return peer

    def is_dropped(self, identity: bytes) -> bool:
        """Whether a peer is ignored, because it floods the daemon or does not read its answers."""
        return self._patience.get(identity, (0.0, 0.0))[0] < 0

    def refused(self, identity: bytes, cost: float = 1.0) -> bool:
        """Count a refusal; return whether there were too many, so that the peer must be dropped."""
        if identity in self._peers and self._peers[identity].trusted:
            return False
        now = time.monotonic()
        before, at = self._patience.pop(identity, (MAX_REFUSALS, now))
        left = min(MAX_REFUSALS, before + (now - at) * REFUSALS_PER_S) - cost
        self._patience[identity] = left, now
        if len(self._patience) > MAX_REFUSED_PEERS:
            self._patience.popitem(last=False)
        self.dropped += left < 0 <= before
        return left < 0

    def asked(self, identity: bytes) -> None:
        """Count a message whose number is not bounded by the peer's slots.

        Raises
        ------
        TransportError
            If the peer sends too many of them, so that it must be dropped.
        """
        if self.refused(identity, QUESTION_COST):
            raise TransportError("it asks more often than anybody needs to know")

    def forget(self, identity: bytes) -> None:
        """Forget a peer that has gone."""
        self._peers.pop(identity, None)

    def silent(self, timeout_s: float) -> Iterator[bytes]:
        """Peers that were not heard for `timeout_s`."""
        now = time.monotonic()
        for identity, peer in list(self._peers.items()):
            if now - peer.heard_at > timeout_s:
                yield identity
