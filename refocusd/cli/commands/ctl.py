"""``refocusd ctl``: shows and changes a running daemon's state, through the API of its live view."""

from __future__ import annotations

import argparse
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refocusd.cli.console import say
from refocusd.cli.flags import add_command
from refocusd.config import DEFAULT_VIEW_PORT
from refocusd.errors import ConfigError, TransportError
from refocusd.processes.background_log import escape_controls
from refocusd.transport.secure.user_keys import derived_secret
from refocusd.view.http.options import LOOPBACK

__all__ = ["register"]

EPILOG = """\
examples:
  refocusd ctl status
  refocusd ctl acquisitions --json
  refocusd ctl pause            no frame is sent to workers until: refocusd ctl resume
  refocusd ctl catch-up off
  refocusd ctl watch            one line of JSON per event, until interrupted
"""
ANSWER_S = 10.0
#: Switches: address, and what is asked.
SWITCHES = {"pause": ("pause", True), "resume": ("pause", False)}


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser = add_command(
        commands,
        "ctl",
        _ctl,
        short="show, pause or watch a running daemon",
        description="Talks to the documented API of the live view (URL/api/v1/openapi.json).",
        epilog=EPILOG,
    )
    parser.add_argument(
        "action", choices=["status", "acquisitions", *SWITCHES, "catch-up", "watch"]
    )
    parser.add_argument("value", nargs="?", choices=["on", "off"], help="of catch-up")
    parser.add_argument(
        "--url", default=f"http://127.0.0.1:{DEFAULT_VIEW_PORT}", help="address of the live view"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        help="file whose first line is the view's token (default: the token of your own views)",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def _ctl(arguments: argparse.Namespace) -> int:
    action = arguments.action
    if (action == "catch-up") != (arguments.value is not None):
        raise ConfigError("only catch-up takes on or off: refocusd ctl catch-up on")
    if action == "watch":
        for event in _events(arguments):
            say(json.dumps(event))
        return 0
    if action in ("status", "acquisitions"):
        answer = _ask(arguments, action)
        lines = [json.dumps(answer)] if arguments.json else _told(action, answer)
    else:
        address, on = SWITCHES.get(action, (action, arguments.value == "on"))
        answer = _ask(arguments, address, {"on": on})
        lines = (
            [json.dumps(answer)]
            if arguments.json
            else [f"asked: {address} {'on' if on else 'off'}"]
        )
    for line in lines:
        say(escape_controls(line))
    return 0


def _told(action: str, answer: dict[str, Any]) -> list[str]:
    """An answer for a person to read."""
    if action == "acquisitions":
        found = answer["acquisitions"]
        return [_line(about) for about in found] or ["there is no acquisition yet"]
    health, daemon = answer["health"], answer["daemon"]
    lines = ["ready" if health["ready"] else f"not ready: {health['reason']}"]
    if daemon:
        lines += [
            f"{len(daemon['workers'])} workers, {daemon['fps']:.1f} frames/s, "
            f"{daemon['queued']} queued, {daemon['pending']} pending"
            + (", paused" if daemon["paused"] else "")
        ]
    return lines


def _line(about: dict[str, Any]) -> str:
    counts = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in about["counts"].items()
    )
    return f"{about['id']}  {about['state']:11}  {about['name']}: {counts}"


def _events(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the stream tells, as ``{"event": ..., "data": ...}``."""
    name = ""
    with _open(arguments, "events", None) as stream:
        for raw in stream:
            field, _, value = raw.decode("utf-8").rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield {"event": name, "data": json.loads(value)}


def _ask(arguments: argparse.Namespace, address: str, body: Any = None) -> dict[str, Any]:
    with _open(arguments, address, body) as answer:
        said: dict[str, Any] = json.load(answer)
        return said


def _open(arguments: argparse.Namespace, address: str, body: Any) -> Any:
    url = f"{arguments.url.rstrip('/')}/api/v1/{address}"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"{arguments.url} is not an address of a live view, such as http://127.0.0.1:8750"
        )
    headers = {"X-Refocusd-View": "1", "Content-Type": "application/json"}
    if arguments.token_file is not None:
        try:
            token = arguments.token_file.read_text(encoding="utf-8").split("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the token in {arguments.token_file} cannot be read: {error}"
            ) from error
        headers["Authorization"] = f"Bearer {token}"
    elif urllib.parse.urlsplit(url).hostname in LOOPBACK:
        # That of views which the same user has started on this computer.
        headers["Authorization"] = f"Bearer {derived_secret('view')}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 (http and https only)
    try:
        return urllib.request.urlopen(request, timeout=ANSWER_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        raise TransportError(f"{url}: {_reason(error)}") from error
    except OSError as error:
        raise TransportError(
            f"no live view at {arguments.url} ({error}): start the daemon with `refocusd run`, or "
            "name the view with --url"
        ) from error


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return str(error)
