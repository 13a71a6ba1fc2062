"""The answers that every address gives: JSON, bytes in pieces, and errors in words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse

from refocusd.view.json_text import json_bytes

#: A slow reader holds so much of an answer in the server's buffers.
PIECE_NBYTES = 1 << 18


class BytesResponse(StreamingResponse):
    """A large body, written as fast as its reader takes it."""

    def __init__(self, body: bytes, media_type: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(_pieces(body), media_type=media_type, headers=headers)
        self.headers["Content-Length"] = str(len(body))


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with `value` as JSON."""
    return Response(json_bytes(value), status, headers, media_type="application/json")


def problem(status: int, reason: str, *, close: bool = False) -> Response:
    """Say why there is no other answer; `close` ends the connection as well."""
    return json_response({"error": reason}, status, {"Connection": "close"} if close else None)


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    for start in range(0, len(body), PIECE_NBYTES):
        yield memoryview(body)[start : start + PIECE_NBYTES]
