"""``refocusd config``: print the settings in force, or write an example file.

Prints the settings that result from defaults, file, environment and flags.

examples:
  refocusd config                           what is in force
  refocusd config --config refocusd.toml    ... with this file
  refocusd config init                      write refocusd.toml: every setting, explained
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import msgspec

from refocusd import __version__, files
from refocusd.cli.console import say
from refocusd.cli.flags import add_action, add_setting_flags, settings_of
from refocusd.config import SETTINGS, Settings
from refocusd.errors import OutputError
from refocusd.toml_value import toml_value

_HEAD = f"""\
# Settings of refocusd {__version__}.
# Every setting below has its default value: remove the # and change it.
# Use:   refocusd run --config refocusd.toml
# The environment (REFOCUSD_RING_MIB=256) overrides this file; flags (--ring-mib 256) override both.
"""
_WIDTH = 96


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_setting_flags(parser)
    actions = parser.add_subparsers(
        metavar="ACTION", title="write an example file instead of printing"
    )
    init = add_action(
        actions,
        "init",
        _init,
        "write a settings file with every setting explained",
        description="Writes a settings file in which every setting is explained and commented out "
        "at its default.",
    )
    init.add_argument("--output", metavar="FILE", type=Path, default=Path("refocusd.toml"))
    init.add_argument("--overwrite", action="store_true", help="replace an existing file")


def example_settings() -> str:
    """A settings file: each setting's meaning and type, then its default as a comment."""
    lines = [_HEAD]
    for name, value in msgspec.to_builtins(Settings()).items():
        meaning = f"{SETTINGS[name].help}  [{SETTINGS[name].kind}]"
        wrapped = textwrap.wrap(meaning, _WIDTH, break_on_hyphens=False)
        lines += [*(f"# {line}" for line in wrapped), f"#{name} = {toml_value(value)}\n"]
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    for name, value in msgspec.to_builtins(settings_of(arguments)).items():
        say(f"{name} = {toml_value(value)}")
    return 0


def _init(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    if output.exists() and not arguments.overwrite:
        raise OutputError(f"{output} exists already; name another --output, or give --overwrite")
    with files.output(output):
        output.write_text(example_settings(), encoding="utf-8")
    say(f"{output}: {len(SETTINGS)} settings")
    return 0
