"""Server-sent events: the state as it changes, and notices of new frames.

https://html.spec.whatwg.org/multipage/server-sent-events.html.  A notice has no
pixels: a page asks for the newest frame when it has drawn the last one, so a
slow page gets fewer frames and never late ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from refocusd.view.http.answers import problem
from refocusd.view.json_text import json_bytes
from refocusd.view.state.gpu import GpuMonitor
from refocusd.view.state.link import MAX_FPS
from refocusd.view.state.report import status_json
from refocusd.view.state.view_state import News, Preview, ViewState

__all__ = ["MAX_STREAMS", "event_routes"]

#: Pages that may be open.
MAX_STREAMS = 64
#: Notices a second, of all pages together: fifty pages must not take a processor.
MAX_NOTICES_PER_S = 150.0
#: A line at least so often, so that a page that is gone is noticed.
QUIET_S = 2.0


def event_routes(state: ViewState, gpus: GpuMonitor) -> list[Route]:
    """``events`` of the API."""
    return [Route("/events", _Events(state, gpus), methods=["GET"])]


class _Events:
    """An ASGI application that streams to a bounded number of pages.

    ``event: status`` carries the state as JSON (at most as often as the daemon is
    asked for it), ``event: frame`` the id and axes of the newest frame (at most
    `MAX_FPS` a second, fewer with many pages).
    """

    def __init__(self, state: ViewState, gpus: GpuMonitor) -> None:
        self._state = state
        self._gpus = gpus
        self._open = 0
        # All pages get the same status: it is encoded once.
        self._encoded = (-1, b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            return await problem(405, "events are for GET")(scope, receive, send)
        if self._open >= MAX_STREAMS:
            full = problem(503, f"{MAX_STREAMS} pages are open; close some", close=True)
            return await full(scope, receive, send)
        self._open += 1
        try:
            await StreamingResponse(
                self._stream(), media_type="text/event-stream", headers={"Connection": "close"}
            )(scope, receive, send)
        finally:
            self._open -= 1

    async def _stream(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:  # called by the daemon link's thread
            if not changed.is_set():
                with suppress(RuntimeError):  # the loop has just ended
                    loop.call_soon_threadsafe(changed.set)

        yield b"retry: 1000\n\n"
        known = News(-1, -1)
        with self._state.page(wake):
            while not self._state.closed:
                begun = loop.time()
                changed.clear()
                news = self._state.news
                if news == known:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(QUIET_S):
                            await changed.wait()
                            continue
                    yield b": still here\n\n"
                    continue
                if news.status != known.status:
                    yield b"event: status\ndata: " + await self._status(news.status) + b"\n\n"
                if news.preview != known.preview and (preview := self._state.newest()) is not None:
                    yield b"event: frame\ndata: " + self._notice(preview) + b"\n\n"
                known = news
                pause_s = max(1 / MAX_FPS, self._state.pages / MAX_NOTICES_PER_S)
                await asyncio.sleep(begun + pause_s - loop.time())

    async def _status(self, number: int) -> bytes:
        if self._encoded[0] != number:
            text = await run_in_threadpool(lambda: status_json(self._state, self._gpus.read()))
            self._encoded = number, text
        return self._encoded[1]

    def _notice(self, preview: Preview) -> bytes:
        return json_bytes(
            {
                "id": self._state.id_of(preview),
                "acquisition": preview.shown.acquisition,
                "axes": preview.axes,
            }
        )
