"""``refocusd worker``: refocus frames for a daemon on another host.

Builds an engine on this host and refocuses frames for a daemon on another. It
reconnects by itself when the link is cut or the daemon is restarted. Ctrl-C
ends it.

examples:
  on the daemon's host:   refocusd keys new gpu-2
                          refocusd run --listen tcp://192.168.0.5:8752
  on this one:            refocusd worker --connect tcp://192.168.0.5:8752 --keys gpu-2.refocusd-key
"""

from __future__ import annotations

import argparse
import logging

from refocusd.cli.flags import add_setting_flags, settings_of
from refocusd.errors import WorkerError
from refocusd.processes.priority import yield_to_acquisition
from refocusd.processes.signals import stop_asked
from refocusd.transport.secure.keys import load_client_keys
from refocusd.worker.remote import work_remotely
from refocusd.worker.session import prepare

log = logging.getLogger(__name__)

#: The worker may share its host with an acquisition or with other users.
NICENESS = 10
_FLAGS = ("model", "backend", "precision", "threads", "device")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--connect", required=True, metavar="ADDRESS", help="tcp://HOST:PORT")
    parser.add_argument(
        "--keys",
        required=True,
        metavar="FILE",
        help="key file, made with `refocusd keys new` on the daemon's host",
    )
    parser.add_argument(
        "--once", action="store_true", help="stop when the connection or the daemon ends"
    )
    add_setting_flags(parser, *_FLAGS)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    settings = settings_of(arguments, *_FLAGS)
    keys = load_client_keys(arguments.keys)
    asked = stop_asked()  # the frame in progress is still finished and sent
    yield_to_acquisition(NICENESS)
    prepared = prepare(settings.models, settings.engine_options)
    try:
        work_remotely(arguments.connect, keys, prepared, once=arguments.once, asked=asked)
    except MemoryError as error:
        raise WorkerError(
            "a frame needed more memory than is available; start the worker again, with fewer --threads or "
            "on a host with more"
        ) from error
    prepared.close()
    log.info("worker ended")
    return 0
