"""Server-sent events: the state as it changes, notices of new frames, and the outcome of each frame.

A notice has no pixels: a page asks for the newest frame when it has drawn the last one, so a
slow page gets fewer frames and never late ones.

Outcomes are for scripts that image some frames again.  All readers read one bounded log, each at
its own pace.  A reader that falls behind the log is told how many outcomes it missed; the server
drops one that stops reading.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.routing import Route

from refocusd.errors import InputError
from refocusd.transport.messages import FrameOutcome
from refocusd.view.http.query import Query
from refocusd.view.http.streams import STILL_HERE, Streams, Waker
from refocusd.view.json_text import json_bytes
from refocusd.view.state.gpu import GpuMonitor
from refocusd.view.state.jobs import Jobs
from refocusd.view.state.link import MAX_FPS
from refocusd.view.state.report import status_json
from refocusd.view.state.view_state import News, Preview, ViewState

#: Notices per second to all pages together: fifty pages must not keep a core busy.
MAX_NOTICES_PER_S = 150.0
VERDICTS = frozenset({"trusted", "doubtful", "untrusted", "passed_through", "none"})


def event_routes(state: ViewState, gpus: GpuMonitor, jobs: Jobs, streams: Streams) -> list[Route]:
    """``events`` and ``outcomes`` of the API."""

    def outcomes(request: Request) -> AsyncIterator[bytes]:
        query = Query(request)
        verdicts = frozenset(filter(None, query.text("verdict").split(",")))
        if unknown := verdicts - VERDICTS:
            raise InputError(
                f"verdict {min(unknown)!r} does not exist; there are: {', '.join(sorted(VERDICTS))}"
            )
        after = query.text("after") or request.headers.get("Last-Event-ID", "")
        wanted = _Wanted(
            verdicts or VERDICTS, query.text("acquisition"), query.text("follow") != "false"
        )
        return _outcomes(state, after, wanted)

    events = _Events(state, gpus, jobs).stream
    return [
        Route("/events", streams.serve(events), methods=["GET"]),
        Route("/outcomes", streams.serve(outcomes), methods=["GET"]),
    ]


class _Events:
    """The stream for pages: the state (``status``), the jobs (``jobs``), the newest frame (``frame``).

    Their data are JSON; of the newest frame, its id and axes.  The state comes at most as often as
    the daemon is asked for it, a frame at most `MAX_FPS` times per second, less often with many pages.
    """

    def __init__(self, state: ViewState, gpus: GpuMonitor, jobs: Jobs) -> None:
        self._state = state
        self._gpus = gpus
        self._jobs = jobs
        # Encoded once, because all pages get the same status.
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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The outcomes to send; with `follow` also those to come."""

    verdicts: frozenset[str]
    acquisition: str
    follow: bool

    def __contains__(self, outcome: FrameOutcome) -> bool:
        return (outcome.verdict or "none") in self.verdicts and (
            self.acquisition in ("", outcome.acquisition, outcome.name)
        )


async def _outcomes(state: ViewState, after: str, wanted: _Wanted) -> AsyncIterator[bytes]:
    """Events ``outcome`` and ``missed``, from now on or from after an event's id."""
    waker = Waker()
    yield b"retry: 1000\n\n"
    with state.listening(waker.wake):
        log = state.outcomes
        serial = _serial_after(state, after)
        while not state.closed:
            waker.clear()
            current = state.outcomes
            batch = log.after(serial)
            if batch.missed:
                yield b"event: missed\ndata: " + json_bytes({"frames": batch.missed}) + b"\n\n"
            first = batch.serial - len(batch.outcomes) + 1
            events = [
                _event(f"{state.boot}-{log.id}-{number}", outcome)
                for number, outcome in enumerate(batch.outcomes, first)
                if outcome in wanted
            ]
            if events:
                yield b"".join(events)
            serial = batch.serial
            if batch.outcomes:
                continue
            if log is not current:  # another daemon, whose outcomes start from 0
                log, serial = current, 0
            elif not wanted.follow:
                return
            elif not await waker.wait():
                yield STILL_HERE


def _serial_after(state: ViewState, after: str) -> int:
    """The serial number in an event's id.

    An id that this view did not give, such as one from before a restart of view or daemon, stands
    for the oldest outcome that is kept: an outcome may be sent twice, but none is skipped.
    """
    if not after:
        return state.outcomes.serial
    known, _, serial = after.rpartition("-")
    if known != f"{state.boot}-{state.outcomes.id}" or not (serial.isascii() and serial.isdigit()):
        return 0
    return int(serial)


def _event(name: str, outcome: FrameOutcome) -> bytes:
    about: dict[str, Any] = {**msgspec.structs.asdict(outcome), "axes": json.loads(outcome.axes)}
    return b"event: outcome\nid: " + name.encode() + b"\ndata: " + json_bytes(about) + b"\n\n"
