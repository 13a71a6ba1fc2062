"""HTTP: connections, limits and time-outs.  One thread a connection, a bounded number of them.

The standard library's server is enough for pages on one computer, and is what
every installation has.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import logging
import os
import socket
import socketserver
import ssl
import threading
import time
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from refocusd.errors import TransportError
from refocusd.view.http.guard import SECURITY_HEADERS, Guard
from refocusd.view.http.options import ViewOptions
from refocusd.view.http.routes import Answer, Routes, problem
from refocusd.view.http.stream import event_stream
from refocusd.view.state.board import Board

__all__ = ["MAX_CONNECTIONS", "MAX_STREAMS", "ViewServer"]

log = logging.getLogger(__name__)

#: Pages that may be open, and connections (a browser keeps up to six a page for a while).
MAX_STREAMS = 64
MAX_CONNECTIONS = 256
#: A request must be whole, and the next one begun, within this time.
REQUEST_S = 15.0
#: An answer must be taken within this time: who reads slower is dropped.
SEND_S = 10.0
MAX_ADDRESS_CHARS = 8192
MAX_BODY = 4096


class ViewServer:
    """Serves the view from threads of its own, for as long as its `with` statement lasts.

    Parameters
    ----------
    options : ViewOptions
    board : Board
    routes : Routes

    Attributes
    ----------
    url : str
        Of the page, on this computer.

    Raises
    ------
    TransportError
        On entering, if the port is taken.
    ConfigError
        On entering, if the TLS files cannot be used.
    """

    def __init__(self, options: ViewOptions, board: Board, routes: Routes) -> None:
        self._options = options
        self._board = board
        self._routes = routes
        self.url = ""
        self.port = 0

    def __enter__(self) -> Self:
        options = self._options
        tls = options.tls()
        try:
            self._server = _Server(options, tls, self._board, self._routes)
        except (OSError, OverflowError) as error:
            raise TransportError(
                f"the view cannot listen on {options.host}:{options.port} ({error}); choose another "
                "--port, or end the program that has it"
            ) from error
        self.port = self._server.server_address[1]
        name = "127.0.0.1" if options.is_loopback else options.host
        self.url = f"{options.scheme}://{name}:{self.port}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="view-server", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._board.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    # On Windows it would let another program take the port beside us.
    allow_reuse_address = os.name != "nt"

    def __init__(
        self,
        options: ViewOptions,
        tls: ssl.SSLContext | None,
        board: Board,
        routes: Routes,
    ) -> None:
        self.board = board
        self.routes = routes
        self.guard = Guard(options)
        self.streams = threading.BoundedSemaphore(MAX_STREAMS)
        self._tls = tls
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        if ":" in options.host:
            self.address_family = socket.AF_INET6
        super().__init__((options.host, options.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            # From the accepting thread: must not wait for anybody.
            with contextlib.suppress(OSError):
                request.setblocking(False)
                if self._tls is None:
                    request.send(
                        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\n"
                        b"Content-Length: 0\r\nConnection: close\r\n\r\n"
                    )
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            if self._tls is not None:
                # Here and not while accepting: a peer that stays silent holds up only itself.
                request.settimeout(REQUEST_S)
                request = self._tls.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError as error:
            log.debug("from %s: %s", client_address, error)
            self.shutdown_request(request)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (the base's)
        log.debug("the connection of %s ended", client_address, exc_info=True)


class _Reader(io.RawIOBase):
    """A socket's bytes up to a deadline: a peer that sends one byte now and then is no reader."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = time.monotonic() + REQUEST_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "refocusd"
    sys_version = ""
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._reader = _Reader(self.connection)
        self.rfile.close()
        self.rfile = io.BufferedReader(self._reader, 1 << 14)

    def handle_one_request(self) -> None:
        self._reader.deadline = time.monotonic() + REQUEST_S
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    # -- methods ------------------------------------------------------------------------

    def do_GET(self) -> None:
        """Answer with what is asked for."""
        path, query = self._address()
        if not self._is_welcome("GET", path, query):
            return
        if path == "/api/events":
            self._stream()
        else:
            self._send(self.server.routes.get(path, query))

    def do_HEAD(self) -> None:
        """As `do_GET`, without the body."""
        path, query = self._address()
        if self._is_welcome("GET", path, query):
            if path == "/api/events":
                self._send(problem(405, "events are for GET"))
            else:
                self._send(self.server.routes.get(path, query))

    def do_POST(self) -> None:
        """Take an order."""
        path, query = self._address()
        if not self._is_welcome("POST", path, query):
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._send(problem(411, "say how long the order is (Content-Length)"), close=True)
        elif len(length) > 6 or int(length) > MAX_BODY:
            self._send(problem(413, f"an order has at most {MAX_BODY} bytes"), close=True)
        else:
            self._send(self.server.routes.post(path, self.rfile.read(int(length))))

    # -- checks -------------------------------------------------------------------------

    def _address(self) -> tuple[str, str]:
        try:
            parts = urlsplit(self.path)
        except ValueError:
            return "?", ""
        return parts.path, parts.query

    def _is_welcome(self, method: str, path: str, query: str) -> bool:
        """Whether the request may be answered; where not, it has been told so."""
        guard = self.server.guard
        if len(self.path) > MAX_ADDRESS_CHARS:
            self._send(problem(414, "the address is too long"), close=True)
            return False
        has_body = self.headers.get("Content-Length", "0") != "0"
        if "Transfer-Encoding" in self.headers or (has_body and method != "POST"):
            self._send(problem(400, "this request may have no body"), close=True)
            return False
        if refusal := guard.refusal(method, path, self.headers):
            self._send(problem(refusal.status, refusal.reason), close=True)
            return False
        if guard.knows(self.headers) or path == "/health":
            return True
        shown = parse_qs(query).get("token", [""])[0] if path == "/" else ""
        if guard.is_token(shown):
            # Out of the address, where it would stay in the history.
            kept = {"Location": "/", "Set-Cookie": guard.cookie}
            self._send(Answer(303, "text/plain", (), kept))
        else:
            why = "this view asks for its token: open it as /?token=..., or send it as Bearer"
            self._send(problem(401, why), close=True)
        return False

    # -- answers ------------------------------------------------------------------------

    def _send(self, answer: Answer, *, close: bool = False) -> None:
        self.close_connection |= close
        self._begin(answer.status, answer.content_type, answer.headers)
        self.send_header("Content-Length", str(sum(len(part) for part in answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.connection.settimeout(SEND_S)
        self.end_headers()
        if self.command != "HEAD":
            for part in answer.body:
                self.wfile.write(part)

    def _stream(self) -> None:
        if not self.server.streams.acquire(blocking=False):
            self._send(problem(503, f"{MAX_STREAMS} pages are open; close some"), close=True)
            return
        try:
            self.close_connection = True
            self._begin(200, "text/event-stream; charset=utf-8", {"Connection": "close"})
            self.connection.settimeout(SEND_S)
            # A page that does not read is dropped after little, not after megabytes.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            self.end_headers()
            with self.server.board.page():
                for event in event_stream(self.server.board, self.server.routes.status_bytes):
                    self.wfile.write(event)
        finally:
            self.server.streams.release()

    def _begin(self, status: int, content_type: str, headers: Any) -> None:
        self.send_response(status)
        for name, value in {**SECURITY_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say what is wrong with a request that the base class refuses."""
        try:
            phrase = HTTPStatus(code).phrase
        except ValueError:
            phrase = "error"
        if not hasattr(self, "command") or self.command is None:
            self.command = ""
        if self.request_version in ("", "HTTP/0.9"):
            self.request_version = self.protocol_version
        self._send(problem(code, explain or message or phrase), close=True)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base's name)
        """Requests are not news."""
        log.debug("%s %s", self.address_string(), format % args)
