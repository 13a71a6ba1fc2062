"""The view, put together: link, datasets, server."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec

from refocusd.view.frames.datasets import Datasets
from refocusd.view.http.app import view_app
from refocusd.view.http.options import ViewOptions
from refocusd.view.http.server import ViewServer, web_server
from refocusd.view.state.gpu import GpuMonitor
from refocusd.view.state.link import DaemonLink
from refocusd.view.state.view_state import ViewState

__all__ = ["Announcement", "announce", "serving", "until_asked"]

log = logging.getLogger(__name__)


class Announcement(msgspec.Struct, frozen=True):
    """The line that ``python -m refocusd.view --announce`` prints once it listens."""

    url: str
    port: int
    pid: int


@contextmanager
def serving(options: ViewOptions) -> Iterator[ViewServer]:
    """A view that answers, for as long as the `with` statement lasts.

    Raises
    ------
    TransportError
        If the port is taken.
    ConfigError
        If the TLS files cannot be used.
    """
    state = ViewState(options.endpoint)
    with closing(Datasets(state)) as datasets, DaemonLink(state) as link:
        app = view_app(options, state, link, datasets, GpuMonitor())
        with web_server(options, app) as server:
            log.info("live view: %s", server.url)
            try:
                yield server
            finally:
                state.close()  # ends the pages' streams


def announce(server: ViewServer) -> None:
    """Tell the parent, on standard output, where the view listens."""
    line = msgspec.json.encode(Announcement(server.url, server.port, os.getpid()))
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def until_asked(asked: threading.Event) -> None:
    """Wait; in small steps, so that an interrupt is heard on Windows too."""
    while not asked.wait(0.5):
        pass
