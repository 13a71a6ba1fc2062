"""The view, put together: link, datasets, server."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec

from refocusd.config import Settings, environment_of
from refocusd.view.http.options import ViewOptions

log = logging.getLogger(__name__)


class Announcement(msgspec.Struct, frozen=True):
    """Where a view listens; ``python -m refocusd.view --announce`` prints it as a line.

    Parameters
    ----------
    url : str
        Of the page, on this computer.
    port, pid : int
    entry : str
        The same with the token, which the page's cookie keeps from then on.
    """

    url: str
    port: int
    pid: int
    entry: str = ""


def page_address(options: ViewOptions, port: int, *, token: bool = True) -> str:
    """Where a browser finds the page."""
    name = f"[{options.host}]" if ":" in options.host else options.host
    shown = f"?token={options.token}" if token and options.token else ""
    return f"{options.scheme}://{name}:{port}/{shown}"


class WantedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a view reports to the daemon that started it, as a line on standard output."""

    wanted: Settings


@contextmanager
def serving(options: ViewOptions) -> Iterator[Announcement]:
    """A view that answers, for as long as the `with` statement lasts.

    Raises
    ------
    TransportError
        If the port is taken.
    ConfigError
        If the TLS files cannot be used.
    """
    # The daemon and the command line import this module for its names only.
    from refocusd.view.frames.datasets import Datasets
    from refocusd.view.http.app import view_app
    from refocusd.view.http.server import web_server
    from refocusd.view.state.alerts import Alerts
    from refocusd.view.state.gpu import GpuMonitor
    from refocusd.view.state.jobs import Jobs
    from refocusd.view.state.link import DaemonLink
    from refocusd.view.state.view_state import ViewState

    state = ViewState(options.endpoint)
    settings = environment_of(options.settings) if options.settings is not None else {}
    with (
        closing(Datasets(state)) as datasets,
        Alerts(options.webhook, options.webhook_untrusted) as alerts,
        DaemonLink(state, alerts.note, alerts.note_outcomes) as link,
        Jobs({"REFOCUSD_ENDPOINT": options.endpoint, **settings}, state.note_jobs) as jobs,
    ):
        app = view_app(options, state, link, datasets, GpuMonitor(), jobs)
        with web_server(options, app) as port:
            url, entry = page_address(options, port, token=False), page_address(options, port)
            # Other users may read a file that this is redirected to.
            if sys.stderr.isatty() or url == entry:
                log.info("live view: %s", entry)
            else:
                log.info("live view: %s (`refocusd view --print-url` adds its token)", url)
            try:
                yield Announcement(url, port, os.getpid(), entry)
            finally:
                state.close()  # ends the pages' streams


def until_asked(asked: threading.Event) -> None:
    """Wait; in small steps, so that an interrupt is heard on Windows too."""
    while not asked.wait(0.5):
        pass
