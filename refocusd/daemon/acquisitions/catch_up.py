"""Catch-up: frames that could not be refocused live, from the raw dataset."""

from __future__ import annotations

import logging
import threading
from collections.abc import Container, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from refocusd.config import Settings
from refocusd.daemon.events import CatchUpFailed, EventQueue
from refocusd.datasets.identity import noted, recognise, samples
from refocusd.errors import InputError, RefocusdError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ndtiff.index import INDEX_NAME
from refocusd.formats.open_dataset import open_dataset
from refocusd.ledger import WRITTEN, Fate, Ledger, ledger_path
from refocusd.sources.from_disk import submit_all
from refocusd.transport.messages import Open
from refocusd.transport.session import Session, State

__all__ = ["CatchUps"]

log = logging.getLogger(__name__)


def _open_raw(path: str) -> Dataset:
    """An NDTiff dataset, or image stacks of Micro-Manager, finished or not."""
    if not (Path(path) / INDEX_NAME).exists():
        return open_dataset(path, growing=True)
    try:
        return open_dataset(path)
    except InputError as error:
        # One frame that cannot be used (RGB, in mid-run) must not cost the others.
        log.warning("%s; its frames are found by their directories", error)
        return open_dataset(path, growing=True)


def _refuse_another(raw: Dataset, open_: Open, sample: Sequence[Fate]) -> None:
    """Refuse what was recorded in the place of an acquisition since an earlier daemon ended.

    Raises
    ------
    InputError
    """
    known = {fate.axes: fate.raw_checksum for fate in sample if fate.raw_checksum is not None}
    noted_then = noted(msgspec.json.decode(open_.recording or "{}"))
    recognition = recognise(raw, noted_then, known, growing=True)
    if recognition.differing:
        raise InputError(
            f"{raw.path} is another recording than {open_.name} ({recognition.what}): put that one back, "
            f"and `refocusd resume` does the rest; `refocusd process {raw.path} --output FOLDER` "
            "refocuses this one"
        )


class CatchUps:
    """Catch-ups in progress, one thread each.

    Parameters
    ----------
    settings : Settings
    token : str
        Lets a catch-up take over an acquisition that its source has closed.
    event_queue : EventQueue
        Told when one could not be done.
    """

    def __init__(self, settings: Settings, token: str, event_queue: EventQueue) -> None:
        self._settings = settings
        self._token = token
        self._events = event_queue
        self._endpoint = ""
        self._stopping = threading.Event()
        #: Acquisitions whose dataset was compared with the ledger once: both belong to us since.
        self._compared: set[str] = set()
        self._threads: list[threading.Thread] = []

    def listen_on(self, endpoint: str) -> None:
        """Say where the daemon's socket was bound."""
        self._endpoint = endpoint

    def start(self, open_: Open, run: str) -> None:
        """Catch up one acquisition; ends with its `Close`, or with `CatchUpFailed`."""
        thread = threading.Thread(target=self._run, args=(open_, run), name="catch-up", daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def stop(self, timeout_s: float) -> None:
        """End all catch-ups; what they did not reach stays pending."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout_s)
            if thread.is_alive():
                log.error("a catch-up has not ended within %.0f s: a disk hangs", timeout_s)
                timeout_s = 0.0

    def _run(self, open_: Open, run: str) -> None:
        try:
            self._catch_up(open_, run)
        except Exception as error:  # noqa: BLE001 (told to the broker: the acquisition is not complete)
            known = isinstance(error, RefocusdError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            self._events.put(CatchUpFailed(open_.acquisition, reason))

    def _catch_up(self, open_: Open, run: str) -> None:
        path = ledger_path(self._settings.ledgers, open_.acquisition)
        with Ledger(path, read_only=True) as ledger:
            states = ledger.final_states(run, open_.acquisition)
        stopped = self._stopping.is_set
        session = Session(self._endpoint, token=self._token)
        with session, closing(_open_raw(open_.raw)) as raw:
            keys = raw.axes_keys()
            if open_.acquisition not in self._compared:
                with Ledger(path, read_only=True) as ledger:
                    sample = ledger.sample(run, open_.acquisition, samples(raw))
                _refuse_another(raw, open_, sample)
            session.until(lambda: session.state is State.READY, stopped)
            session.announce(open_)
            session.until(lambda: session.opened, stopped)
            assert session.opened is not None
            done = self._done(states, open_.acquisition, Path(session.opened.output))
            pending = [key for key in keys if key not in done]
            log.info("catching up %d of %d frames of %s", len(pending), len(keys), open_.name)
            submit_all(session, raw, pending, live=False, stopped=stopped)
            session.close(len(keys))
            self._compared.add(open_.acquisition)

    def _done(self, states: Mapping[str, str], acquisition: str, output: Path) -> Container[str]:
        """Frames with a final state; not those that went with a deleted folder, or a power cut."""
        if acquisition in self._compared or not WRITTEN & set(states.values()):
            return states
        with closing(open_dataset(output)) as refocused:
            there = set(refocused.axes_keys())
        return {key for key, state in states.items() if state not in WRITTEN or key in there}
