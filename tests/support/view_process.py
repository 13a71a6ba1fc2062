"""The view as the tests run it: in this process, or as the process that users have."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from waiting import PATIENCE_S

from refocusd.transport.secure.user_keys import derived_secret
from refocusd.view.http.options import ViewOptions
from refocusd.view.serve import Announcement, serving


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def bearer() -> dict[str, str]:
    """What a program of this user shows to a view that the command line has started."""
    return {"Authorization": f"Bearer {derived_secret('view')}"}


def ask(
    port: int,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


@contextmanager
def view_of(endpoint: str, **options: Any) -> Iterator[int]:
    """A view in this process, on a free port; the port."""
    with serving(ViewOptions(endpoint, **{"port": 0, **options})) as server:
        yield server.port


@contextmanager
def view_process(
    endpoint: str, port: int = 0
) -> Iterator[tuple[subprocess.Popen[bytes], Announcement]]:
    """A view in a process of its own, as `refocusd view` is; the process and where it listens."""
    command = [sys.executable, "-m", "refocusd.view", "--announce", "--with-parent"]
    process = subprocess.Popen(
        [*command, "--endpoint", endpoint, "--port", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, msgspec.json.decode(process.stdout.readline(), type=Announcement)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(PATIENCE_S)
