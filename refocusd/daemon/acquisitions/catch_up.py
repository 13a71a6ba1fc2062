"""Catch-up: submits frames that could not be refocused live, from the raw dataset."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from refocusd.backoff import persistently
from refocusd.config import Settings
from refocusd.daemon.events import CatchUpFailed, EventQueue
from refocusd.datasets.identity import noted, recognise, samples, without_replaced
from refocusd.errors import InputError, RefocusdError
from refocusd.files import in_command
from refocusd.formats.dataset import Dataset
from refocusd.formats.ndtiff.index import INDEX_NAME
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import counted
from refocusd.ledger import WRITTEN, Ledger, ledger_path
from refocusd.sources.from_disk import submit_all
from refocusd.transport.messages import Open
from refocusd.transport.session import Session, State

log = logging.getLogger(__name__)


def _open_raw(path: str) -> Dataset:
    """Open an NDTiff dataset, or image stacks of Micro-Manager, finished or not."""
    if not (Path(path) / INDEX_NAME).exists():
        return open_dataset(path, growing=True)
    try:
        return open_dataset(path)
    except InputError as error:
        # A damaged record must not cost the frames behind it.
        log.warning("%s; its frames are read by their TIFF directories instead", error)
        return open_dataset(path, growing=True)


def _refuse_another(raw: Dataset, open_: Open, ledger: Ledger, run: str) -> None:
    """Refuse a dataset that was recorded in the place of the acquisition since an earlier daemon ended.

    Raises
    ------
    InputError
        If `raw` is another recording.
    """
    sample = ledger.sample(run, open_.acquisition, samples(raw))
    known = {fate.axes: fate.raw_checksum for fate in sample if fate.raw_checksum is not None}
    noted_then = noted(msgspec.json.decode(open_.recording or "{}"))
    noted_then = without_replaced(noted_then, ledger.fates(run, open_.acquisition))
    recognition = recognise(raw, noted_then, known, growing=True)
    if recognition.differing:
        raise InputError(
            f"{raw.path} is another recording than {open_.name} ({recognition.what}): `refocusd process "
            f"{in_command(raw.path)} --output FOLDER` refocuses this one. To finish the earlier one, keep this "
            "one under another name, put the earlier one in its place and run `refocusd resume`"
        )


@dataclass(slots=True)
class _Raw:
    """The raw dataset of an acquisition, kept between its catch-ups so that each reads only new records.

    Its files are closed in between.  Only the first catch-up checks that it is the same recording, and that
    the output has the frames that the ledger lists: after that, nobody but this daemon writes them.
    """

    dataset: Dataset
    #: Canonical axes of the frames that had no final state when last checked.
    pending: list[str] = field(default_factory=list)
    compared: bool = False

    @classmethod
    def open(cls, path: str) -> _Raw:
        dataset = _open_raw(path)
        return cls(dataset, dataset.axes_keys())

    def refresh(self) -> None:
        """Add the frames that were recorded since the last catch-up."""
        try:
            fresh = self.dataset.refresh()
            # A frame may have been written again.
            self.pending = list(dict.fromkeys([*self.pending, *fresh]))
        except InputError:
            # A damaged record, as in `_open_raw`.
            self.dataset.close()
            self.dataset = _open_raw(str(self.dataset.path))
            self.pending = self.dataset.axes_keys()


class CatchUps:
    """Catch-ups in progress, one thread each.

    Parameters
    ----------
    settings : Settings
    endpoint : str
        The daemon's local address, to which catch-ups connect as sources do.
    token : str
        Lets a catch-up take over an acquisition that its source has closed.
    event_queue : EventQueue
        Receives `CatchUpFailed`.
    """

    def __init__(
        self, settings: Settings, endpoint: str, token: str, event_queue: EventQueue
    ) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._token = token
        self._events = event_queue
        self._stopping = threading.Event()
        #: The raw datasets of acquisitions that may be caught up again.
        self._raw: dict[str, _Raw] = {}
        self._threads: list[threading.Thread] = []

    def start(self, open_: Open, run: str, *, last: bool) -> None:
        """Catch up one acquisition, in a thread that ends with `Close` or with `CatchUpFailed`.

        Parameters
        ----------
        open_ : Open
        run : str
        last : bool
            Whether its source has closed it, so that the raw dataset need not be kept for another catch-up.
        """
        arguments = (open_, run, last)
        thread = threading.Thread(target=self._run, args=arguments, name="catch-up", daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def stop(self, timeout_s: float) -> None:
        """End all catch-ups; frames that they did not reach stay pending.

        Parameters
        ----------
        timeout_s : float
            Time limit for each thread; after one has exceeded it, the others are not waited for.
        """
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout_s)
            if thread.is_alive():
                log.error("a catch-up has not ended within %.0f s: a disk hangs", timeout_s)
                timeout_s = 0.0

    def _run(self, open_: Open, run: str, last: bool) -> None:
        try:
            raw = self._raw.pop(open_.acquisition, None)
            if raw is None:
                raw = persistently(lambda: _Raw.open(open_.raw), self._stopping.wait)
            else:
                persistently(raw.refresh, self._stopping.wait)
            with closing(raw.dataset):
                self._catch_up(raw, open_, run)
            if not last:
                self._raw[open_.acquisition] = raw
        except Exception as error:  # noqa: BLE001 (reported to the broker: the acquisition is not complete)
            known = isinstance(error, RefocusdError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            self._events.put(CatchUpFailed(open_.acquisition, reason))

    def _catch_up(self, raw: _Raw, open_: Open, run: str) -> None:
        path = ledger_path(self._settings.ledgers, open_.acquisition)
        stopped = self._stopping.is_set
        with (
            Ledger(path, read_only=True) as ledger,
            Session(self._endpoint, token=self._token) as session,
        ):
            if not raw.compared:
                _refuse_another(raw.dataset, open_, ledger, run)
            session.until(lambda: session.state is State.READY, stopped)
            session.announce(open_)
            session.until(lambda: session.opened, stopped)
            assert session.opened is not None
            output = None if raw.compared else Path(session.opened.output)
            raw.pending = list(_pending(ledger, run, open_.acquisition, raw.pending, output))
            total = len(raw.dataset)
            log.info("catching up %d of %s of %s", len(raw.pending), counted(total), open_.name)
            submit_all(session, raw.dataset, raw.pending, live=False, stopped=stopped)
            session.close(total)
            raw.compared = True


def _pending(
    ledger: Ledger, run: str, acquisition: str, keys: Iterable[str], output: Path | None
) -> Iterator[str]:
    """Frames without a final state; with `output`, also written frames that it has lost.

    They are lost if the folder was deleted, or the power failed.
    """
    there: frozenset[str] | None = None
    for key in keys:
        state = ledger.state_of(run, acquisition, key)
        if state in WRITTEN and output is not None and there is None:
            with closing(open_dataset(output)) as refocused:
                there = frozenset(refocused.axes_keys())
        lost = state in WRITTEN and there is not None and key not in there
        if state is None or lost:
            yield key
