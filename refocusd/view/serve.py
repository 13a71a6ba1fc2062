"""The assembled view: link, datasets, jobs and web server."""

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
        Address of the page.
    port, pid : int
    entry : str
        The same with the token; the browser then keeps the token in a cookie.
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
    """Run a view for as long as the `with` statement lasts.

    Raises
    ------
    TransportError
        If the port is taken.
    ConfigError
        If the TLS files cannot be used.
    """
    # Imported here, because the daemon and the command line need only this module's names.
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
            # Other users may be able to read a file to which the log is redirected.
            if sys.stderr.isatty() or url == entry:
                log.info("live view: %s", entry)
            else:
                log.info("live view: %s (`refocusd view --print-url` adds its token)", url)
            try:
                yield Announcement(url, port, os.getpid(), entry)
            finally:
                state.close()  # ends the pages' streams


def until_asked(asked: threading.Event) -> None:
    """Wait for `asked`, in short steps so that Ctrl-C works on Windows too."""
    while not asked.wait(0.5):
        pass
