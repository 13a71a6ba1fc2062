"""The flags of the view, and what they do: for the command line and for the daemon's child."""

from __future__ import annotations

import argparse
import html
import os
import sys
import threading
import webbrowser
from pathlib import Path

from refocusd import files
from refocusd.config import DEFAULT_VIEW_PORT, Settings
from refocusd.errors import ConfigError
from refocusd.processes.lifeline import end_with_parent
from refocusd.processes.order import read_order, tell_parent
from refocusd.processes.priority import yield_to_acquisition
from refocusd.processes.signals import leave_signals_to_parent, stop_asked
from refocusd.transport.client import default_endpoint
from refocusd.transport.secure.user_keys import derived_secret, user_store
from refocusd.view.http.options import LOOPBACK, ViewOptions, read_token
from refocusd.view.serve import page_address, serving, until_asked

#: A lower priority than that of the daemon and its workers: watching can wait, frames cannot.
NICENESS = 10


def add_view_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the view listens, and how."""
    parser.add_argument("--endpoint", help="address of the daemon (default: REFOCUSD_ENDPOINT)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_VIEW_PORT, help="port of the page; 0 takes a free one"
    )
    parser.add_argument("--webhook", default="", metavar="URL", help="post alerts to it, as JSON")
    parser.add_argument(
        "--webhook-untrusted",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="post one if more than this share of an acquisition's last frames is untrusted (default: 0.2)",
    )
    parser.add_argument(
        "--print-url",
        action="store_true",
        help="only print the address of a view on this computer, with the token of your user",
    )
    parser.add_argument(
        "--open", action="store_true", help="only open that address in this user's browser"
    )
    group = parser.add_argument_group("access from other computers")
    group.add_argument("--host", default="127.0.0.1", help="needs a token and TLS")
    group.add_argument("--token-file", type=Path, help="file whose first line is the token")
    group.add_argument("--cert", type=Path, help="TLS certificate, PEM")
    group.add_argument("--key", type=Path, help="its key, PEM")
    group.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="further name of this computer that browsers may use",
    )
    hidden = argparse.SUPPRESS
    parser.add_argument("--announce", action="store_true", help=hidden)
    parser.add_argument("--with-parent", action="store_true", help=hidden)
    parser.add_argument("--with-settings", action="store_true", help=hidden)


def view_options(arguments: argparse.Namespace, settings: Settings | None = None) -> ViewOptions:
    """The options that the flags give, and the settings of the daemon.

    Raises
    ------
    ConfigError
        If they are unsafe or cannot be used.
    """
    open_paths = frozenset({"/health"})
    if arguments.token_file is None and arguments.host in LOOPBACK:
        # Every user of this computer can reach the loopback address; Prometheus runs as another one.
        token = derived_secret("view")
        open_paths |= {"/metrics"}
    elif arguments.token_file is None:
        token = ""
    else:
        token = read_token(arguments.token_file)
        if not token or not token.isascii() or not token.isprintable() or set(token) & set(' ";,'):
            raise ConfigError(
                f"{arguments.token_file} has no token in its first line: letters, digits, - and _"
            )
    return ViewOptions(
        endpoint=arguments.endpoint or default_endpoint(),
        host=arguments.host,
        port=arguments.port,
        token=token,
        certificate=arguments.cert,
        key=arguments.key,
        hosts=tuple(arguments.allow_host),
        webhook=arguments.webhook,
        webhook_untrusted=arguments.webhook_untrusted,
        without_token=open_paths,
        settings=settings,
    )


def run_view(arguments: argparse.Namespace) -> int:
    """Serve the page until a signal, or the parent's end."""
    options = view_options(arguments, read_order(Settings) if arguments.with_settings else None)
    address = page_address(options, options.port)
    if arguments.print_url:
        sys.stdout.write(address + "\n")
        return 0
    if arguments.open:
        webbrowser.open(_redirection(address).as_uri())
        return 0
    yield_to_acquisition(NICENESS)
    if arguments.with_parent:
        asked = threading.Event()
        leave_signals_to_parent()
        end_with_parent()
    else:
        asked = stop_asked()
    with serving(options) as announcement:
        if arguments.announce:
            tell_parent(announcement)
        until_asked(asked)
    return 0


def _redirection(address: str) -> Path:
    """A page that only this user can read, which redirects a browser to the address.

    Given to the browser directly, the address and its token would be in the list of processes.
    """
    page = user_store().folder / "open-view.html"
    files.remove(page, missing_ok=True)
    with os.fdopen(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">\n')
    return page
