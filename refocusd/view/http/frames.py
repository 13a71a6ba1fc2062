"""Pixels: previews of the newest frame, any frame from disk, and snapshots."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from refocusd.errors import InputError
from refocusd.view.frames.datasets import Datasets, FramePair
from refocusd.view.frames.encode import Region, pair_bytes, preview_bytes, step_for
from refocusd.view.frames.snapshot import Window, png_snapshot, tiff_snapshot
from refocusd.view.http.answers import BytesResponse, json_response, problem
from refocusd.view.http.query import Query
from refocusd.view.state.view_state import DEFAULT_SIDE, ViewState

#: Limits for the longest side of a preview, in pixels; the second also for a full-resolution crop.
MIN_SIDE, MAX_SIDE = 64, 4096
#: At most this many encoded previews are kept for other pages.
MAX_CACHED = 4
#: At most this many reads from disk and snapshots run at a time: each takes memory and time.
MAX_READING = 2
READING_WAIT_S = 10.0
_PIXELS = "application/octet-stream"


def frame_routes(state: ViewState, datasets: Datasets) -> list[Route]:
    """The API's routes for frames."""
    frames = _Frames(state, datasets)
    reading = asyncio.Semaphore(MAX_READING)

    def one_of_few(endpoint: Callable[[Query], Response]) -> Callable[..., Awaitable[Response]]:
        async def limited(request: Request) -> Response:
            try:
                async with asyncio.timeout(READING_WAIT_S):
                    await reading.acquire()
            except TimeoutError:
                return problem(503, "too many frames are being read; try again")
            try:
                return await run_in_threadpool(endpoint, Query(request))
            finally:
                reading.release()

        return limited

    return [
        Route("/frame/latest", frames.latest),
        Route("/frame", one_of_few(frames.from_disk)),
        Route("/axes", one_of_few(frames.axes)),
        Route("/pixel", one_of_few(frames.pixel)),
        Route("/snapshot.png", one_of_few(frames.png)),
        Route("/snapshot.tif", one_of_few(frames.tiff)),
    ]


class _Frames:
    """Each method answers one address, in a thread."""

    def __init__(self, state: ViewState, datasets: Datasets) -> None:
        self._state = state
        self._datasets = datasets
        # Many pages ask for the same preview.
        self._preview_bytes = lru_cache(MAX_CACHED)(preview_bytes)

    def latest(self, request: Request) -> Response:
        query = Query(request)
        side = query.number("side", MIN_SIDE, MAX_SIDE, DEFAULT_SIDE)
        self._state.looks(side)
        preview = self._state.newest(query.axes("match"), query.text("acquisition"))
        if preview is None or query.text("after") == self._state.id_of(preview):
            return Response(status_code=204)
        # The preview may be finer than this page wants.
        step = step_for(preview.raw.shape, side)
        return BytesResponse(self._preview_bytes(self._state, preview, step), _PIXELS)

    def from_disk(self, query: Query) -> Response:
        pair = self._pair(query)
        height, width = pair.shape
        if query.has("width"):
            left = query.number("left", 0, width - 1)
            top = query.number("top", 0, height - 1)
            right = min(width, left + query.number("width", 1, MAX_SIDE))
            bottom = min(height, top + query.number("height", 1, MAX_SIDE))
            region = Region(left, top, right, bottom)
        else:
            side = query.number("side", MIN_SIDE, MAX_SIDE, DEFAULT_SIDE)
            region = Region(0, 0, width, height, step_for(pair.shape, side))
        return BytesResponse(pair_bytes(pair, region), _PIXELS)

    def axes(self, query: Query) -> Response:
        detail, frames, values = self._datasets.axes(query.text("acquisition"))
        return json_response({"acquisition": detail.id, "frames": frames, "axes": values})

    def pixel(self, query: Query) -> Response:
        pair = self._pair(query)
        height, width = pair.shape
        x, y = query.number("x", 0, width - 1), query.number("y", 0, height - 1)
        counts = {name: int(pixels[y, x]) for name, pixels in pair.frames.items()}
        return json_response({"x": x, "y": y, "raw": None, "refocused": None, **counts})

    def png(self, query: Query) -> Response:
        return self._snapshot(query, png_snapshot, "png")

    def tiff(self, query: Query) -> Response:
        return self._snapshot(query, tiff_snapshot, "tif")

    def _snapshot(
        self, query: Query, make: Callable[[FramePair, Window | None], bytes], ending: str
    ) -> Response:
        pair = self._pair(query)
        window = None
        if query.has("low") or query.has("high"):
            low = query.number("low", 0, 65535)
            window = Window(low, query.number("high", low + 1, 65536))
        name = re.sub("[^A-Za-z0-9]", "-", pair.acquisition.name)
        values = (f"{axis}{value}" for axis, value in json.loads(pair.key).items())
        axes = "_".join(re.sub("[^A-Za-z0-9]", "", value) for value in values)
        disposition = f'attachment; filename="{name[:80]}_{axes[:80]}_refocusd.{ending}"'
        media_type = "image/tiff" if ending == "tif" else "image/png"
        return BytesResponse(make(pair, window), media_type, {"Content-Disposition": disposition})

    def _pair(self, query: Query) -> FramePair:
        """The requested frame; without axes, the newest."""
        acquisition = query.text("acquisition")
        if query.has("axes"):
            key = query.key()
        else:
            preview = self._state.newest(acquisition=acquisition)
            if preview is None:
                raise HTTPException(404, "no frame has been shown yet")
            acquisition, key = preview.shown.acquisition, preview.shown.axes
        try:
            pair = self._datasets.pair(acquisition, key)
        except InputError as error:
            raise HTTPException(404, str(error)) from error
        if len({pixels.shape for pixels in pair.frames.values()}) > 1:
            raise HTTPException(409, "the raw and the refocused frame are of different sizes")
        return pair
