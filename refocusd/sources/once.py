"""Warnings that a source would repeat for every frame: each is logged once."""

from __future__ import annotations

import logging

#: Different warnings logged at most: a text may name the frame.
MAX_WARNINGS = 100


class Once:
    """Logs each text once, until `forget`.

    Parameters
    ----------
    log : logging.Logger
    about : str
        What the warnings are about; they begin with it.
    note : str
        They end with it.
    """

    def __init__(self, log: logging.Logger, about: object = "", note: str = "") -> None:
        self._log = log
        self._form = (f"{about}: " if about else "") + "%s" + note
        self._said: set[str] = set()

    def __call__(self, text: str) -> None:
        """Log `text`, unless that was done before."""
        if text not in self._said and len(self._said) < MAX_WARNINGS:
            self._said.add(text)
            self._log.warning(self._form, text)

    def forget(self) -> None:
        """What was said may be said again: things had become better meanwhile."""
        self._said.clear()
