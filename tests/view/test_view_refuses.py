"""The view's HTTP: what it refuses, and that it stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from view_process import ask, view_of
from view_setup import ACTION, HOST, Setup, raw_request, setting_up
from view_standin import Scene, StandIn, scene_of_nuclei
from waiting import until as eventually

from refocusd.view.http import server as server_module
from refocusd.view.http.server import MAX_CONNECTIONS, next_accepted
from refocusd.view.http.streams import MAX_STREAMS

#: `struct linger`: on, and for how many seconds.
LINGER = "HH" if sys.platform == "win32" else "ii"


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scene_of_nuclei()


@pytest.fixture(scope="module")
def setup(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with setting_up(scene, tmp_path_factory.mktemp("data")) as here:
        yield here


# -- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8750",
        "127.0.0.1.evil.example",
        "",
        "localhost:x",
        "[::1",
        "127.0.0.1@evil.example",
    ],
)
def test_another_host_is_refused(setup: Setup, host: str) -> None:
    """DNS rebinding: a site's own name that leads to this computer."""
    reply = ask(setup.port, "/api/status", headers={"Host": host})
    assert reply.status == 403
    assert b"acquisitions" not in reply.body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:{port}", "LOCALHOST:9000", "[::1]:1"])
def test_names_of_this_computer_are_served_through_any_forwarded_port(
    setup: Setup, host: str
) -> None:
    assert (
        ask(setup.port, "/api/status", headers={"Host": host.format(port=setup.port)}).status == 200
    )


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/api/status", {"Origin": "https://evil.example"}),
        ("GET", "/api/events", {"Origin": "null"}),
        ("GET", "/api/frame/latest", {"Sec-Fetch-Site": "cross-site"}),
        ("GET", "/api/snapshot.png", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}),
        ("GET", "/api/status", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}),
        ("POST", "/api/pause", {"Origin": "http://127.0.0.1:1", **ACTION}),
        ("POST", "/api/pause", {"Content-Type": "text/plain"}),
        ("POST", "/api/catch-up", {"Sec-Fetch-Site": "cross-site", **ACTION}),
    ],
)
def test_other_sites_are_refused(
    setup: Setup, method: str, path: str, headers: dict[str, str]
) -> None:
    actions = len(setup.daemon.actions)
    assert (
        ask(setup.port, path, method, b'{"on":true}' if method == "POST" else None, headers).status
        == 403
    )
    assert len(setup.daemon.actions) == actions


def test_its_own_origin_and_followed_links_are_served(setup: Setup) -> None:
    host = f"127.0.0.1:{setup.port}"
    own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin", **ACTION}
    assert ask(setup.port, "/api/pause", "POST", b'{"on":false}', own).status == 202
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(setup.port, "/", headers=link).status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/static/../__init__.py", 404),
        ("/static/%2e%2e/__init__.py", 404),
        ("/static/..%5c..%5cpyproject.toml", 404),
        ("/static//etc/passwd", 404),
        ("//etc/passwd", 404),
        ("/api/frame/latest?side=1", 400),
        ("/api/frame/latest?side=99999999999999999999", 400),
        ("/api/frame/latest?side=x", 400),
        ("/api/frame/latest?side=128&side=256", 400),
        ("/api/frame/latest?match=[1]", 400),
        ("/api/frame/latest?match=" + "[" * 1000, 400),
        ("/api/frame?axes=%7B%22z%22:1.5%7D", 400),
        ("/api/frame?axes=%7B%22z%22:99%7D", 404),
        ("/api/frame?acquisition=../../etc&axes=%7B%22z%22:1%7D", 404),
        ("/api/frame?%ff", 400),
        ("/api/frame?" + "&".join(f"a{i}=1" for i in range(40)), 400),
        (
            "/api/frame?axes=%7B%22time%22:0,%22channel%22:%22DAPI%22,%22z%22:0%7D&left=512&top=0&width=9&height=9",
            400,
        ),
        ("/api/pixel?axes=%7B%22time%22:0,%22channel%22:%22DAPI%22,%22z%22:0%7D&x=-1&y=0", 400),
        (
            "/api/snapshot.png?axes=%7B%22time%22:0,%22channel%22:%22DAPI%22,%22z%22:0%7D&low=5&high=5",
            400,
        ),
        ("/api/axes?acquisition=unknown", 400),
        ("/api/status?" + "a" * 9000, 414),
    ],
)
def test_malformed_requests_are_refused_in_words(setup: Setup, path: str, status: int) -> None:
    reply = ask(setup.port, path)
    assert reply.status == status
    assert reply.json()["error"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"garbage\x00\xff\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", 400),
        (b"POST /api/pause HTTP/1.1\r\n" + HOST + b"X-Refocusd-View: 1\r\n\r\n", 411),
        (
            b"POST /api/pause HTTP/1.1\r\n"
            + HOST
            + b"X-Refocusd-View: 1\r\nContent-Length: 99999999\r\n\r\n",
            413,
        ),
        (
            b"POST /api/pause HTTP/1.1\r\n"
            + HOST
            + b"X-Refocusd-View: 1\r\nContent-Length: -1\r\n\r\n",
            400,
        ),
        (
            b"POST /api/pause HTTP/1.1\r\n"
            + HOST
            + b"X-Refocusd-View: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 70000, 400),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    ],
)
def test_garbage_is_answered_and_the_connection_closed(
    setup: Setup, data: bytes, status: int
) -> None:
    answer = raw_request(setup.port, data)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert b"Connection: close" in answer or b"connection: close" in answer
    assert b"nosniff" in answer or b"\r\n\r\nInvalid HTTP request received." in answer
    assert b"Traceback" not in answer


