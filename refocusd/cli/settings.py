"""The flags that set `refocusd.config.Settings`, shared by the commands that start a daemon."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from refocusd.config import Attach, Backend, Policy, Precision, Settings, SinkKind, load_settings

__all__ = ["add_setting_flags", "daemon_flags", "settings_of"]

#: Settings that have a flag of their own; the others live in the file.
_FLAGS = (
    "endpoint",
    "model",
    "backend",
    "precision",
    "threads",
    "workers",
    "policy",
    "sink",
    "listen",
    "keys",
    "calibrations",
    "pick_up",
    "view",
    "view_port",
    "follow",
    "studio",
    "live",
    "bridge_port",
    "studio_output",
    "advise_focus",
    "correct_focus",
    "ring_mib",
    "ledgers",
)


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and a flag for each setting that is often changed."""
    group = parser.add_argument_group("settings (before file and environment)")
    group.add_argument("--config", metavar="FILE", help="settings file, TOML")
    group.add_argument("--endpoint", help="address of the daemon, e.g. tcp://127.0.0.1:8751")
    group.add_argument("--model", help="name of a shipped model, or a bundle's folder")
    group.add_argument("--backend", choices=get_args(Backend))
    group.add_argument("--precision", choices=get_args(Precision))
    group.add_argument("--threads", type=int, help="threads of a CPU engine; 0 chooses")
    group.add_argument("--workers", type=int, help="worker processes")
    group.add_argument(
        "--policy",
        choices=get_args(Policy),
        help="defer: live stays fresh, the rest is caught up when idle; complete: in order",
    )
    group.add_argument("--sink", choices=get_args(SinkKind), help="format of the output")
    group.add_argument(
        "--listen", metavar="ADDRESS", help="for workers on other hosts, e.g. tcp://0.0.0.0:8752"
    )
    group.add_argument("--keys", metavar="FOLDER", help="keys of workers on other hosts")
    group.add_argument(
        "--calibrations", metavar="FOLDER", help="calibration profiles, chosen by frames' metadata"
    )
    group.add_argument(
        "--pick-up",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="finish what an earlier daemon left unfinished",
    )
    group.add_argument(
        "--view",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="serve the live view (default: http://127.0.0.1:8750/)",
    )
    group.add_argument(
        "--view-port", type=int, dest="view_port", help="its port; 0 takes a free one"
    )
    group.add_argument(
        "--advise-focus",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="tell how far, and which way, the stage is from focus",
    )
    group.add_argument(
        "--correct-focus",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let sources move the stage by that advice, within the limits that they set",
    )
    group.add_argument(
        "--follow",
        metavar="FOLDER",
        action="append",
        help="refocus datasets that appear there, while they grow; may be repeated",
    )
    group.add_argument(
        "--studio",
        choices=get_args(Attach),
        help="acquisitions started in Micro-Manager's GUI (auto: whenever it is there)",
    )
    group.add_argument(
        "--live",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show Micro-Manager's live mode and snaps in the view",
    )
    group.add_argument(
        "--bridge-port", type=int, dest="bridge_port", help="of Micro-Manager's bridge (4827)"
    )
    group.add_argument(
        "--studio-output",
        metavar="FOLDER",
        dest="studio_output",
        help="for acquisitions that Micro-Manager does not save",
    )
    group.add_argument(
        "--ring-mib", type=int, dest="ring_mib", help="shared memory for frames, MiB"
    )
    group.add_argument("--ledgers", help="folder of the ledgers, on a local disk")


def settings_of(arguments: argparse.Namespace, **changes: Any) -> Settings:
    """The settings in force for a command line.

    Raises
    ------
    ConfigError
    """
    flags = {name: getattr(arguments, name, None) for name in _FLAGS}
    return load_settings(arguments.config, flags | changes)


def daemon_flags(arguments: argparse.Namespace) -> list[str]:
    """The same flags, for a daemon that is started as a child (its address excepted)."""
    flags: list[str] = []
    if arguments.config:
        flags += ["--config", arguments.config]
    for name in _FLAGS:
        value = getattr(arguments, name, None)
        if isinstance(value, bool):
            flags.append("--" + ("" if value else "no-") + name.replace("_", "-"))
        elif isinstance(value, list):
            flags += [word for one in value for word in ("--" + name.replace("_", "-"), one)]
        elif value is not None and name != "endpoint":
            flags += ["--" + name.replace("_", "-"), str(value)]
    return flags
