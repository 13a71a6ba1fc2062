"""``refocusd config``: the settings in force."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from refocusd.cli.console import console
from refocusd.cli.settings import add_setting_flags, settings_of

__all__ = ["register"]


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "config",
        help="print the settings in force",
        description="Prints the settings that result from defaults, file, environment and flags.",
    )
    add_setting_flags(parser)
    parser.set_defaults(command=_show)


def _show(arguments: argparse.Namespace) -> int:
    for name, value in msgspec.to_builtins(settings_of(arguments)).items():
        text = f'"{value}"' if isinstance(value, str) else str(value).lower()
        console.print(f"{name} = {text}", markup=False, highlight=False)
    return 0
