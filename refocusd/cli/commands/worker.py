"""``refocusd worker``: a worker on another host, or run by hand on this one."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from typing import Any, get_args

from refocusd.config import Backend, Precision, load_settings
from refocusd.errors import WorkerError
from refocusd.processes.priority import yield_to_acquisition
from refocusd.transport.secure.keys import load_client_keys
from refocusd.worker.remote import work_remotely
from refocusd.worker.session import prepare

__all__ = ["register"]

log = logging.getLogger(__name__)

#: It may run on the acquisition's own host, and on others it is a guest.
NICENESS = 10
_FLAGS = ("model", "backend", "precision", "threads")

EPILOG = """\
examples:
  on the daemon's host:   refocusd keys new gpu-2
                          refocusd run --listen tcp://192.168.0.5:8752
  on this one:            refocusd worker --connect tcp://192.168.0.5:8752 --keys gpu-2.refocusd-key
"""


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "worker",
        help="refocus frames for a daemon on another host",
        description=(
            "Builds an engine on this host and refocuses frames for a daemon elsewhere. Comes back by "
            "itself when the link is cut or the daemon is restarted; ends with Ctrl-C."
        ),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--connect", required=True, metavar="ADDRESS", help="tcp://HOST:PORT")
    parser.add_argument(
        "--keys", required=True, metavar="FILE", help="made with `refocusd keys new` there"
    )
    parser.add_argument("--once", action="store_true", help="end when the link or the daemon ends")
    group = parser.add_argument_group("settings (before file and environment)")
    group.add_argument("--config", metavar="FILE", help="settings file, TOML")
    group.add_argument("--model", help="name of a shipped model, or a bundle's folder")
    group.add_argument("--backend", choices=get_args(Backend))
    group.add_argument("--precision", choices=get_args(Precision))
    group.add_argument("--threads", type=int, help="threads of a CPU engine; 0 chooses")
    parser.set_defaults(command=_worker)


def _worker(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config, {name: getattr(arguments, name) for name in _FLAGS})
    keys = load_client_keys(arguments.keys)
    asked = threading.Event()
    # Handlers only set a flag: a frame at work is finished and sent.
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: asked.set())
    yield_to_acquisition(NICENESS)
    prepared = prepare(settings.models, settings.engine_options)
    try:
        work_remotely(
            arguments.connect,
            keys,
            prepared,
            once=arguments.once,
            asked=asked,
        )
    except MemoryError as error:
        raise WorkerError(
            "a frame took more memory than there is; start the worker again, with fewer --threads or "
            "on a host with more"
        ) from error
    prepared.close()
    log.info("worker ended")
    return 0
