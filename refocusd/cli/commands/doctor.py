"""``refocusd doctor``: check this computer, and say what to do.

Checks everything that a run needs, with the settings in force. Changes
nothing.

examples:
  refocusd doctor
  refocusd doctor --folder data --plan 2048x2048x16,1000   has the disk room for it?
  refocusd doctor --json                                   for programs

OK: fine.  !!: not as it should be; the line after it says what to do.  --: not there, not needed.
exit status: 1 if something is broken that refocusing needs, otherwise 0
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from refocusd import __version__
from refocusd.cli.console import console, say, told_as_json
from refocusd.cli.flags import add_json_flag, add_setting_flags, settings_of
from refocusd.config import Settings
from refocusd.doctor import Case, Finding, examine, parse_plan
from refocusd.doctor.case import broken, fine
from refocusd.errors import ConfigError

_STYLES = {"OK": "green", "!!": "bold red", "--": "dim"}
_NAME_WIDTH = 15


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where acquisitions are saved (default: here)"
    )
    parser.add_argument(
        "--plan",
        metavar="WxHxBITS,FRAMES",
        help="check disk space and engine for a planned acquisition",
    )
    add_json_flag(parser)
    add_setting_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    plan = parse_plan(arguments.plan) if arguments.plan else None
    quiet = arguments.json == "-"
    settings, found = _settings(arguments)
    case = Case(settings, arguments.folder, plan)
    findings = []
    for finding in chain([found], () if found.blocks else examine(case)):
        findings.append(finding)
        if not quiet:
            _print(finding)
    blocked = any(finding.blocks for finding in findings)
    listed = [asdict(finding) for finding in findings]
    report = {"version": __version__, "usable": not blocked, "findings": listed}
    told_as_json(arguments.json, report)
    return 1 if blocked else 0


def _settings(arguments: argparse.Namespace) -> tuple[Settings, Finding]:
    """The settings in force, and what was found of them; wrong ones end the examination."""
    try:
        settings = settings_of(arguments)
    except ConfigError as error:
        advice = "correct it, because everything else depends on it"
        return Settings(), broken(str(error), advice, name="settings")
    source = arguments.config or "defaults, environment and flags"
    return settings, fine(f"from {source}", name="settings")


def _print(finding: Finding) -> None:
    console.print(f"[{_STYLES[finding.mark]}]{finding.mark}[/]  ", end="")
    say(f"{finding.name:{_NAME_WIDTH}} {finding.says}")
    if finding.advice:
        say(f"{' ' * (_NAME_WIDTH + 5)}-> {finding.advice}")
