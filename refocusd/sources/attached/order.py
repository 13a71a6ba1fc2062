"""The parent's order to a new attach process, as one JSON line on its standard input."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from refocusd.config import Settings
from refocusd.ledger import marked

#: Exit status of a process that asks for a successor: Micro-Manager was restarted.
AGAIN = 75
#: Micro-Manager's bridge listens on the loopback interface only.
BRIDGE_HOST = "127.0.0.1"


class AttachOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sources that one process runs.

    Parameters
    ----------
    endpoint : str
        Address of the daemon.
    follow : list of str
        Folders where datasets appear.
    studio : {"auto", "on", "off"}
        Whether to take acquisitions started in Micro-Manager's GUI.
    live : bool
        Whether to take live mode and snaps.
    bridge_host, bridge_port
        Address of Micro-Manager's bridge.
    covered : list of str
        Folders that another process follows; it takes the acquisitions saved there.
    studio_output : str
        Folder for refocused datasets of acquisitions that Micro-Manager does not save.
    since_s : float
        When refocusd was started, or an earlier one that was killed, in seconds since 1970:
        acquisitions since then are taken, even if they ended before this process could see them.
    roots_noted : str
        File that lists the folders in which Micro-Manager saved last.
    unfinished : list of str
        Acquisitions that an earlier daemon left unfinished; this daemon finishes them.
    """

    endpoint: str
    follow: list[str] = []
    studio: Literal["auto", "on", "off"] = "off"
    live: bool = False
    bridge_host: str = BRIDGE_HOST
    bridge_port: int = 4827
    covered: list[str] = []
    studio_output: str = ""
    since_s: float = 0.0
    roots_noted: str = ""
    unfinished: list[str] = []

    @property
    def sources(self) -> list[str]:
        """Names of the sources, for the log."""
        there = {
            f"follow ({', '.join(self.follow)})": bool(self.follow),
            f"studio ({self.studio})": self.studio != "off",
            "live": self.live,
        }
        return [name for name, wanted in there.items() if wanted]

    @property
    def name(self) -> str:
        """Name of the process, for the log."""
        return "follow" if self.follow else "bridge"


def orders(settings: Settings, endpoint: str, since_s: float = 0.0) -> list[AttachOrder]:
    """The processes that these settings ask for.

    The bridge has its own: when Micro-Manager goes, its client hangs and is replaced, which must
    not affect the datasets that are followed.
    """
    wanted: list[AttachOrder] = []
    unfinished = [mark.acquisition for mark in marked(settings.ledgers)]
    if settings.follow:
        wanted.append(
            AttachOrder(endpoint, follow=settings.follow, since_s=since_s, unfinished=unfinished)
        )
    if settings.studio != "off" or settings.live:
        wanted.append(
            AttachOrder(
                endpoint,
                studio=settings.studio,
                live=settings.live,
                bridge_port=settings.bridge_port,
                covered=settings.follow,
                studio_output=settings.studio_output,
                since_s=since_s,
                roots_noted=str(Path(settings.ledgers) / f"attached-{settings.bridge_port}-roots"),
                unfinished=unfinished,
            )
        )
    return wanted
