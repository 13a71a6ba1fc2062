"""Server-sent events: the state as it changes, and notices of new frames.

A notice has no pixels: a page asks for the newest frame when it has drawn the last one, so a
slow page gets fewer frames and never late ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.routing import Route

from refocusd.view.http.streams import STILL_HERE, Streams, Waker
from refocusd.view.json_text import json_bytes
from refocusd.view.state.gpu import GpuMonitor
from refocusd.view.state.jobs import Jobs
from refocusd.view.state.link import MAX_FPS
from refocusd.view.state.report import status_json
from refocusd.view.state.view_state import News, Preview, ViewState

#: Notices a second, of all pages together: fifty pages must not take a processor.
MAX_NOTICES_PER_S = 150.0


def event_routes(state: ViewState, gpus: GpuMonitor, jobs: Jobs, streams: Streams) -> list[Route]:
    """``events`` of the API."""
    return [Route("/events", streams.serve(_Events(state, gpus, jobs).stream), methods=["GET"])]


class _Events:
    """``event: status`` and ``event: jobs`` carry what they name as JSON, ``event: frame`` names the newest frame.

    The state comes at most as often as the daemon is asked for it, the id and axes of the newest
    frame at most `MAX_FPS` times a second, fewer with many pages.
    """

    def __init__(self, state: ViewState, gpus: GpuMonitor, jobs: Jobs) -> None:
        self._state = state
        self._gpus = gpus
        self._jobs = jobs
        # All pages get the same status: it is encoded once.
        self._encoded = (-1, b"")

    async def stream(self, _request: Request) -> AsyncIterator[bytes]:
        """The events of one page."""
        loop = asyncio.get_running_loop()
        waker = Waker()
        yield b"retry: 1000\n\n"
        known = News(-1, -1, -1)
        with self._state.page(waker.wake):
            while not self._state.closed:
                begun = loop.time()
                waker.clear()
                news = self._state.news
                if news == known:
                    if not await waker.wait():
                        yield STILL_HERE
                    continue
                if news.status != known.status:
                    yield b"event: status\ndata: " + await self._status(news.status) + b"\n\n"
                if news.jobs != known.jobs:
                    yield b"event: jobs\ndata: " + json_bytes(self._jobs.summary()) + b"\n\n"
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
