"""The view as a child of the daemon: started, kept alive, and never waited for."""

from __future__ import annotations

import contextlib
import threading
from typing import Self

import msgspec

from refocusd.config import Settings
from refocusd.processes.supervisor import Action, Supervisor
from refocusd.view.serve import Announcement, WantedSettings

#: Exit status of a view that cannot work: a taken port, unusable TLS files.
_CANNOT = 2


class ViewProcess:
    """``python -m refocusd.view`` for as long as the `with` statement lasts.

    Whatever happens to the view, the daemon continues. A view that ends is started again; one that
    cannot work is given up with a line in the log.

    Parameters
    ----------
    endpoint : str
        Address of the daemon.
    flags : list of str
        Further flags, e.g. ``["--port", "8750"]``.
    settings : Settings, optional
        Settings of the daemon; jobs started from the page use them too.

    Attributes
    ----------
    url, entry : str
        Addresses of the page, without and with its token, once it listens; empty before that, and
        after the view was given up.
    wanted : Settings or None
        All settings, with those chosen on the page; None until something is chosen.
    settled : threading.Event
        Set once the page can be opened, or the view was given up.
    """

    def __init__(
        self, endpoint: str, flags: list[str] | None = None, settings: Settings | None = None
    ) -> None:
        command = ["-m", "refocusd.view", "--announce", "--with-parent", "--endpoint", endpoint]
        used = msgspec.structs.replace(settings or Settings(), endpoint=endpoint)
        self._supervisor = Supervisor(
            "the live view",
            [*command, "--with-settings", *(flags or [])],
            order=lambda _: used,
            on_line=self._said,
            on_end=lambda end: Action.GIVE_UP if end.status == _CANNOT else Action.RESTART,
            on_over=self._ended,
        )
        self.url = self.entry = ""
        self.wanted: Settings | None = None
        self.settled = threading.Event()

    @property
    def pid(self) -> int | None:
        """Process id of the view, if it is running."""
        return self._supervisor.pid

    def __enter__(self) -> Self:
        self._supervisor.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._supervisor.stop()

    def _said(self, line: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            self.wanted = msgspec.json.decode(line, type=WantedSettings).wanted
        with contextlib.suppress(msgspec.MsgspecError):
            said = msgspec.json.decode(line, type=Announcement)
            self.url, self.entry = said.url, said.entry
            self.settled.set()

    def _ended(self) -> None:
        self.url = self.entry = ""
        self.settled.set()
