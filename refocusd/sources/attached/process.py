"""The attached sources as children of the daemon: started, kept alive, never waited for."""

from __future__ import annotations

from typing import Self

from refocusd.config import Settings
from refocusd.processes.supervisor import Action, Supervisor
from refocusd.sources.attached.order import AGAIN, orders

#: To close its acquisitions at the daemon.
STOP_S = 8.0


class AttachProcess:
    """``python -m refocusd.sources.attached`` for as long as the `with` statement lasts.

    One process for the folders that are followed and one for Micro-Manager's bridge, each only
    where it is wanted.  Whatever happens to them, the daemon goes on.

    Parameters
    ----------
    endpoint : str
        Of the daemon.
    settings : Settings
        ``follow``, ``studio``, ``live``, ``bridge_port`` and ``studio_output`` say what is wanted.
    """

    def __init__(self, endpoint: str, settings: Settings) -> None:
        wanted = orders(settings, endpoint)
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
        """Of the running processes."""
        return [supervisor.pid for supervisor in self._supervisors if supervisor.pid is not None]

    def __enter__(self) -> Self:
        for supervisor in self._supervisors:
            supervisor.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for supervisor in self._supervisors:
            supervisor.ask_to_stop()
        for supervisor in self._supervisors:
            supervisor.stop()
