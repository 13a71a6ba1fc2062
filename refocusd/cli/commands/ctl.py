"""``refocusd ctl``: show, pause or watch a running daemon.

Uses the documented API of the live view (URL/api/v1/openapi.json).

examples:
  refocusd ctl status
  refocusd ctl acquisitions --json
  refocusd ctl jobs             what was started from the page of the live view
  refocusd ctl pause            no frame is sent to workers until: refocusd ctl resume
  refocusd ctl catch-up off
  refocusd ctl watch            one line of JSON per event, until interrupted
  refocusd ctl outcomes --follow --verdict untrusted,doubtful
                                a line of JSON for every such frame from now on
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from refocusd.cli.console import say
from refocusd.errors import ConfigError
from refocusd.frame import counted
from refocusd.processes.background_log import escape_controls
from refocusd.view.client import DEFAULT_URL, ApiClient

#: Address of each switch, and whether the action turns it on.
SWITCHES = {"pause": ("pause", True), "resume": ("pause", False)}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "action",
        choices=["status", "acquisitions", "jobs", *SWITCHES, "catch-up", "watch", "outcomes"],
    )
    parser.add_argument("value", nargs="?", choices=["on", "off"], help="for catch-up")
    group = parser.add_argument_group("outcomes")
    group.add_argument(
        "--follow", action="store_true", help="show outcomes from now on, until interrupted"
    )
    group.add_argument(
        "--verdict",
        default="",
        help="only frames with one of these: trusted, doubtful, untrusted, passed_through, none",
    )
    group.add_argument("--acquisition", default="", help="only frames of this name or id")
    group.add_argument(
        "--after", default="", metavar="ID", help="continue after the line with this id"
    )
    parser.add_argument("--url", default=DEFAULT_URL, help="address of the live view")
    parser.add_argument(
        "--token-file",
        type=Path,
        help="file whose first line is the view's token (default: the token of your own views)",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    action = arguments.action
    if (action == "catch-up") != (arguments.value is not None):
        raise ConfigError("only catch-up takes on or off: refocusd ctl catch-up on")
    client = ApiClient.with_token_file(arguments.url, arguments.token_file)
    if action in ("watch", "outcomes"):
        for event in client.events(*_stream(arguments)):
            ident = {"id": event.id} if event.id else {}
            say(json.dumps({"event": event.name, **ident, "data": event.data}))
        return 0
    if action in ("status", "acquisitions", "jobs"):
        answer = client.ask(action)
        lines = _summary(action, answer)
    else:
        address, on = SWITCHES.get(action, (action, arguments.value == "on"))
        answer = client.ask(address, {"on": on})
        lines = [f"asked: {address} {'on' if on else 'off'}"]
    for line in [json.dumps(answer)] if arguments.json else lines:
        say(escape_controls(line))
    return 0


def _stream(arguments: argparse.Namespace) -> tuple[str, dict[str, str]]:
    """Address and query of the stream that is printed line by line."""
    if arguments.action == "watch":
        return "events", {}
    query = {name: getattr(arguments, name) for name in ("verdict", "acquisition", "after")}
    if not arguments.follow:
        query |= {"follow": "false", "after": arguments.after or "oldest"}
    return "outcomes", query


def _summary(action: str, answer: dict[str, Any]) -> list[str]:
    """The lines that show an answer to a person."""
    if action == "acquisitions":
        found = answer["acquisitions"]
        return [_line(about) for about in found] or ["there is no acquisition yet"]
    if action == "jobs":
        jobs = answer["jobs"]
        return ["{id}  {state:9}  {command} {path}".format(**job) for job in jobs] or [
            "there is no job"
        ]
    health, daemon = answer["health"], answer["daemon"]
    lines = ["ready" if health["ready"] else f"not ready: {health['reason']}"]
    if daemon:
        lines += [
            f"{counted(len(daemon['workers']), 'worker')}, {daemon['fps']:.1f} frames/s, "
            f"{daemon['queued']} queued, {daemon['pending']} pending"
            + (", paused" if daemon["paused"] else ""),
            *daemon.get("unseen_last", []),
        ]
    return lines


def _line(about: dict[str, Any]) -> str:
    counts = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in about["counts"].items()
    )
    return f"{about['id']}  {about['state']:11}  {about['name']}: {counts}"
