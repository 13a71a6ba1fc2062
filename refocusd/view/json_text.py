"""JSON for the page."""

from __future__ import annotations

from typing import Any

import msgspec


def json_bytes(value: Any) -> bytes:
    """Compact JSON; numbers that are not finite become null."""
    return msgspec.json.encode(value, enc_hook=str)