def test_other_methods_are_refused_in_words(setup: Setup) -> None:
    for method, path in (("BREW", "/"), ("POST", "/api/status"), ("GET", "/api/pause")):
        reply = ask(setup.port, path, method, b"{}" if method == "POST" else None, ACTION)
        assert reply.status == 405
        assert reply.json()["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"on": 1}', b'{"on": "yes"}', b"[" * 2000, b"\xff"]
)
def test_actions_that_say_nothing_are_refused(setup: Setup, body: bytes) -> None:
    assert ask(setup.port, "/api/pause", "POST", body, ACTION).status == 400


def test_every_answer_carries_the_security_headers(setup: Setup) -> None:
    for path in ("/", "/static/app.js", "/api/status", "/nowhere"):
        headers = ask(setup.port, path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers


def test_a_page_has_nothing_from_elsewhere(setup: Setup) -> None:
    for name in ("", "static/style.css", "static/app.js", "static/viewer.js", "static/icon.svg"):
        text = ask(setup.port, f"/{name}").body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, name
        assert "https://" not in text, name


# -- bounded --------------------------------------------------------------------------------


def stream(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.sendall(b"GET /api/events HTTP/1.1\r\n" + HOST + b"\r\n")
    return connection


def read_until(connection: socket.socket, wanted: bytes, timeout_s: float = 20.0) -> bytes:
    got = b""
    deadline = time.monotonic() + timeout_s
    while wanted not in got and time.monotonic() < deadline:
        got += connection.recv(65536)
    return got


def test_fifty_pages_get_state_and_frames_and_more_than_the_limit_are_refused(setup: Setup) -> None:
    with contextlib.ExitStack() as stack:
        pages = [stack.enter_context(stream(setup.port)) for _ in range(50)]
        for page in pages:
            got = read_until(page, b"event: frame")
            assert b"event: status" in got
            assert b"event: frame" in got
        assert ask(setup.port, "/api/status").json()["pages"] == 50
        assert ask(setup.port, "/api/frame/latest").status == 200
        more = [stack.enter_context(stream(setup.port)) for _ in range(MAX_STREAMS - 50 + 1)]
        eventually(lambda: ask(setup.port, "/api/status").json()["pages"] == MAX_STREAMS, "full")
        answers = [read_until(page, b"\r\n") for page in more]
        assert sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) == 1
    eventually(lambda: ask(setup.port, "/api/status").json()["pages"] == 0, "closed pages noticed")


def test_no_pixels_are_asked_for_while_nobody_looks(scene: Scene) -> None:
    with StandIn(scene) as daemon, view_of(daemon.endpoint) as port:
        eventually(lambda: ask(port, "/health").status == 200, "ready")
        time.sleep(0.5)
        assert daemon.looks == 0
        with stream(port) as page:
            read_until(page, b"event: frame")
            assert daemon.looks > 0


def test_connections_are_bounded_and_come_free_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [socket.create_connection(("127.0.0.1", setup.port), 10) for _ in range(MAX_CONNECTIONS)]
    try:
        eventually(
            lambda: raw_request(
                setup.port, b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
            ).startswith(b"HTTP/1.1 503"),
            "refused",
        )
    finally:
        for connection in held:
            connection.close()
    eventually(lambda: raw_ok(setup.port), "free again")


def test_peers_that_go_before_they_are_accepted_do_not_end_the_listening(setup: Setup) -> None:
    for _ in range(50):
        gone = socket.create_connection(("127.0.0.1", setup.port), 10)
        # Closed with a reset.
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(LINGER, 1, 0))
        gone.close()
    eventually(lambda: raw_ok(setup.port), "answered")


def test_a_connection_that_cannot_be_accepted_is_left_out_and_the_next_one_taken() -> None:
    """As Windows reports a peer that is gone; asyncio's server there would stop listening."""
    outcomes: list[OSError | str] = [
        OSError(22, "The specified network name is no longer available"),
        "accepted",
    ]

    async def accept() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert asyncio.run(next_accepted(accept, listening)) == "accepted"
    outcomes.append(OSError(9, "the view ends"))
    with pytest.raises(OSError, match="ends"):
        asyncio.run(next_accepted(accept, listening))


def raw_ok(port: int) -> bool:
    with contextlib.suppress(ConnectionError):
        return ask(port, "/health").status == 200
    return False


def test_a_peer_that_sends_a_byte_now_and_then_is_dropped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REQUEST_S", 1.0)
    with (
        view_of("tcp://127.0.0.1:9") as port,
        socket.create_connection(("127.0.0.1", port), 10) as slow,
    ):
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 200:
                slow.sendall(bytes([byte]))
                slow.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    if slow.recv(100) == b"":
                        break
        assert time.monotonic() - begun < 4.0


def test_a_reader_that_takes_nothing_does_not_hold_up_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "SEND_S", 1.0)
    with StandIn(scene, fps=60) as daemon, view_of(daemon.endpoint) as port:
        eventually(lambda: ask(port, "/api/frame/latest?side=512").status == 200, "a frame")
        stuck = []
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", port), 10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(
                (b"GET /api/frame/latest?side=512 HTTP/1.1\r\n" + HOST + b"\r\n") * 8
            )
            stuck.append(connection)
        begun = time.monotonic()
        assert ask(port, "/api/status").status == 200
        assert time.monotonic() - begun < 2.0
        eventually(lambda: connections_of(port) < 5, "stuck readers dropped")
        for connection in stuck:
            connection.close()


def connections_of(port: int) -> int:
    """How many connections the view, which runs in this process, holds open."""
    here = psutil.Process().net_connections("tcp")
    return sum(c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in here)
