"""Which address answers what.

====================================  ==================================================
``GET /``, ``/static/NAME``           the page
``GET /health``                       200 once a worker is ready, else 503 and why
``GET /metrics``                      Prometheus
``GET /api/status``                   state of daemon and view, JSON
``GET /api/events``                   the same as it changes, and notices of new frames
                                      (`refocusd.view.http.stream`)
``GET /api/history``                  focus scores of the frames shown so far
``GET /api/axes``                     what there is to choose from: ``acquisition``
``GET /api/frame/latest``             the newest frame reduced: ``side``, ``match``, ``after``
``GET /api/frame``                    any frame from disk: ``acquisition``, ``axes``, and
                                      ``side``, or ``left top width height`` in full
``GET /api/pixel``                    counts of one pixel: ``acquisition axes x y``
``GET /api/snapshot.png``, ``.tif``   both frames as a file: ``acquisition axes low high``
``POST /api/pause``                   ``{"on": true}``: send no frames to workers
``POST /api/catch-up``                ``{"on": true}``: catch up while idle
====================================  ==================================================
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

from refocusd.errors import InputError
from refocusd.frame import Pixels
from refocusd.transport.messages import CatchUp, Pause
from refocusd.view.frames.datasets import Datasets, FramePair
from refocusd.view.frames.encode import (
    frame_bytes,
    pair_header,
    preview_header,
    reduced,
    step_for,
)
from refocusd.view.frames.snapshot import Window, png_snapshot, tiff_snapshot
from refocusd.view.http.metrics import CONTENT_TYPE, metrics_text
from refocusd.view.http.query import Query
from refocusd.view.state.board import DEFAULT_SIDE, Board
from refocusd.view.state.gpu import GpuMonitor
from refocusd.view.state.link import DaemonLink
from refocusd.view.state.report import health, json_bytes, status_report

__all__ = ["Answer", "Routes", "json_answer", "problem"]

log = logging.getLogger(__name__)

#: Longest side of a preview, and of a crop in full resolution, in pixels.
MIN_SIDE, MAX_SIDE = 64, 4096
#: Answers for the newest frames that are kept for the next page.
MAX_CACHED = 4
#: Snapshots and reads from disk at a time: each takes memory and processor time.
MAX_HEAVY = 2
HEAVY_WAIT_S = 10.0

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: int
    content_type: str
    body: tuple[bytes | memoryview, ...]
    headers: Mapping[str, str] = field(default_factory=dict)


def json_answer(value: Any, status: int = 200) -> Answer:
    """A JSON object."""
    return Answer(status, "application/json", (json_bytes(value),))


def problem(status: int, reason: str) -> Answer:
    """Why there is no other answer."""
    return json_answer({"error": reason}, status)


class Routes:
    """Answers requests that the guard let pass.

    Parameters
    ----------
    board, link, datasets, gpus
        See their classes.
    """

    def __init__(
        self, board: Board, link: DaemonLink, datasets: Datasets, gpus: GpuMonitor
    ) -> None:
        self._board = board
        self._link = link
        self._datasets = datasets
        self._gpus = gpus
        # Read once: an address is looked up here, and never becomes a path.
        self._static = {
            item.name: item.read_bytes()
            for item in (files("refocusd.view") / "static").iterdir()
            if item.is_file()
        }
        self._heavy = threading.BoundedSemaphore(MAX_HEAVY)
        self._cached: OrderedDict[tuple[int, int], tuple[bytes | memoryview, ...]] = OrderedDict()
        self._cache_lock = threading.Lock()
        light: dict[str, Callable[[Query], Answer]] = {
            "/health": self._health,
            "/metrics": self._metrics,
            "/api/status": self._status,
            "/api/history": self._history,
            "/api/frame/latest": self._latest,
        }
        heavy: dict[str, Callable[[Query], Answer]] = {
            "/api/axes": self._axes,
            "/api/frame": self._frame,
            "/api/pixel": self._pixel,
            "/api/snapshot.png": self._png,
            "/api/snapshot.tif": self._tiff,
        }
        self._gets = light | heavy
        self._is_heavy = frozenset(heavy)

    def get(self, path: str, text: str) -> Answer:
        """Answer ``GET path?text``."""
        if path == "/":
            return self._file("index.html")
        if path.startswith("/static/"):
            return self._file(path.removeprefix("/static/"))
        route = self._gets.get(path)
        if route is None:
            return problem(404, f"there is nothing at {path[:200]!r}")
        try:
            query = Query(text)
            if path not in self._is_heavy:
                return route(query)
            if not self._heavy.acquire(timeout=HEAVY_WAIT_S):
                return problem(503, "too many frames are being read; ask again")
            try:
                return route(query)
            finally:
                self._heavy.release()
        except InputError as error:
            return problem(400, str(error))
        except Exception:
            log.exception("GET %s", path)
            return problem(500, "internal error of the view; see its log")

    def post(self, path: str, body: bytes) -> Answer:
        """Answer ``POST path`` with a JSON body."""
        if path not in ("/api/pause", "/api/catch-up"):
            return problem(405 if path in self._gets else 404, f"{path[:200]!r} takes no orders")
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            asked = None
        on = asked.get("on") if isinstance(asked, dict) else None
        if not isinstance(on, bool):
            return problem(400, 'say {"on": true} or {"on": false}')
        if not self._link.order(Pause(on) if path == "/api/pause" else CatchUp(on)):
            return problem(503, self._board.link[1] or "the daemon has too many orders; ask again")
        return json_answer({"asked": {"on": on}}, 202)

    def status_bytes(self) -> bytes:
        """The state, as the page's events carry it."""
        return json_bytes(status_report(self._board, self._gpus.read()))

    # -- light --------------------------------------------------------------------------

    def _file(self, name: str) -> Answer:
        data = self._static.get(name)
        kind = _TYPES.get("." + name.rpartition(".")[2])
        if data is None or kind is None:
            return problem(404, "there is no such file")
        return Answer(200, kind, (data,))

    def _health(self, _query: Query) -> Answer:
        now = health(self._board)
        return json_answer(asdict(now), 200 if now.ready else 503)

    def _metrics(self, _query: Query) -> Answer:
        text = metrics_text(self._board, self._gpus.read())
        return Answer(200, CONTENT_TYPE, (text.encode(),))

    def _status(self, _query: Query) -> Answer:
        return Answer(200, "application/json", (self.status_bytes(),))

    def _history(self, _query: Query) -> Answer:
        return json_answer({"focus": [asdict(point) for point in self._board.focus()]})

    def _latest(self, query: Query) -> Answer:
        side = query.number("side", MIN_SIDE, MAX_SIDE, DEFAULT_SIDE)
        self._board.looks(side)
        preview = self._board.newest(query.axes("match"), query.text("acquisition"))
        if preview is None or query.text("after") == f"{self._board.boot}-{preview.number}":
            return Answer(204, "application/octet-stream", ())
        # What came may be finer than this page wants.
        more = step_for(preview.raw.shape[0], preview.raw.shape[1], side)
        with self._cache_lock:
            body = self._cached.get((preview.number, more))
        if body is None:
            header = preview_header(self._board, preview, preview.shown.step * more)
            body = frame_bytes(header, reduced(preview.raw, more), reduced(preview.refocused, more))
            with self._cache_lock:
                self._cached[preview.number, more] = body
                while len(self._cached) > MAX_CACHED:
                    self._cached.popitem(last=False)
        return Answer(200, "application/octet-stream", body)

    # -- heavy --------------------------------------------------------------------------

    def _axes(self, query: Query) -> Answer:
        detail, frames, values = self._datasets.axes(query.text("acquisition"))
        return json_answer({"acquisition": detail.id, "frames": frames, "axes": values})

    def _frame(self, query: Query) -> Answer:
        pair = self._pair(query)
        if isinstance(pair, Answer):
            return pair
        height, width = _shape(pair)
        if query.has("width"):
            left = query.number("left", 0, width - 1)
            top = query.number("top", 0, height - 1)
            right = min(width, left + query.number("width", 1, MAX_SIDE))
            bottom = min(height, top + query.number("height", 1, MAX_SIDE))
            header = pair_header(pair, 1, left, top)
            parts = [_cut(p, left, top, right, bottom) for p in (pair.raw, pair.refocused)]
        else:
            side = query.number("side", MIN_SIDE, MAX_SIDE, DEFAULT_SIDE)
            step = step_for(height, width, side)
            header = pair_header(pair, step)
            parts = [
                reduced(p, step) if p is not None else None for p in (pair.raw, pair.refocused)
            ]
        return Answer(200, "application/octet-stream", frame_bytes(header, *parts))

    def _pixel(self, query: Query) -> Answer:
        pair = self._pair(query)
        if isinstance(pair, Answer):
            return pair
        height, width = _shape(pair)
        x, y = query.number("x", 0, width - 1), query.number("y", 0, height - 1)
        counts = {
            name: int(pixels[y, x]) if pixels is not None else None
            for name, pixels in (("raw", pair.raw), ("refocused", pair.refocused))
        }
        return json_answer({"x": x, "y": y, **counts})

    def _png(self, query: Query) -> Answer:
        return self._snapshot(query, png_snapshot, "image/png", "png")

    def _tiff(self, query: Query) -> Answer:
        return self._snapshot(query, tiff_snapshot, "image/tiff", "tif")

    def _snapshot(
        self,
        query: Query,
        make: Callable[[FramePair, Window | None], bytes],
        content_type: str,
        ending: str,
    ) -> Answer:
        pair = self._pair(query)
        if isinstance(pair, Answer):
            return pair
        window = None
        if query.has("low") or query.has("high"):
            low = query.number("low", 0, 65535)
            window = Window(low, query.number("high", low + 1, 65536))
        name = "".join(c if c.isascii() and c.isalnum() else "-" for c in pair.acquisition.name)
        place = "_".join(
            "".join(c for c in f"{axis}{value}" if c.isascii() and c.isalnum())
            for axis, value in json.loads(pair.key).items()
        )
        disposition = f'attachment; filename="{name[:80]}_{place[:80]}_refocusd.{ending}"'
        body = make(pair, window)
        return Answer(200, content_type, (body,), {"Content-Disposition": disposition})

    def _pair(self, query: Query) -> FramePair | Answer:
        """The frame asked for; without axes the newest."""
        acquisition = query.text("acquisition")
        if query.has("axes"):
            key = query.key()
        else:
            preview = self._board.newest(acquisition=acquisition)
            if preview is None:
                return problem(404, "no frame has been shown yet")
            acquisition, key = preview.shown.acquisition, preview.shown.axes
        try:
            pair = self._datasets.pair(acquisition, key)
        except InputError as error:
            return problem(404, str(error))
        raw, refocused = pair.raw, pair.refocused
        if raw is not None and refocused is not None and raw.shape != refocused.shape:
            return problem(409, "the raw and the refocused frame are of different sizes")
        return pair


def _shape(pair: FramePair) -> tuple[int, int]:
    pixels = pair.raw if pair.raw is not None else pair.refocused
    assert pixels is not None
    return pixels.shape[0], pixels.shape[1]


def _cut(pixels: Pixels | None, left: int, top: int, right: int, bottom: int) -> Pixels | None:
    return None if pixels is None else pixels[top:bottom, left:right].copy()
