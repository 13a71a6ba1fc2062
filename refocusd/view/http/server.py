"""The view's web server: uvicorn in a thread of its own, with limits on every connection."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from refocusd.errors import TransportError
from refocusd.view.http.options import ViewOptions

#: A browser keeps up to six connections per page open for a while.
MAX_CONNECTIONS = 256
#: A request must arrive completely, and the next one begin, within this time.
REQUEST_S = 15.0
#: A reader that lets an answer wait longer than this is dropped.
SEND_S = 10.0
#: Size of address and headers together.
MAX_HEAD_NBYTES = 1 << 16
#: The system's send buffer; it is small, so that the server soon notices a page that does not read.
SEND_BUFFER_NBYTES = 1 << 18
#: Time limit for answers that are being written when the view ends.
SHUTDOWN_S = 1
#: Pause after a connection that could not be accepted.
ACCEPT_S = 0.01


@contextmanager
def web_server(options: ViewOptions, app: ASGIApp) -> Iterator[int]:
    """Serve an application for as long as the `with` statement lasts, and yield the port.

    Raises
    ------
    TransportError
        On entering, if the port is taken.
    ConfigError
        On entering, if the TLS files cannot be used.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=_LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        proxy_headers=False,
        server_header=False,
        headers=[("Server", "refocusd")],
        timeout_keep_alive=int(REQUEST_S),
        timeout_graceful_shutdown=SHUTDOWN_S,
        h11_max_incomplete_event_size=MAX_HEAD_NBYTES,
    )
    config.load()
    config.ssl = options.tls()
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listening = socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        raise TransportError(
            f"the view cannot listen on {options.host}:{options.port} ({error}); choose another "
            "--port, or end the program that has it"
        ) from error
    port: int = listening.getsockname()[1]
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=_run, args=(server, listening), name="view-server", daemon=True
    )
    thread.start()
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(5.0)


def _run(server: uvicorn.Server, listening: socket.socket) -> None:
    with asyncio.Runner(loop_factory=_event_loop) as runner:
        runner.run(server.serve([listening]))


async def next_accepted(accept: Callable[[], Awaitable[Any]], listening: socket.socket) -> Any:
    """The result of `accept` for the next connection; peers that have gone already are skipped."""
    while True:
        try:
            return await accept()
        except OSError:
            if listening.fileno() < 0:
                raise
        await asyncio.sleep(ACCEPT_S)


if sys.platform == "win32":

    class _Proactor(asyncio.IocpProactor):
        """asyncio's stops listening if a peer has gone before its connection is accepted.

        See https://github.com/python/cpython/issues/93821.
        """

        def accept(self, listener: socket.socket) -> asyncio.Future[Any]:
            accept = super().accept

            async def closing() -> Any:
                try:
                    return await accept(listener)
                except OSError:
                    self._next.close()
                    raise

            return asyncio.get_running_loop().create_task(next_accepted(closing, listener))

        def _get_accept_socket(self, family: int) -> socket.socket:
            made: socket.socket = super()._get_accept_socket(family)  # type: ignore[misc]
            self._next = made
            return made

    def _event_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.ProactorEventLoop(_Proactor())
        loop.set_exception_handler(_leave_out_peers)
        return loop

    def _leave_out_peers(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log no traceback for peers that have gone."""
        if not isinstance(context.get("exception"), OSError):
            loop.default_exception_handler(context)

else:
    _event_loop = asyncio.SelectorEventLoop


class _LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with limits for slow and for many peers.

    uvicorn itself limits neither the time that a request takes nor the time that
    an answer waits for its reader.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._request_due = self._answer_due = self.loop.call_later(REQUEST_S, transport.abort)
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
        self._request_due.cancel()
        self._answer_due.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        # The request is complete; MUST_CLOSE follows "Connection: close", which urllib sends.
        if self.conn.their_state in (h11.DONE, h11.MUST_CLOSE):
            self._request_due.cancel()

    def on_response_complete(self) -> None:
        self._request_due.cancel()
        self._request_due = self.loop.call_later(REQUEST_S, self.transport.abort)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_due = self.loop.call_later(SEND_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_due.cancel()
