r"""``refocusd run``: start the daemon beside Micro-Manager.

Refocuses frames from pycromanager hooks (refocusd.Source), from folders where
datasets appear, and from Micro-Manager's GUI if it is running.

examples:
  refocusd run
  refocusd run --config refocusd.toml
  refocusd run --follow D:\data   refocus datasets that appear there
  refocusd run --stop             ask the running daemon to write everything and stop
"""

from __future__ import annotations

import argparse
import logging
import os
import threading
from contextlib import nullcontext

import msgspec

from refocusd.cli.console import write_json
from refocusd.cli.flags import add_setting_flags, settings_of
from refocusd.config import Settings
from refocusd.daemon.daemon import Daemon, stop_daemon
from refocusd.errors import RefocusdError
from refocusd.processes.daemon_process import Announcement
from refocusd.processes.lifeline import watch_stdin
from refocusd.processes.order import tell_parent
from refocusd.processes.priority import yield_to_acquisition
from refocusd.processes.signals import stop_asked
from refocusd.sources.attached.process import AttachProcess
from refocusd.view.process import ViewProcess

log = logging.getLogger(__name__)

#: The daemon can wait, because its frames are in the ring; an acquisition cannot.
NICENESS = 5


JSON = "the counts of all acquisitions at the end"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_setting_flags(parser)
    parser.add_argument("--stop", action="store_true", help="ask the running daemon to stop")
    parser.add_argument(
        "--announce", action="store_true", help="print one line of JSON (endpoint, pid) when ready"
    )
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input ends")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    settings = settings_of(arguments)
    if arguments.stop:
        stop_daemon(settings.endpoint)
        return 0
    yield_to_acquisition(NICENESS)
    asked = stop_asked()
    if arguments.with_parent:
        watch_stdin(asked.set)
    before, ready = settings, threading.Event()
    while True:
        ready.clear()
        try:
            wanted, status = _serve(arguments, settings, asked, ready)
        except RefocusdError as error:
            if settings is before or ready.is_set():
                raise
            log.error("the chosen settings do not work (%s); returning to the previous ones", error)
            settings = before
            continue
        if wanted is None:
            return status
        log.info("restarting with the settings that were chosen on the page")
        before, settings = settings, wanted


def _serve(
    arguments: argparse.Namespace,
    settings: Settings,
    asked: threading.Event,
    ready: threading.Event,
) -> tuple[Settings | None, int]:
    """Run the daemon until it is asked to stop or other settings are chosen.

    Returns
    -------
    Settings or None
        The settings that were chosen, if any.
    int
        The exit status.
    """
    with (
        Daemon(settings) as daemon,
        # A process of its own: it can neither slow nor end the daemon.
        ViewProcess(daemon.endpoint, _view_flags(settings), settings)
        if settings.view
        else nullcontext() as view,
        AttachProcess(daemon.endpoint, settings) as attached,
    ):
        daemon.wait_ready(asked)
        ready.set()
        log.info("sources: %s", ", ".join(["hook", *attached.sources]))
        if arguments.announce and not asked.is_set():
            arguments.announce = False  # once
            tell_parent(Announcement(daemon.endpoint, os.getpid()))
        # Stopped by a signal, by the parent's end, or over the socket (then the broker ends).
        while not (asked.is_set() or daemon.wait(0.2)):
            if view and view.wanted and not daemon.acquiring:
                break
        wanted = view.wanted if view and not asked.is_set() else None
        log.info("stopping")
    daemon.check()
    counts = daemon.counts()
    if verdicts := daemon.verdicts():
        said = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in verdicts.items())
        log.info("frames by verdict: %s", said)
    write_json(arguments.json, {key: msgspec.to_builtins(value) for key, value in counts.items()})
    return wanted, 1 if daemon.unfinished else 0


def _view_flags(settings: Settings) -> list[str]:
    untrusted = str(settings.webhook_untrusted)
    webhook = ["--webhook", settings.webhook, "--webhook-untrusted", untrusted]
    return ["--port", str(settings.view_port), *webhook]
