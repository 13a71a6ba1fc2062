"""Logs warnings only once that a source would otherwise repeat for every frame."""

from __future__ import annotations

import logging

#: At most this many different warnings are logged: a text may name the frame.
MAX_WARNINGS = 100


class Once:
    """Logs each text once, until `forget`.

    Parameters
    ----------
    log : logging.Logger
    about : str
        What the warnings are about; each begins with it.
    note : str
        Each warning ends with it.
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
        """Let earlier warnings be logged again, because the cause had gone in between."""
        self._said.clear()
