"""``refocusd view``: shows the frames of a running daemon live, as a page or in napari."""

from __future__ import annotations

import argparse
from typing import Any

from refocusd.cli.flags import add_command
from refocusd.view.command import add_view_flags, run_view, view_options

__all__ = ["register"]

EPILOG = """\
examples:
  refocusd view                             http://127.0.0.1:8750/
  refocusd view --endpoint tcp://127.0.0.1:8751 --port 9000
  refocusd view --napari                    two linked layers (pip install "refocusd[napari]")
  refocusd view --host 10.0.0.5 --token-file token.txt --cert cert.pem --key key.pem
"""


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser = add_command(
        commands,
        "view",
        _view,
        short="watch raw and refocused frames live, in a browser or in napari",
        description="Serves the live view of a running daemon; needs nothing from the network.",
        epilog=EPILOG,
    )
    add_view_flags(parser)
    parser.add_argument(
        "--napari", action="store_true", help="show two linked layers in napari instead"
    )


def _view(arguments: argparse.Namespace) -> int:
    if arguments.napari:
        # Seconds to import, and an optional part.
        from refocusd.view.napari_layers import show_in_napari

        return show_in_napari(view_options(arguments).endpoint)
    return run_view(arguments)
