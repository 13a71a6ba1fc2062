"""Catch-up: frames that could not be refocused live, from the raw dataset."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Container, Mapping
from contextlib import closing
from pathlib import Path

from refocusd.config import Settings
from refocusd.daemon.events import CatchUpFailed, EventQueue
from refocusd.errors import InputError, RefocusdError, TransportError, WorkerError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ndtiff.index import INDEX_NAME
from refocusd.formats.open_dataset import open_dataset
from refocusd.ledger import WRITTEN, Ledger, ledger_path
from refocusd.transport.client import SILENCE_S, Connection, Upload
from refocusd.transport.messages import Open

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


class CatchUps:
    """Catch-ups in progress, one thread each.

    Parameters
    ----------
    settings : Settings
    token : str
        Lets a catch-up take over an acquisition that its source has closed.
    mailbox : EventQueue
        Told when one could not be done.
    """

    def __init__(self, settings: Settings, token: str, mailbox: EventQueue) -> None:
        self._settings = settings
        self._token = token
        self._mailbox = mailbox
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
        thread = threading.Thread(target=self._run, args=(open_, run), name="catch-up")
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def stop(self) -> None:
        """End all catch-ups; what they did not reach stays pending."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, open_: Open, run: str) -> None:
        try:
            self._catch_up(open_, run)
        except Exception as error:  # noqa: BLE001 (told to the broker: the acquisition is not complete)
            known = isinstance(error, RefocusdError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            self._mailbox.put(CatchUpFailed(open_.acquisition, reason))

    def _catch_up(self, open_: Open, run: str) -> None:
        path = ledger_path(self._settings.ledgers, open_.acquisition)
        with Ledger(path, read_only=True) as ledger:
            states = ledger.final_states(run, open_.acquisition)
        connection = Connection(self._endpoint, "source", token=self._token)
        try:
            connection.welcome(10.0, self._stopping)
            with closing(_open_raw(open_.raw)) as raw:
                keys = raw.axes_keys()
                upload = Upload(connection, open_)
                self._until(connection, upload, lambda: upload.opened is not None)
                assert upload.opened is not None
                done = self._done(states, open_.acquisition, Path(upload.opened.output))
                pending = [key for key in keys if key not in done]
                log.info("catching up %d of %d frames of %s", len(pending), len(keys), open_.name)
                for key in pending:
                    self._submit(connection, upload, raw, key)
                upload.close(len(keys))
                self._compared.add(open_.acquisition)
        finally:
            connection.close(linger_s=2.0)

    def _done(self, states: Mapping[str, str], acquisition: str, output: Path) -> Container[str]:
        """Frames with a final state; not those that went with a deleted folder, or a power cut."""
        if acquisition in self._compared or not WRITTEN & set(states.values()):
            return states
        with closing(open_dataset(output)) as refocused:
            there = set(refocused.axes_keys())
        return {key for key, state in states.items() if state not in WRITTEN or key in there}

    def _submit(self, connection: Connection, upload: Upload, raw: Dataset, key: str) -> None:
        try:
            frame = raw.read(key)
            metadata = json.dumps(dict(frame.metadata))
            self._until(connection, upload, lambda: upload.credit > 0)
            upload.submit(frame.pixels, key, metadata, time.perf_counter_ns(), live=False)
        except (InputError, OSError, ValueError) as error:
            upload.miss([key], "failed", f"raw cannot be used: {error}")
            # Takes no slot, so that nothing else makes it wait for the daemon.
            self._until(connection, upload, lambda: True)

    def _until(self, connection: Connection, upload: Upload, done: Callable[[], bool]) -> None:
        upload.pump(0)
        while self._stopping.is_set() or upload.refused or not done():
            if self._stopping.is_set():
                raise WorkerError("the daemon was stopped before it was done")
            if upload.refused:
                raise WorkerError(upload.refused)
            if connection.silent_s > SILENCE_S:
                raise TransportError("the broker does not answer")
            upload.pump(0.1)
