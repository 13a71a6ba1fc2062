"""The view's web server: uvicorn in a thread of its own, with limits on every connection."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from refocusd.errors import TransportError
from refocusd.view.http.guard import SECURITY_HEADERS
from refocusd.view.http.options import ViewOptions
from refocusd.view.json_text import json_bytes
from refocusd.view.state.view_state import ViewState

__all__ = ["MAX_CONNECTIONS", "ViewServer"]

#: A browser keeps up to six connections a page for a while.
MAX_CONNECTIONS = 256
#: A request must be whole, and the next one begun, within this time.
REQUEST_S = 15.0
#: An answer must be taken within this time: who reads slower is dropped.
SEND_S = 10.0
#: Address and headers together.
MAX_HEAD_NBYTES = 1 << 16
#: What the system buffers of an answer: a page that does not read is dropped after little.
SEND_BUFFER_NBYTES = 1 << 18
#: Answers that are being written when the view ends may take so long.
SHUTDOWN_S = 1


class ViewServer:
    """Serves the view for as long as its `with` statement lasts.

    Parameters
    ----------
    options : ViewOptions
    state : ViewState
        Closed on leaving, which ends the event streams.
    app : ASGIApp

    Attributes
    ----------
    url : str
        Of the page, on this computer.
    port : int

    Raises
    ------
    TransportError
        On entering, if the port is taken.
    ConfigError
        On entering, if the TLS files cannot be used.
    """

    def __init__(self, options: ViewOptions, state: ViewState, app: ASGIApp) -> None:
        self._options = options
        self._state = state
        self._app = app
        self.url = ""
        self.port = 0

    def __enter__(self) -> Self:
        options = self._options
        config = uvicorn.Config(
            self._app,
            loop="asyncio",
            http=_LimitedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=[("Server", "refocusd")],
            timeout_keep_alive=int(REQUEST_S),
            timeout_graceful_shutdown=SHUTDOWN_S,
            h11_max_incomplete_event_size=MAX_HEAD_NBYTES,
        )
        config.load()
        config.ssl = options.tls()
        try:
            listening = socket.create_server(
                (options.host, options.port),
                family=socket.AF_INET6 if ":" in options.host else socket.AF_INET,
            )
        except OSError as error:
            raise TransportError(
                f"the view cannot listen on {options.host}:{options.port} ({error}); choose another "
                "--port, or end the program that has it"
            ) from error
        self.port = listening.getsockname()[1]
        name = "127.0.0.1" if options.is_loopback else options.host
        self.url = f"{options.scheme}://{name}:{self.port}/"
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="view-server", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._state.close()
        self._server.should_exit = True
        self._thread.join(5.0)


class _Deadline:
    """Calls a function unless it is lifted in time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        self.lift()
        self._timer = self._loop.call_later(seconds, self._expired)

    def lift(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _LimitedProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, for peers that are slow, many or wrong.

    uvicorn itself limits neither the time that a request takes nor the time that
    an answer waits for its reader.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._request_due = _Deadline(self.loop, transport.abort)
        self._answer_due = _Deadline(self.loop, transport.abort)
        self._request_due.set(REQUEST_S)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
            transport.close()
            return
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_NBYTES
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_due.lift()
        self._answer_due.lift()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.their_state is h11.DONE:
            self._request_due.lift()

    def on_response_complete(self) -> None:
        self._request_due.set(REQUEST_S)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_due.set(SEND_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_due.lift()

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with bytes that are no request."""
        error = sys.exception()
        status = getattr(error, "error_status_hint", 400)
        body = json_bytes({"error": f"{msg} ({error})"})
        headers: list[tuple[str, Any]] = [
            *SECURITY_HEADERS.items(),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        reason = HTTPStatus(status).phrase.encode()
        for event in (
            h11.Response(status_code=status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
