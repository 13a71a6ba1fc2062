"""What an earlier daemon left unfinished, from the marks beside the ledgers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from refocusd.errors import LedgerError
from refocusd.ledger import marked, unmark
from refocusd.transport.messages import Open

__all__ = ["left_unfinished"]

log = logging.getLogger(__name__)


def left_unfinished(ledgers: str) -> Iterator[tuple[Open, str]]:
    """Announcements of acquisitions whose raw data is there, each with the run it was of.

    Marks of acquisitions whose raw data is gone are removed: nothing can be done for them.

    Parameters
    ----------
    ledgers : str
        Folder of the ledgers.
    """
    for mark in marked(ledgers):
        try:
            left = msgspec.json.decode(mark.open_json, type=dict[str, object])
            run = str(left.pop("run", ""))
            message = msgspec.convert(left, Open)
        except msgspec.MsgspecError as error:
            log.warning("the mark of acquisition %s is unusable: %s", mark.acquisition, error)
            continue
        # The parts that `Path.is_dir` lets out: a name that cannot be one.
        try:
            there = bool(message.raw) and Path(message.raw).is_dir()
        except (OSError, ValueError):
            there = False
        if there:
            yield message, run
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
