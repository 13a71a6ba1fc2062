"""The daemon's endpoint for workers on other hosts: a relay in front of ZeroMQ on loopback."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import zmq

from refocusd.errors import ConfigError, TransportError
from refocusd.transport.secure.authenticator import Authenticator, curve_server
from refocusd.transport.secure.keys import AllowList, KeyStore
from refocusd.transport.secure.relay import Relay, listen

log = logging.getLogger(__name__)

#: Size limit of a header; pixels are a separate part.
HEADER_NBYTES = 1 << 16
#: Queue of messages from one remote peer to the broker: a peer has few frames.
RECEIVE_AHEAD = 4
#: Queue of messages to one remote peer.
SEND_AHEAD = 64


def listen_address(address: str) -> tuple[str, int]:
    """Host and port of an address such as ``tcp://0.0.0.0:8752``.

    Raises
    ------
    ConfigError
        If it is not such an address.
    """
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else -1
    if not (address.startswith("tcp://") and colon and host and 0 <= number < 65536):
        raise ConfigError(f"{address!r} is not an address to listen on; write tcp://HOST:PORT")
    return host, number


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """Where the daemon listens for workers on other hosts, and for whom.

    Parameters
    ----------
    address : str
        For example ``tcp://0.0.0.0:8752``; port 0 chooses a free one.
    store : KeyStore
        The daemon's key pair and the allow-list.
    frame_nbytes : int
        Size of the largest frame, in bytes.
    connections : int
        Largest number of connections at a time, whether they have proved a key or not; further ones
        are closed.
    handshake_s : float
        Time within which a connection must have proved its key, in seconds.
    """

    address: str
    store: KeyStore = field(default_factory=KeyStore)
    frame_nbytes: int = 128 << 20
    connections: int = 64
    handshake_s: float = 5.0


class RemoteSocket:
    """The ROUTER of the remote endpoint, with its relay and its authenticator.

    Parameters
    ----------
    settings : RemoteEndpoint

    Raises
    ------
    ConfigError, OutputError, TransportError
        As `Endpoints`.
    """

    def __init__(self, settings: RemoteEndpoint) -> None:
        host, port = listen_address(settings.address)
        keys = settings.store.server()
        self._allow_list = AllowList(settings.store)
        try:
            listener = listen(host, port, settings.connections)
        except OSError as error:
            raise TransportError(
                f"{settings.address} cannot be opened for workers on other hosts: {error}; choose "
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
        self.socket = curve_server(self._context, keys, options)
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
        """Close everything; queued messages have `linger_ms` to be sent."""
        self.socket.close(linger=linger_ms)
        self._context.term()
        self._authenticator.join()
        self.relay.close(linger_ms / 1000)

    def _user_of(self, key: str, address: str) -> str:
        """``NAME/NUMBER``: the name of an accepted key, and the relay's number of the connection."""
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
