"""Parts that the commands' parsers share, such as the flags that set `refocusd.config.Settings`."""

from __future__ import annotations

import argparse
import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, get_origin

from refocusd.config import SETTINGS, Setting, Settings, load_settings
from refocusd.errors import ConfigError
from refocusd.toml_value import toml_value

#: Limits for the sides of frames.
SMALLEST_PX, LARGEST_PX = 32, 16384


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    short: str,
    description: str,
    epilog: str,
    json: str = "",
) -> argparse.ArgumentParser:
    """Add a sub-command.

    Parameters
    ----------
    commands
        What `argparse.ArgumentParser.add_subparsers` returned.
    name : str
    run : callable
        Does the work; returns the exit status.
    short : str
        Text in the list of commands.
    description, epilog : str
        Text before and after the flags in the command's own help.
    json : str
        What ``--json FILE`` writes; if empty, there is no such flag.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=short,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    if json:
        parser.add_argument("--json", metavar="FILE", help=f"write {json} as JSON")
    return parser


class Command(Protocol):
    """A module of `refocusd.cli.commands`.

    Its docstring is its help: one line after the command's name, a description, examples.  ``JSON``,
    if it is defined, says what ``--json FILE`` writes.
    """

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command and return its exit status."""


def add_module(commands: Any, name: str, module: Command) -> None:
    """Add the sub-command of a module; see `add_command`."""
    # With ``python -OO`` there are no docstrings.
    title, description, examples = f"{module.__doc__ or ''}\n\n\n\n".split("\n\n", 2)
    parser = add_command(
        commands,
        name,
        module.run,
        short=title.partition(": ")[2].rstrip("."),
        description=description,
        epilog=examples.rstrip(),
        json=getattr(module, "JSON", ""),
    )
    module.add_flags(parser)


def add_action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, **about: Any
) -> argparse.ArgumentParser:
    """Add an action of a sub-command: ``refocusd keys new``."""
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, **about)
    parser.set_defaults(command=run)
    return parser


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--json [FILE]``, for `refocusd.cli.console.told_as_json`."""
    parser.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="write the result as JSON to FILE; without FILE, print only JSON",
    )


class Paths(argparse.Action):
    """Expands wildcards in paths, which the shells of Windows leave to the programs."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 (argparse's)
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Store the paths with wildcards expanded, each in alphabetical order."""
        setattr(namespace, self.dest, [path for value in values for path in _matching(value)])


def _matching(path: Path) -> list[Path]:
    """The paths that match; the path itself if it exists or nothing matches it."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    names = glob.glob(str(path))  # noqa: PTH207 (that of a path takes no root)
    return [Path(name) for name in sorted(names)] or [path]


def as_meant_on_windows(arguments: Sequence[str]) -> list[str]:
    r"""Correct arguments that were quoted paths ending in a backslash, as shells complete them.

    On Windows, programs read the quotation mark after the backslash as a part of the path:
    ``"D:\my data\"``.

    Raises
    ------
    ConfigError
        If the rest of the command line became a part of the path too.
    """
    meant = []
    for argument in arguments:
        path, mark, rest = argument.partition('"')  # no file name on Windows contains one
        if rest:
            raise ConfigError(
                f'the end of "{path}" was not found: leave out the backslash before its last quotation mark'
            )
        meant.append(f"{path}\\" if mark else path)
    return meant


def frame_size(text: str) -> tuple[int, int]:
    """Height and width of ``512`` or ``696x520`` (width first), px: the type of a flag."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(SMALLEST_PX <= side <= LARGEST_PX for side in (width, height)):
        raise argparse.ArgumentTypeError(
            f"{text}: write a side or WIDTHxHEIGHT in px, {SMALLEST_PX} to {LARGEST_PX}, for example "
            "2048 or 696x520"
        )
    return height, width


def add_setting_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add ``--config`` and the flags of the named settings, or of all."""
    group = parser.add_argument_group("settings (they override environment and file)")
    group.add_argument("--config", metavar="FILE", help="settings file, TOML")
    for setting in SETTINGS.values():
        if setting.flag and (not names or setting.name in names):
            group.add_argument(setting.flag, **_flag(setting))


def _flag(setting: Setting) -> dict[str, Any]:
    default = toml_value(getattr(Settings(), setting.name)).strip('"[]')
    shown = f" (default: {f'{default} {setting.unit}'.strip()})" if default else ""
    flag: dict[str, Any] = {"help": (setting.help + shown).replace("%", "%%"), "default": None}
    if setting.type is bool:
        return flag | {"action": argparse.BooleanOptionalAction}
    if setting.choices:
        return flag | {"choices": setting.choices}
    text = setting.type not in (int, float)
    flag["metavar"] = setting.help.split()[0].upper() if text else setting.unit.upper() or "N"
    if get_origin(setting.type) is list:
        return flag | {"action": "append", "help": f"{flag['help']} May be repeated."}
    return flag | {"type": setting.type}


def settings_of(arguments: argparse.Namespace, *names: str) -> Settings:
    """The settings in force for a command that has the flags of the named settings, or of all.

    Raises
    ------
    ConfigError
        If a setting is unknown or out of range, or the settings file cannot be read.
    """
    return load_settings(arguments.config, given_settings(arguments, *names))


def daemon_flags(arguments: argparse.Namespace) -> list[str]:
    """The given flags, without the daemon's address, for a daemon that is started as a child."""
    flags = ["--config", arguments.config] if arguments.config else []
    for name, value in given_settings(arguments).items():
        flag = SETTINGS[name].flag
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list):
            flags += [word for one in value for word in (flag, one)]
        elif name != "endpoint":
            flags += [flag, str(value)]
    return flags


def given_settings(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The settings that flags set on the command line: of the named ones, or of all."""
    named = {name: getattr(arguments, name, None) for name in names or SETTINGS}
    return {name: value for name, value in named.items() if value is not None}
