"""The fields and the body of a request, checked."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import parse_qs

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from refocusd.errors import InputError
from refocusd.frame import AxisValue, canonical_axes, plain_axes

MAX_FIELDS = 16
MAX_TEXT_CHARS = 2048


T = TypeVar("T")


async def body_of(request: Request, kind: type[T], wrong: str) -> T:
    """The JSON of a request's body.

    Raises
    ------
    HTTPException
        With status 400, `wrong` and the reason, if it is not a `kind`.
    """
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"{wrong}: {error}") from error


class Query:
    """The part of an address after ``?``.

    Raises
    ------
    InputError
        If it cannot be parsed.  The methods raise it too, and name the field that is wrong.
    """

    def __init__(self, request: Request) -> None:
        text: bytes = request.scope["query_string"]
        try:
            fields = parse_qs(
                text.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(text),
                max_num_fields=MAX_FIELDS,
                errors="strict",
            )
        except ValueError as error:
            raise InputError(f"the address cannot be understood: {error}") from error
        for name, values in fields.items():
            if len(values) > 1:
                raise InputError(f"{name!r} is given twice")
            if len(values[0]) > MAX_TEXT_CHARS:
                raise InputError(f"{name!r} is too long")
        self._fields = {name: values[0] for name, values in fields.items()}

    def has(self, name: str) -> bool:
        """Whether a field is given."""
        return name in self._fields

    def text(self, name: str, default: str = "") -> str:
        """A field as it is."""
        return self._fields.get(name, default)

    def number(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A field that must be a whole number from `low` to `high`."""
        text = self._fields.get(name)
        if text is None and default is not None:
            return default
        digits = (text or "").removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 12):
            raise InputError(f"{name!r} must be a whole number")
        value = int(text or "")
        if not low <= value <= high:
            raise InputError(f"{name} = {value}: it must lie between {low} and {high}")
        return value

    def axes(self, name: str = "axes") -> dict[str, AxisValue]:
        """A field that must be axes as a JSON object, for example ``{"channel":"DAPI","z":3}``."""
        try:
            value = msgspec.json.decode(self.text(name, "{}"), type=dict[str, object])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise InputError(f"{name!r} must be a JSON object of axes") from error
        return plain_axes(value)

    def key(self, name: str = "axes") -> str:
        """A field of axes in their canonical form."""
        return canonical_axes(self.axes(name))
