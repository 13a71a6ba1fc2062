"""``refocusd``: runs a sub-command, and turns errors into one line and an exit status."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from itertools import pairwise

from refocusd import __version__
from refocusd.cli.console import tolerate_any_encoding
from refocusd.cli.flags import add_module, as_meant_on_windows
from refocusd.cli.logs import add_log_flags, logged
from refocusd.errors import RefocusdError
from refocusd.processes.background_log import escape_controls, write_bounded

#: Modules of `refocusd.cli.commands`, in the order of the help text.
COMMANDS = [
    "run",
    "view",
    "ctl",
    "doctor",
    "bench",
    "demo",
    "replay",
    "process",
    "resume",
    "verify",
    "report",
    "export",
    "worker",
    "keys",
    "models",
    "config",
]
EPILOG = """\
examples:
  refocusd demo --output demo            try it on a simulated microscope
  refocusd run                           start the daemon beside Micro-Manager
  refocusd doctor                        check this computer, and say what to do
  refocusd process data/cells_1          refocus a finished dataset
  refocusd verify data/cells_1           prove that every frame is accounted for
  refocusd replay stack.tif --output out --reference z=16
"""


def build_parser(*arguments: str) -> argparse.ArgumentParser:
    """The parser of all sub-commands, including those of other packages.

    If `arguments` name one of ours, only that one is imported, and for the version none, because
    importing all of them takes longer than most of them run.
    """
    parser = argparse.ArgumentParser(
        prog="refocusd",
        description="Makes out-of-focus microscope frames sharp while they are acquired.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"refocusd {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    add_log_flags(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="subcommand")
    word = _first_word(arguments)
    if word == "--version":
        return parser
    for name in [word] if word in COMMANDS else COMMANDS:
        add_module(commands, name, importlib.import_module(f"refocusd.cli.commands.{name}"))
    if word not in COMMANDS:
        for entry in entry_points(group="refocusd.commands"):
            entry.load()(commands)
    return parser


def _first_word(arguments: Sequence[str]) -> str:
    """The command, or ``--version``; empty if there is neither."""
    for before, word in pairwise(("", *arguments)):
        if word == "--version" or not (word.startswith("-") or before == "--log-file"):
            return word
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns
    -------
    int
        0 if every frame reached a final state other than ``failed``, 1 if not,
        2 for an error, which is reported in one line, 130 when interrupted.
    """
    tolerate_any_encoding()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if sys.platform == "win32":
            arguments = as_meant_on_windows(arguments)
        parsed = build_parser(*arguments).parse_args(arguments)
        with logged(
            parsed.subcommand, verbose=parsed.verbose, as_json=parsed.log_json, file=parsed.log_file
        ):
            status: int = parsed.command(parsed)
    except (RefocusdError, OSError) as error:
        write_bounded(f"refocusd: error: {escape_controls(str(error))}\n")
        return error.exit_status if isinstance(error, RefocusdError) else 2
    except KeyboardInterrupt:
        write_bounded("refocusd: interrupted\n")
        return 130
    return status
