"""Decides which keys may connect, by answering ZeroMQ's requests in a thread.

ZeroMQ sends its requests by ZAP (https://rfc.zeromq.org/spec/27/).  `zmq.auth` is not used,
because its thread runs an asyncio loop, which cannot watch sockets with Windows' default loop,
and because it does not know to which connection a request belongs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

import zmq
from zmq.utils.z85 import encode as z85

from refocusd.transport.secure.keys import ServerKeys

log = logging.getLogger(__name__)

ZAP_DOMAIN = b"refocusd"
ZAP_ADDRESS = "inproc://zeromq.zap.01"
#: How often the allow-list is read again, in seconds.
LOOK_S = 0.25


class Authenticator:
    """Answers the requests of one context.  Its thread ends when the context is terminated.

    Parameters
    ----------
    context : zmq.Context
        The context of one endpoint only, since a context has one ZAP handler.
    user_of : callable
        Called with a proved key and the address of its connection.  It returns the ``User-Id`` of
        all messages of that connection; an empty string refuses the connection.
    look : callable
        Called a few times a second, also before each answer.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        user_of: Callable[[str, str], str],
        look: Callable[[], None],
    ) -> None:
        self._user_of = user_of
        self._look = look
        self._zap: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(ZAP_ADDRESS)
        # A process that is interrupted twice exits without closing this.
        self._thread = threading.Thread(target=self._run, name="authenticator", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end, once the context is terminated."""
        self._thread.join()

    def _run(self) -> None:
        with self._zap:
            while True:
                try:
                    asked = self._zap.poll(round(LOOK_S * 1000))
                    self._look()
                    if asked:
                        self._answer()
                except zmq.ContextTerminated:
                    return
                except Exception:
                    # After a failure, nobody is accepted, and existing connections stay.
                    log.exception("a key could not be checked")
                    time.sleep(LOOK_S)

    def _answer(self) -> None:
        version, request, _, where, _, mechanism, *credentials = self._zap.recv_multipart(
            zmq.NOBLOCK
        )
        key = z85(credentials[0]).decode() if mechanism == b"CURVE" and credentials else ""
        user = self._user_of(key, where.decode("ascii", "replace"))
        if user:
            answer = (b"200", b"", user.encode())
        else:
            answer = (b"400", b"this key is not accepted", b"")
        self._zap.send_multipart([version, request, *answer, b""])


def curve_server(
    context: zmq.Context[zmq.Socket[bytes]],
    keys: ServerKeys,
    options: Mapping[zmq.SocketOption, int],
) -> zmq.Socket[bytes]:
    """A ROUTER that accepts only peers which the context's authenticator accepts."""
    socket = context.socket(zmq.ROUTER)
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()
    socket.curve_server = True
    socket.zap_domain = ZAP_DOMAIN
    # Without an authenticator, nobody is accepted.
    for option, value in {zmq.ZAP_ENFORCE_DOMAIN: 1, **options}.items():
        socket.setsockopt(option, value)
    return socket
