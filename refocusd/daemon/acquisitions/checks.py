"""What a message must satisfy, beyond its type, before the broker acts on it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from refocusd.config import Settings, Untrusted
from refocusd.errors import InputError, TransportError
from refocusd.formats.metadata import json_object
from refocusd.frame import MIN_SIDE, canonical_axes
from refocusd.transport import messages as wire
from refocusd.transport.client import MAX_METADATA_CHARS

#: Largest length of a frame's axes, of an acquisition's name, and of the reason for a missed frame.
MAX_TEXT_CHARS = 4096


def check_open(message: wire.Open) -> None:
    """Refuse an acquisition that cannot be refocused.

    Raises
    ------
    InputError
        With the reason, and what to do.
    """
    # They are part of every `Status`, so they have to be short.
    for what, text in (("name", message.name), ("raw", message.raw), ("output", message.output)):
        if len(text) > MAX_TEXT_CHARS:
            raise InputError(
                f"the {what} of an acquisition has {len(text)} characters; at most {MAX_TEXT_CHARS}"
            )
    if min(message.height, message.width) < MIN_SIDE:
        raise InputError(f"frames of {message.width}×{message.height} px are too small")
    if message.preview and (message.raw or message.output):
        raise InputError("a preview is not written: it must have neither raw data nor an output")
    if not (message.raw or message.output or message.preview):
        raise InputError("an acquisition without raw data needs an output folder")
    for what, path in (("raw", message.raw), ("output", message.output)):
        # The source and the daemon need not have the same working folder.
        if path and not Path(path).is_absolute():
            raise InputError(
                f"the {what} folder {path!r} of an acquisition is not an absolute path"
            )
    # Nothing lies beside the root of a drive.
    beside = not Path(message.raw).name or not Path(message.output).is_relative_to(message.raw)
    if message.raw and message.output and not beside:
        raise InputError(f"{message.output} lies in the raw dataset: choose a folder beside it")
    if len(message.summary) > MAX_METADATA_CHARS:
        raise InputError("the summary metadata is larger than 1 MiB")
    _check_object(message.first, "metadata of the first frame are")
    _check_object(message.recording, "fingerprint of the recording is")


def _check_object(text: str, what: str) -> None:
    if len(text) > MAX_METADATA_CHARS:
        raise InputError(f"the {what} larger than 1 MiB")
    try:
        msgspec.json.decode(text or "{}", type=dict[str, object])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(f"the {what} no JSON object: {error}") from error


def check_same(known: wire.Open, message: wire.Open) -> None:
    """Refuse a source that returns to an acquisition with a different announcement.

    Raises
    ------
    InputError
        If they differ in shape, type or folders.
    """
    for name in ("height", "width", "dtype", "raw", "output"):
        if getattr(known, name) != getattr(message, name):
            raise InputError(
                f"acquisition {message.acquisition} is open already, with another {name}"
            )


def check_frame(message: wire.Submit) -> None:
    """Refuse a frame whose metadata are too large, or whose axes are invalid.

    Raises
    ------
    TransportError
        With the reason.
    """
    if len(message.metadata) > MAX_METADATA_CHARS:
        raise TransportError("the metadata of a frame are larger than 1 MiB")
    _check_axes(message.axes)


def check_miss(message: wire.Miss) -> None:
    """Refuse missed frames whose axes are invalid, or whose reason is too long.

    Raises
    ------
    TransportError
        With the reason.
    """
    if len(message.reason) > MAX_TEXT_CHARS:
        raise TransportError("the reason for a missed frame is too long")
    for axes in message.axes:
        _check_axes(axes)


def _check_axes(text: str) -> None:
    if len(text) > MAX_TEXT_CHARS:
        raise TransportError("the axes of a frame are too large")
    try:
        axes = msgspec.json.decode(text, type=dict[str, int | str])
    except msgspec.DecodeError as error:
        raise TransportError(f"axes {text!r} are not axes: {error}") from error
    if canonical_axes(axes) != text:
        raise TransportError(f"axes {text!r} are not in canonical form")


def channel_of(message: wire.Submit, settings: Settings) -> tuple[str, str]:
    """A frame's channel if it has a model of its own, and the reason if a rule skips the frame."""
    if not (settings.skip_channels or settings.channel_models):
        return "", ""
    names = _channel_names(message)
    if skipped := next((name for name in names if name in settings.skip_channels), ""):
        return "", f"channel {skipped} is not refocused (skip_channels)"
    return next((name for name in names if name in settings.models), ""), ""


def untrusted_of(message: wire.Submit, settings: Settings) -> Untrusted:
    """What is written for a frame whose result is not trusted."""
    if settings.channel_untrusted:
        for name in _channel_names(message):
            if name in settings.channel_untrusted:
                return settings.channel_untrusted[name]  # type: ignore[return-value]
    return settings.untrusted


def _channel_names(message: wire.Submit) -> list[str]:
    """Names of the channel in axes and metadata; both are tried, because some axes hold a number."""
    names = [msgspec.json.decode(message.axes, type=dict[str, int | str]).get("channel")]
    # The writer reports metadata that are not a JSON object.
    names.append((json_object(message.metadata) or {}).get("Channel"))
    return [name for name in names if isinstance(name, str)]
