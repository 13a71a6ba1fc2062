"""``refocusd keys``: who may connect a worker from another host."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from refocusd.cli.console import console, plain, say, write_json
from refocusd.cli.flags import add_command
from refocusd.config import load_settings
from refocusd.transport.secure.keys import KeyStore

__all__ = ["register"]

EPILOG = """\
examples:
  refocusd keys new gpu-2                      make gpu-2.refocusd-key, to carry to that host
  refocusd keys list
  refocusd keys revoke gpu-2                   a running daemon cuts it off at once
"""


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser = add_command(
        commands,
        "keys",
        _list,
        short="who may connect a worker from another host",
        description=(
            "Makes, lists and revokes the keys with which workers on other hosts connect. A key is one "
            "file: it proves its host to this daemon and this daemon to its host, and encrypts what "
            "they exchange."
        ),
        epilog=EPILOG,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a key for one host")
    new.add_argument("name", help="what to call it here, e.g. gpu-2; each name is used once")
    new.add_argument(
        "--output", type=Path, metavar="FILE", help="key file (default: NAME.refocusd-key)"
    )
    new.set_defaults(command=_new)
    list_ = actions.add_parser("list", help="list the keys that were made")
    list_.add_argument("--json", metavar="FILE", help="write the list as JSON")
    list_.set_defaults(command=_list)
    revoke = actions.add_parser("revoke", help="take a key back for good")
    revoke.add_argument("name")
    revoke.set_defaults(command=_revoke)
    for action in (new, list_, revoke):
        action.add_argument("--config", metavar="FILE", help="settings file, TOML (its `keys`)")
        action.add_argument("--store", metavar="FOLDER", help="key store (default: as in settings)")


def _new(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output or Path(f"{arguments.name}.refocusd-key")
    _store(arguments).new(arguments.name, output)
    say(
        f"{output} is the key {arguments.name}. It holds a secret: move it to the other host, leave no "
        "copy here, and start the worker there:\n"
        f"  refocusd worker --connect tcp://THIS-HOST:PORT --keys {output.name}"
    )
    return 0


def _list(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    peers = store.peers()
    table = Table("name", "public key", "made", "state")
    for peer in peers:
        state = f"revoked {peer.revoked}" if peer.revoked else "good"
        # The start of a key tells it from others.
        table.add_row(peer.name, plain(peer.public[:10] + "..."), peer.created, state)
    if peers:
        console.print(table)
    else:
        say(f"no keys were made in {store.folder}; `refocusd keys new NAME` makes one")
    write_json(arguments.json, {"keys": msgspec.to_builtins(peers)})
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    peer = _store(arguments).revoke(arguments.name)
    say(f"{peer.name} is revoked: a running daemon cuts it off within a second")
    return 0


def _store(arguments: argparse.Namespace) -> KeyStore:
    """The store of the daemon that is started with the same settings."""
    return KeyStore(load_settings(arguments.config, {"keys": arguments.store}).keys)
