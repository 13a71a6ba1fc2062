"""Runs the view for tests: in this process, or in a separate one as users do."""

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
    """Header that a program of this user sends to a view started from the command line."""
    return {"Authorization": f"Bearer {derived_secret('view')}"}


def ask(
    port: int,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send one request over a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


@contextmanager
def view_of(endpoint: str, **options: Any) -> Iterator[int]:
    """Run a view in this process on a free port; yields the port."""
    with serving(ViewOptions(endpoint, **{"port": 0, **options})) as server:
        yield server.port


@contextmanager
def view_process(
    endpoint: str, port: int = 0
) -> Iterator[tuple[subprocess.Popen[bytes], Announcement]]:
    """Run `refocusd view` as a separate process; yields the process and its address."""
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
