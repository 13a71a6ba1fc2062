"""The attached sources as children of the daemon: started, kept alive, never waited for."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from refocusd.config import Settings
from refocusd.processes.supervisor import Action, Supervisor
from refocusd.sources.attached.order import AGAIN, orders

#: Time to close its acquisitions with the daemon, s.
STOP_S = 8.0
#: Acquisitions are also taken from before this daemon: since the start of one that was killed, and
#: since the end of one that was stopped, if that was at most this long ago.
KILLED_S, RESTARTED_S = 86_400.0, 60.0


class AttachProcess:
    """``python -m refocusd.sources.attached`` for as long as the `with` statement lasts.

    One process for the folders that are followed and one for Micro-Manager's bridge, as far as the
    settings ask for them.  Whatever happens to them, the daemon continues.

    Parameters
    ----------
    endpoint : str
        Address of the daemon.
    settings : Settings
        ``follow``, ``studio``, ``live``, ``bridge_port``, ``studio_output``, ``ledgers`` and
        ``pick_up`` are used.
    """

    def __init__(self, endpoint: str, settings: Settings) -> None:
        ledgers = Path(settings.ledgers)
        self._mark = ledgers / f"attached-{settings.bridge_port}" if settings.pick_up else None
        self._since_s = _since_s(self._mark)
        wanted = orders(settings, endpoint, self._since_s)
        #: Names of the sources that are wanted, for the log.
        self.sources = [name for order in wanted for name in order.sources]
        self._supervisors = [
            Supervisor(
                f"attached sources ({order.name})",
                ["-m", "refocusd.sources.attached"],
                order=lambda _, order=order: order,  # type: ignore[misc]
                on_end=lambda end: Action.REPLACE if end.status == AGAIN else Action.RESTART,
                stop_s=STOP_S,
            )
            for order in wanted
        ]

    @property
    def pids(self) -> list[int]:
        """Process ids of the running processes."""
        return [supervisor.pid for supervisor in self._supervisors if supervisor.pid is not None]

    def __enter__(self) -> Self:
        self._note("started", self._since_s)
        for supervisor in self._supervisors:
            supervisor.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for supervisor in self._supervisors:
            supervisor.ask_to_stop()
        for supervisor in self._supervisors:
            supervisor.stop()
        self._note("stopped", time.time())

    def _note(self, what: str, at_s: float) -> None:
        if self._mark is not None and self._supervisors:
            with suppress(OSError):
                self._mark.parent.mkdir(parents=True, exist_ok=True)
                self._mark.write_text(f"{what} {at_s}", encoding="utf-8")


def _since_s(mark: Path | None) -> float:
    """Time from which acquisitions belong to this daemon, in seconds since 1970."""
    now = time.time()
    try:
        what, _, at = mark.read_text(encoding="utf-8").partition(" ") if mark else ("", "", "0")
        at_s = float(at)
    except (OSError, ValueError):
        return now
    allowed_s = KILLED_S if what == "started" else RESTARTED_S
    return at_s if 0 <= now - at_s < allowed_s else now
