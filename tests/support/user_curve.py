"""Raw ZeroMQ sockets with this user's key, for stand-ins of the daemon and of peers."""

from __future__ import annotations

from typing import Any

from refocusd.transport.secure.user_keys import own_keys


def as_daemon(socket: Any) -> None:
    """Make a socket accept this user's peers; call before it is bound."""
    keys = own_keys()
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()
    socket.curve_server = True


def as_peer(socket: Any) -> None:
    """Make a socket prove that it belongs to this user; call before it connects."""
    keys = own_keys()
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()
    socket.curve_serverkey = keys.server.encode()
