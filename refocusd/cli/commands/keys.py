"""``refocusd keys``: manage who may connect from another host, or as another user of this one.

Makes, lists and revokes the keys with which workers on other hosts connect. A
key is one file: with it, that host and this daemon prove to each other who
they are, and encrypt what they exchange. On this computer the daemon accepts
programs of its own user only; share makes a key for another user, whose
scripts, views and commands can then connect.

examples:
  refocusd keys new gpu-2                      make gpu-2.refocusd-key, to carry to that host
  refocusd keys list
  refocusd keys revoke gpu-2                   a running daemon cuts it off at once
  refocusd keys share anna                     let scripts of another user of this computer in
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import msgspec
from rich.table import Table

from refocusd.cli.console import console, plain, say, write_json
from refocusd.cli.flags import add_action
from refocusd.config import load_settings
from refocusd.transport.secure.keys import KeyStore
from refocusd.transport.secure.private_file import let_read
from refocusd.transport.secure.user_keys import KEY_VARIABLE, user_store


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    new = add_action(actions, "new", _new, "make a key for one host")
    new.add_argument("name", help="name of the key, for example gpu-2; a name can be used once")
    new.add_argument(
        "--output", type=Path, metavar="FILE", help="key file (default: NAME.refocusd-key)"
    )
    new.set_defaults(shared=False)
    list_ = add_action(actions, "list", run, "list the keys that were made")
    list_.add_argument("--json", metavar="FILE", help="write the list as JSON")
    revoke = add_action(actions, "revoke", _revoke, "revoke a key permanently")
    revoke.add_argument("name")
    share = add_action(actions, "share", _share, "make a key for another user of this computer")
    share.add_argument(
        "user", help="name of that user's account, for example anna; a name can be used once"
    )
    share.add_argument(
        "--output", type=Path, metavar="FILE", help="key file (default: USER.refocusd-key)"
    )
    for action in (new, list_, revoke):
        action.add_argument("--config", metavar="FILE", help="settings file, TOML (its `keys`)")
        action.add_argument(
            "--store", metavar="FOLDER", help="key store (default: from the settings)"
        )
    for action in (list_, revoke):
        action.add_argument(
            "--shared", action="store_true", help="act on the keys of other users of this computer"
        )


def _new(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output or Path(f"{arguments.name}.refocusd-key")
    _store(arguments).new(arguments.name, output)
    say(
        f"{output} is the key {arguments.name}. It holds a secret: move it to the other host, leave no "
        "copy here, and start the worker there:\n"
        f"  refocusd worker --connect tcp://THIS-HOST:PORT --keys {output.name}"
    )
    return 0


def _share(arguments: argparse.Namespace) -> int:
    user: str = arguments.user
    # Names of accounts may have spaces and capitals.
    name = re.sub("[^a-z0-9_-]", "-", user.lower()).lstrip("-_")
    output: Path = arguments.output or Path(f"{name}.refocusd-key")
    user_store().new(name, output)
    to_do = (
        f"{user} can read it, if the folders above let {user} in, and nobody else can."
        if let_read(output, user)
        else f"give it to {user} (who must own it, mode 600), and leave no copy here."
    )
    say(
        f"{output.resolve()} lets {user} use the daemons of your user on this computer: hand over "
        f"frames, watch, and stop them. It holds a secret: {to_do} Scripts and commands of {user} "
        f"find it by the environment variable\n  {KEY_VARIABLE}={output.resolve()}\n"
        f"Take it back with `refocusd keys revoke --shared {name}`."
    )
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    store = _store(arguments)
    peers = store.peers()
    table = Table("name", "public key", "made", "state")
    for peer in peers:
        state = f"revoked {peer.revoked}" if peer.revoked else "good"
        # The start of a key distinguishes it from others.
        table.add_row(peer.name, plain(peer.public[:10] + "..."), peer.created, state)
    if peers:
        console.print(table)
    else:
        say(
            f"no keys were made in {store.folder}; `refocusd keys new NAME` makes one for another host, "
            "`refocusd keys share NAME` for another user"
        )
    write_json(arguments.json, {"keys": msgspec.to_builtins(peers)})
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    peer = _store(arguments).revoke(arguments.name)
    say(f"{peer.name} is revoked: a running daemon cuts it off within a second")
    return 0


def _store(arguments: argparse.Namespace) -> KeyStore:
    """The key store of a daemon with the same settings, or with --shared that of this user."""
    if arguments.shared:
        return user_store()
    return KeyStore(load_settings(arguments.config, {"keys": arguments.store}).keys)
