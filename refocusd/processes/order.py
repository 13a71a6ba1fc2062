"""Orders of a parent to a child: one JSON line on its standard input, as a typed struct.

They are not on the command line, because other users of the machine can read that, and an
order may contain a token.
"""

from __future__ import annotations

import sys
from typing import TypeVar

import msgspec

_Order = TypeVar("_Order", bound=msgspec.Struct)


def encode_order(order: msgspec.Struct) -> bytes:
    """The line that `read_order` reads."""
    return msgspec.json.encode(order) + b"\n"


def tell_parent(told: msgspec.Struct) -> None:
    """Write one line of JSON to standard output, where the parent waits for it."""
    sys.stdout.buffer.write(encode_order(told))
    sys.stdout.buffer.flush()


def read_order(kind: type[_Order]) -> _Order:
    """Read the order that this process got from its parent.

    Raises
    ------
    msgspec.ValidationError
        If the line is not an order of this kind.
    """
    return msgspec.json.decode(sys.stdin.buffer.readline(), type=kind)
