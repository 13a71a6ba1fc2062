"""Announcements of acquisitions that were open when their daemon ended, from the marks beside ledgers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from refocusd.ledger import marked
from refocusd.transport.messages import Open

log = logging.getLogger(__name__)


def announcements(ledgers: str | Path) -> Iterator[tuple[Open, str]]:
    """Announcements of open acquisitions, each with the id of its run ("" where that is not known).

    A mark that cannot be read is logged and left out.

    Parameters
    ----------
    ledgers : path
        Folder of the local ledgers.
    """
    for mark in marked(ledgers):
        try:
            fields = msgspec.json.decode(mark.open_json, type=dict[str, object])
            run = str(fields.pop("run", ""))
            fields.pop("advise", None)  # of a version that could move the stage
            yield msgspec.convert(fields, Open), run
        except msgspec.MsgspecError as error:
            log.warning("the mark of acquisition %s is unusable: %s", mark.acquisition, error)
