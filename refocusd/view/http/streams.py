"""Streams of server-sent events to a bounded number of readers.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from refocusd.view.http.answers import problem

#: At most this many readers at a time; further ones are refused.
MAX_STREAMS = 64
#: After this time without an event a comment is sent, which shows whether the reader is still there.
QUIET_S = 2.0
STILL_HERE = b": still here\n\n"


class Streams:
    """All streams of a view: at most `MAX_STREAMS`."""

    def __init__(self) -> None:
        self.open = 0

    def serve(self, stream: Callable[[Request], AsyncIterator[bytes]]) -> ASGIApp:
        """An application that answers each request with its own stream."""
        return _Stream(self, stream)


@dataclass(frozen=True, slots=True)
class _Stream:
    _all: Streams
    _stream: Callable[[Request], AsyncIterator[bytes]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            return await problem(405, "events need GET")(scope, receive, send)
        if self._all.open >= MAX_STREAMS:
            full = problem(503, f"{MAX_STREAMS} pages are open; close some", close=True)
            return await full(scope, receive, send)
        events = self._stream(Request(scope))
        answer = StreamingResponse(
            events, media_type="text/event-stream", headers={"Connection": "close"}
        )
        self._all.open += 1
        try:
            await answer(scope, receive, send)
        finally:
            self._all.open -= 1


class Waker:
    """Wakes a stream from another thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Report a change; may be called in any thread."""
        if not self._changed.is_set():
            with suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._changed.set)

    def clear(self) -> None:
        """Forget the changes so far; call this before reading the state."""
        self._changed.clear()

    async def wait(self) -> bool:
        """Wait for a change; False if there was none for `QUIET_S`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                return await self._changed.wait()
        return False
