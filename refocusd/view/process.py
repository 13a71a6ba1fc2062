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

    Whatever happens to it, the daemon goes on: a view that ends is started
    again, one that cannot work is given up with a line in the log.

    Parameters
    ----------
    endpoint : str
        Of the daemon.
    flags : list of str
        Further flags, e.g. ``["--port", "8750"]``.
    settings : Settings, optional
        Of the daemon: its jobs use the same.

    Attributes
    ----------
    url, entry : str
        Of the page, without and with its token, once it listens; empty before, and when it was
        given up.
    wanted : Settings or None
        What was chosen on the page, once something was: all settings.
    settled : threading.Event
        Set once the page can be asked for, or never will.
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
        """Of the running process, if there is one."""
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
