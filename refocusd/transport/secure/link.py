"""The peer's end of a link: the options of its socket, its keys, and its state."""

from __future__ import annotations

import struct

import zmq

from refocusd.transport.secure.keys import ClientKeys, require_curve

#: Lets the system end a connection whose other side has disappeared: after 10 s of silence and
#: 3 probes, or if sent data are not acknowledged for 15 s.  ZeroMQ's own heartbeat
#: (ZMQ_HEARTBEAT_IVL) is used on neither side: libzmq up to 4.3.5 aborts the process if a
#: ping meets a connection that ended while its queue was full (libzmq#3937, #4364).
DEAD_PEERS = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 2,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.TCP_MAXRT: 15_000,
}
#: Time limit for TCP and key exchange; ZeroMQ then tries again.
HANDSHAKE_MS = 5000
#: ZAP's status code for a key that is not in the list.
REFUSED = 400


class LocalLink:
    """Encrypts a socket before it connects, and monitors its connection.

    This is a link to a daemon on the same computer.  ZeroMQ reconnects by itself, so that the
    link never ends; only silence shows that the daemon is gone.

    Parameters
    ----------
    socket : zmq.Socket
        Not connected yet.
    endpoint : str
        Named in messages about the link.
    keys : ClientKeys

    Attributes
    ----------
    lost : str
        Why the link cannot be established, or why it was lost; empty if neither is the case.
    refused : bool
        Whether the daemon rejects this peer's key.
    was_up : bool
        Whether both sides have proved their identity once.

    Raises
    ------
    ConfigError
        If the installed ZeroMQ cannot encrypt.
    """

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str, keys: ClientKeys) -> None:
        require_curve()
        self.lost = ""
        self.refused = False
        self.was_up = False
        self._socket = socket
        self._endpoint = endpoint
        self._keys = keys
        socket.curve_publickey = keys.public.encode()
        socket.curve_secretkey = keys.secret.encode()
        socket.curve_serverkey = keys.server.encode()
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        events = (
            zmq.Event.HANDSHAKE_SUCCEEDED
            | zmq.Event.HANDSHAKE_FAILED_AUTH
            | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
            | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
            | zmq.Event.DISCONNECTED
        )
        self._monitor = socket.get_monitor_socket(events)
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    @property
    def over(self) -> bool:
        """Whether the link has ended."""
        return False

    @property
    def nobody(self) -> str:
        """Message for the case that nothing was received at all."""
        return self.lost or (
            f"no refocusd daemon answers at {self._endpoint}; start one with `refocusd run`, or name its "
            "address in REFOCUSD_ENDPOINT"
        )

    @property
    def _not_accepted(self) -> str:
        whose = f"the key {self._keys.name}" if self._keys.name else "your user's key"
        return (
            f"the daemon at {self._endpoint} does not accept {whose}: it was revoked, or belongs to "
            "another user's daemon; that user makes one with `refocusd keys share`"
        )

    @property
    def _another(self) -> str:
        if self._keys.name:
            return (
                f"what listens at {self._endpoint} is not a daemon of the user who shared the key "
                f"{self._keys.name}"
            )
        return (
            f"what listens at {self._endpoint} is not a daemon of your user: it is another user's (who "
            "makes a key for you with `refocusd keys share`), of refocusd 0.1.0 (stop it), or "
            "another program (choose another endpoint)"
        )

    def wait(self, timeout_ms: int) -> bool:
        """Wait for a message or a change of the link; True if a message arrived."""
        arrived = dict(self._poller.poll(timeout_ms))
        if self._monitor in arrived:
            self._hear()
        return self._socket in arrived

    def renew(self) -> None:
        """Forget that it was lost, because this peer is about to announce itself again."""
        self.lost = ""

    def close(self) -> None:
        """Close the monitor; call it before the socket is closed."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)

    def _hear(self) -> None:
        while True:
            try:
                frames = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            # As in `zmq.utils.monitor`, which is not used because it imports asyncio.
            kind, value = struct.unpack("=hi", frames[0])
            if kind == zmq.Event.HANDSHAKE_SUCCEEDED:
                if not self.was_up:
                    self.lost = ""
                self.was_up = True
            elif kind == zmq.Event.HANDSHAKE_FAILED_AUTH:
                if value == REFUSED:
                    self.refused = True
                    self.lost = self._not_accepted
                else:
                    self.lost = f"the daemon at {self._endpoint} cannot check keys; see its log"
            elif self.was_up:
                self.lost = self.lost or f"the link to {self._endpoint} was cut"
            elif kind != zmq.Event.DISCONNECTED:
                self.lost = self._another


class RemoteLink(LocalLink):
    """A link to another host.

    A lost link is not restored: for the daemon, the next connection is another peer.

    Parameters
    ----------
    socket, endpoint, keys
        As for `LocalLink`.
    """

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str, keys: ClientKeys) -> None:
        super().__init__(socket, endpoint, keys)
        for option, value in DEAD_PEERS.items():
            socket.setsockopt(option, value)

    @property
    def over(self) -> bool:
        """Whether the link has ended."""
        return self.refused or (self.was_up and bool(self.lost))

    @property
    def nobody(self) -> str:
        """Message for the case that nothing was received at all."""
        return (
            f"no refocusd daemon answers at {self._endpoint}: is it running there with --listen, "
            "and is the port open in the firewall between?"
        )

    @property
    def _not_accepted(self) -> str:
        return (
            f"the daemon at {self._endpoint} does not accept the key {self._keys.name}: it was "
            "revoked, or is not in its list; make another there with `refocusd keys new`"
        )

    @property
    def _another(self) -> str:
        return (
            f"what listens at {self._endpoint} is not the daemon that made the key "
            f"{self._keys.name}, accepts no keys at that port, or accepts no more connections: check "
            "host and port (the one given with --listen), or make a key there with `refocusd keys new`"
        )
