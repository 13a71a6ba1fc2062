"""Server-sent events: the state as it changes, and notices of new frames.

https://html.spec.whatwg.org/multipage/server-sent-events.html.  A notice has no
pixels: a page asks for the newest frame when it has drawn the last one, so a
slow page gets fewer frames and never late ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from refocusd.view.state.board import Board, News
from refocusd.view.state.link import MAX_FPS
from refocusd.view.state.report import json_bytes

__all__ = ["event_stream"]

#: Notices a second, of all pages together: fifty pages must not take a processor.
MAX_NOTICES_PER_S = 150.0
#: A line at least so often, so that a page that is gone is noticed.
QUIET_S = 2.0


def event_stream(board: Board, status: Callable[[], bytes]) -> Iterator[bytes]:
    """Events for one page, until the view ends.

    ``event: status`` with the state as JSON (at most as often as the daemon is
    asked for it), ``event: frame`` with the id and axes of the newest frame (at
    most `MAX_FPS` a second, fewer with many pages).
    """
    yield b"retry: 1000\n\n"
    known = News(-1, -1)
    while not board.closed:
        begun = time.monotonic()
        news = board.wait(known, QUIET_S)
        if news == known:
            yield b": still here\n\n"
            continue
        if news.status != known.status:
            yield b"event: status\ndata: " + status() + b"\n\n"
        if news.preview != known.preview and (preview := board.newest()) is not None:
            notice = {
                "id": f"{board.boot}-{preview.number}",
                "acquisition": preview.shown.acquisition,
                "axes": dict(preview.axes),
            }
            yield b"event: frame\ndata: " + json_bytes(notice) + b"\n\n"
        known = news
        pause_s = max(1 / MAX_FPS, board.pages / MAX_NOTICES_PER_S)
        time.sleep(max(0.0, begun + pause_s - time.monotonic()))
