"""``refocusd config``: the settings in force, and a commented example of all."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import msgspec

from refocusd import __version__
from refocusd.cli.console import console
from refocusd.cli.settings import add_setting_flags, settings_of
from refocusd.config import Settings
from refocusd.errors import OutputError

__all__ = ["example_settings", "register", "toml_value"]

EPILOG = """\
examples:
  refocusd config                           what is in force
  refocusd config --config refocusd.toml    ... with this file
  refocusd config init                      write refocusd.toml: every setting, explained
"""

_WIDTH = 96


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "config",
        help="print the settings in force, or write an example",
        description="Prints the settings that result from defaults, file, environment and flags.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_setting_flags(parser)
    parser.set_defaults(command=_show)
    actions = parser.add_subparsers(metavar="ACTION", title="instead of printing")
    init = actions.add_parser(
        "init",
        help="write a settings file with every setting explained",
        description="Writes a settings file in which every setting is explained and stands at its "
        "default, as a comment.",
    )
    init.add_argument("--output", metavar="FILE", type=Path, default=Path("refocusd.toml"))
    init.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    init.set_defaults(command=_init)


def example_settings() -> str:
    """A settings file: each setting's meaning and type, then its default as a comment.

    Made from `refocusd.config.Settings` itself, so it names every setting there is.
    """
    lines = [
        f"# Settings of refocusd {__version__}.",
        "# Every line below is a default: take the # away and change it.",
        "# Use:   refocusd run --config refocusd.toml",
        "# Before this file come the environment (REFOCUSD_RING_MIB=256) and flags (--ring-mib 256).",
    ]
    meanings = _meanings()
    for name, value in msgspec.to_builtins(Settings()).items():
        kind, meaning = meanings[name]
        told = textwrap.wrap(f"{meaning}  [{kind}]", _WIDTH, break_on_hyphens=False)
        lines += ["", *(f"# {line}" for line in told), f"#{name} = {toml_value(value)}"]
    return "\n".join(lines) + "\n"


def toml_value(value: object) -> str:
    """A setting as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # Escapes of JSON strings are TOML's; only this one JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return str(value)


def _meanings() -> dict[str, tuple[str, str]]:
    """Name → type and meaning, from the parameters in the docstring of `Settings`."""
    text = inspect.cleandoc(Settings.__doc__ or "")
    entries = re.findall(r"^(\w+) : (.+)\n((?:    .+\n?)+)", text, re.MULTILINE)
    plain = {
        name: (kind, " ".join(meaning.split()).replace("``", "").replace("`", ""))
        for name, kind, meaning in entries
    }
    assert plain.keys() == set(Settings.__struct_fields__), "a setting without an explanation"
    return plain


def _show(arguments: argparse.Namespace) -> int:
    for name, value in msgspec.to_builtins(settings_of(arguments)).items():
        console.print(f"{name} = {toml_value(value)}", markup=False, highlight=False)
    return 0


def _init(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w" if arguments.overwrite else "x", encoding="utf-8") as file:
            file.write(example_settings())
    except FileExistsError as error:
        raise OutputError(
            f"{output} exists already; name another --output, or give --overwrite"
        ) from error
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error
    console.print(f"{output}: {len(Settings.__struct_fields__)} settings", markup=False)
    return 0
