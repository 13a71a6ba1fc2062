"""Finds acquisitions that an earlier daemon left unfinished, by the marks beside the ledgers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from refocusd.daemon.events import EventQueue, LeftUnfinished
from refocusd.daemon.output.patience import answer_of
from refocusd.datasets.dataset import announcement_of
from refocusd.datasets.run_folder import output_of
from refocusd.errors import LedgerError
from refocusd.files import in_command
from refocusd.ledger import is_marked, marked, unmark
from refocusd.transport.messages import Open

log = logging.getLogger(__name__)


#: Interval at which missing raw data are looked for, in s: their share may be mounted later.
AGAIN_S = 10.0


def find_unfinished(ledgers: str, events: EventQueue) -> None:
    """Report acquisitions that can be finished, from a separate thread.

    Their raw data may be on a share that does not answer: neither the broker nor the end of this
    process waits for that.
    """

    def find() -> None:
        for message, run in left_unfinished(ledgers, events.closed.wait):
            events.put(LeftUnfinished(message, run))

    threading.Thread(target=find, name="find-unfinished", daemon=True).start()


def left_unfinished(
    ledgers: str, stopped: Callable[[float], bool] = lambda _: True
) -> Iterator[tuple[Open, str]]:
    """Yield the announcements of acquisitions whose raw data exist, each with the id of its run.

    If raw data are missing, they are looked for again and again, because a share may be mounted late.
    Marks of acquisitions whose raw data were deleted are removed, because they cannot be finished.

    Parameters
    ----------
    ledgers : str
        Folder of the ledgers.
    stopped : callable
        Waits for the given number of seconds, and returns True to end the search.
    """
    marks, first = marked(ledgers), True
    while marks:
        away = []
        for mark in marks:
            try:
                message, run = announcement_of(mark)
            except msgspec.MsgspecError as error:
                log.warning("the mark of acquisition %s is unusable: %s", mark.acquisition, error)
                continue
            standing = answer_of(partial(_standing, message), otherwise="silent")
            if standing == "there":
                yield message, run
            elif standing == "gone":
                _forget(ledgers, message)
            else:
                away.append(mark)
                if first:
                    log.warning(
                        "%s was left unfinished, and the disk of its raw data (%s) %s: it is finished once "
                        "that is back, or by `refocusd resume %s`",
                        message.name,
                        message.raw,
                        "does not answer" if standing == "silent" else "is not there",
                        in_command(message.raw),
                    )
        if not away or stopped(AGAIN_S):
            return
        # The others may have been finished by a command, or continued by their sources.
        marks, first = [mark for mark in away if is_marked(ledgers, mark.acquisition)], False


def _forget(ledgers: str, message: Open) -> None:
    log.warning(
        "%s was left unfinished, but its raw data (%s) is not there any more",
        message.name,
        message.raw or "none was kept",
    )
    try:
        unmark(ledgers, message.acquisition)
    except LedgerError as error:
        log.warning("%s", error)


def _standing(message: Open) -> Literal["there", "gone", "away"]:
    """Whether the raw data of an acquisition exist, were deleted, or are on a disk that is not mounted."""
    raw, output = Path(message.raw), output_of(message.raw, message.output)
    try:
        if message.raw and raw.exists():
            return "there"
        # If the refocused dataset exists beside it, its disk is mounted.
        gone = not message.raw or (output.parent == raw.parent and output.is_dir())
    except ValueError:  # not a possible file name
        gone = True
    return "gone" if gone else "away"
