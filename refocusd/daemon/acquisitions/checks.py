"""What a message must be, beyond its type, before the broker acts on it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from refocusd.errors import InputError, TransportError
from refocusd.frame import MIN_SIDE, canonical_axes
from refocusd.transport import messages as wire
from refocusd.transport.client import MAX_METADATA_CHARS

__all__ = ["channels_of", "check_frame", "check_open", "check_same"]

MAX_AXES_CHARS = 4096


def check_open(message: wire.Open) -> None:
    """Refuse an acquisition that cannot be.

    Raises
    ------
    InputError
    """
    if min(message.height, message.width) < MIN_SIDE:
        raise InputError(f"frames of {message.width}×{message.height} px are too small")
    if message.preview and (message.raw or message.output):
        raise InputError("a preview is written nowhere: it has neither raw data nor an output")
    if not (message.raw or message.output or message.preview):
        raise InputError("an acquisition without raw data needs an output folder")
    for what, path in (("raw", message.raw), ("output", message.output)):
        # Relative to whose folder?  The source and the daemon need not share one.
        if path and not Path(path).is_absolute():
            raise InputError(f"the {what} folder {path!r} of an acquisition is no absolute path")
    if message.raw and message.output and Path(message.output).is_relative_to(message.raw):
        raise InputError(f"{message.output} lies in the raw dataset: choose a folder beside it")
    if len(message.summary) > MAX_METADATA_CHARS:
        raise InputError("the summary metadata is larger than 1 MiB")
    _check_first(message.first)


def _check_first(first: str) -> None:
    if len(first) > MAX_METADATA_CHARS:
        raise InputError("the metadata of the first frame are larger than 1 MiB")
    try:
        msgspec.json.decode(first or "{}", type=dict[str, object])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(f"the metadata of the first frame are no JSON object: {error}") from error


def check_same(known: wire.Open, message: wire.Open) -> None:
    """Refuse a source that comes back to an acquisition with another one.

    Raises
    ------
    InputError
    """
    for name in ("height", "width", "dtype", "raw", "output"):
        if getattr(known, name) != getattr(message, name):
            raise InputError(
                f"acquisition {message.acquisition} is open already, with another {name}"
            )


def check_frame(message: wire.Submit) -> None:
    """Refuse a frame whose header is too large, or whose axes are none.

    Raises
    ------
    TransportError
    """
    if len(message.axes) > MAX_AXES_CHARS or len(message.metadata) > MAX_METADATA_CHARS:
        raise TransportError("axes or metadata of a frame are too large")
    try:
        axes = msgspec.json.decode(message.axes, type=dict[str, int | str])
    except msgspec.DecodeError as error:
        raise TransportError(f"axes {message.axes!r} are not axes: {error}") from error
    if canonical_axes(axes) != message.axes:
        raise TransportError(f"axes {message.axes!r} are not in canonical form")


def channels_of(message: wire.Submit) -> list[str]:
    """Names of a frame's channel: that of its axes, and (where these only count) its metadata's."""
    named = [msgspec.json.decode(message.axes, type=dict[str, int | str]).get("channel")]
    try:
        metadata = msgspec.json.decode(message.metadata)
        named.append(metadata.get("Channel"))
    except (msgspec.MsgspecError, ValueError, AttributeError):
        pass  # odd metadata are told where they are written
    return [name for name in named if isinstance(name, str)]
