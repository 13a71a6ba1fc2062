"""Answers that all addresses share: JSON, bytes in pieces, and errors in words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse

from refocusd.view.json_text import json_bytes

#: Large answers are written in pieces, so that a slow reader keeps few bytes in the server's buffers.
PIECE_NBYTES = 1 << 18


_ENTRY = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>refocusd: token</title>
<style>
:root { color-scheme: light dark; }
body { max-width: 36em; margin: 4em auto; padding: 0 1em; font: 16px/1.5 system-ui, sans-serif; }
input, button { font: inherit; padding: .2em .5em; }
</style>
<main><h1>refocusd</h1><p role="alert">SAIDThis page is for the user who started refocusd.
Open it with the address that <code>refocusd run</code> prints, or with <code>refocusd view --open</code>;
afterwards this browser remembers the token. Or enter the token, which is the end of that address:</p>
<form action="/"><label>Token <input name="token" autofocus required autocomplete="off" spellcheck="false"></label>
<button>Open</button></form></main></html>
"""


class BytesResponse(StreamingResponse):
    """A large body, written as fast as its reader reads it."""

    def __init__(self, body: bytes, media_type: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(_pieces(body), media_type=media_type, headers=headers)
        self.headers["Content-Length"] = str(len(body))


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with `value` as JSON."""
    return Response(json_bytes(value), status, headers, media_type="application/json")


def problem(status: int, reason: str, *, close: bool = False) -> Response:
    """An error and its reason; `close` ends the connection as well."""
    return json_response({"error": reason}, status, {"Connection": "close"} if close else None)


def entry_page(*, wrong: bool) -> Response:
    """A page that asks for the token; `wrong` if a wrong one was given."""
    # Its style is within the page, because the other files need the token.
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    body = _ENTRY.replace("SAID", "This is not the token of this view. " if wrong else "")
    headers = {"Content-Security-Policy": policy, "Connection": "close"}
    return Response(body, 401, headers, media_type="text/html")


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    for start in range(0, len(body), PIECE_NBYTES):
        yield memoryview(body)[start : start + PIECE_NBYTES]
