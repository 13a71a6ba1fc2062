"""Acquisitions that an earlier daemon left unfinished, from the marks beside the ledgers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from refocusd.daemon.events import EventQueue, LeftUnfinished
from refocusd.daemon.output.patience import answer_of
from refocusd.datasets.dataset import announcement_of
from refocusd.errors import LedgerError
from refocusd.files import in_command
from refocusd.ledger import marked, unmark
from refocusd.transport.messages import Open

log = logging.getLogger(__name__)


def find_unfinished(ledgers: str, events: EventQueue) -> None:
    """Report acquisitions that can be finished, in a thread of its own.

    Their raw data may be on a share that does not answer: then neither the broker
    nor the end of this process waits for it.
    """

    def find() -> None:
        for message, run in left_unfinished(ledgers):
            events.put(LeftUnfinished(message, run))

    threading.Thread(target=find, name="find-unfinished", daemon=True).start()


def left_unfinished(ledgers: str) -> Iterator[tuple[Open, str]]:
    """Announcements of acquisitions whose raw data are there, each with the id of its run.

    Marks of acquisitions whose raw data are gone are removed: nothing can be done for them.

    Parameters
    ----------
    ledgers : str
        Folder of the ledgers.
    """
    for mark in marked(ledgers):
        try:
            message, run = announcement_of(mark)
        except msgspec.MsgspecError as error:
            log.warning("the mark of acquisition %s is unusable: %s", mark.acquisition, error)
            continue
        there = answer_of(partial(_is_folder, message.raw), otherwise=None)
        if there:
            yield message, run
            continue
        if there is None:
            log.warning(
                "%s was left unfinished, and the disk of its raw data (%s) does not answer: it is looked "
                "at by the next daemon, or `refocusd resume %s` finishes it",
                *(message.name, message.raw, in_command(message.raw)),
            )
            continue
        log.warning(
            "%s was left unfinished, but its raw data (%s) is not there any more",
            message.name,
            message.raw or "none was kept",
        )
        try:
            unmark(ledgers, mark.acquisition)
        except LedgerError as error:
            log.warning("%s", error)


def _is_folder(path: str) -> bool:
    try:
        return bool(path) and Path(path).is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        return False
