"""Server-sent events: what became of each frame, for scripts that image some again.

All readers read one bounded log, each at its own pace.  Who is slower than the log is told how many
outcomes were missed; who reads nothing for long is dropped by the server.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from refocusd.errors import InputError
from refocusd.transport.messages import FrameOutcome
from refocusd.view.http.query import Query
from refocusd.view.http.streams import STILL_HERE, Streams, Waker
from refocusd.view.json_text import json_bytes
from refocusd.view.state.view_state import ViewState

VERDICTS = frozenset({"trusted", "doubtful", "untrusted", "passed_through", "none"})


def outcome_routes(state: ViewState, streams: Streams) -> list[Route]:
    """``outcomes`` of the API."""

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
        return _stream(state, after, wanted)

    return [Route("/outcomes", streams.serve(outcomes), methods=["GET"])]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which outcomes, and whether those to come as well."""

    verdicts: frozenset[str]
    acquisition: str
    follow: bool

    def __contains__(self, outcome: FrameOutcome) -> bool:
        return (outcome.verdict or "none") in self.verdicts and (
            self.acquisition in ("", outcome.acquisition, outcome.name)
        )


async def _stream(state: ViewState, after: str, wanted: _Wanted) -> AsyncIterator[bytes]:
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
            if log is not current:  # another daemon, whose outcomes begin anew
                log, serial = current, 0
            elif not wanted.follow:
                return
            elif not await waker.wait():
                yield STILL_HERE


def _serial_after(state: ViewState, after: str) -> int:
    """The serial of an event's id.

    An id that this view has not given, as before a restart of view or daemon, stands for the
    oldest outcome that is kept: a frame may be told twice, and none is passed over.
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
