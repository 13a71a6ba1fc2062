"""Catch-up: frames that could not be refocused live, from the raw dataset."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import closing
from pathlib import Path

from refocusd.config import Settings
from refocusd.daemon.mailbox import CaughtUp, Mailbox
from refocusd.errors import RefocusdError, TransportError
from refocusd.ledger import Ledger
from refocusd.sources.recording.ndtiff import NDTiffReader
from refocusd.transport.client import SILENCE_S, Connection, Upload
from refocusd.transport.messages import Open

__all__ = ["CatchUps"]

log = logging.getLogger(__name__)


class CatchUps:
    """Catch-ups in progress, one thread each.

    Parameters
    ----------
    settings : Settings
    token : str
        Lets a catch-up take over an acquisition that its source has closed.
    mailbox : Mailbox
        Told when one has ended.
    """

    def __init__(self, settings: Settings, token: str, mailbox: Mailbox) -> None:
        self._settings = settings
        self._token = token
        self._mailbox = mailbox
        self._endpoint = ""
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def listen_on(self, endpoint: str) -> None:
        """Say where the daemon's socket was bound."""
        self._endpoint = endpoint

    def start(self, open_: Open, run: str) -> None:
        """Catch up one acquisition; ends with `CaughtUp`."""
        thread = threading.Thread(target=self._run, args=(open_, run), name="catch-up")
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def stop(self) -> None:
        """End all catch-ups; what they did not reach stays pending."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, open_: Open, run: str) -> None:
        error = ""
        try:
            self._catch_up(open_, run)
        except (RefocusdError, OSError) as problem:
            error = str(problem)
        finally:
            self._mailbox.put(CaughtUp(open_.acquisition, error))

    def _catch_up(self, open_: Open, run: str) -> None:
        ledger_path = Path(self._settings.ledgers) / f"{open_.acquisition}.sqlite"
        with Ledger(ledger_path, read_only=True) as ledger:
            done = ledger.final_states(run, open_.acquisition)
        with (
            closing(NDTiffReader(open_.raw)) as raw,
            Connection(self._endpoint, "source", token=self._token) as connection,
        ):
            keys = raw.axes_keys()
            pending = [key for key in keys if key not in done]
            log.info("catching up %d of %d frames of %s", len(pending), len(keys), open_.name)
            connection.welcome(timeout_s=10.0)
            upload = Upload(connection, open_)
            for key in pending:
                frame = raw.read(key)
                metadata = json.dumps(dict(frame.metadata))
                taken_ns = time.perf_counter_ns()
                while not upload.submit(frame.pixels, key, metadata, taken_ns, live=False):
                    if self._stopping.is_set() or upload.refused:
                        return
                    if connection.silent_s > SILENCE_S:
                        raise TransportError("the broker does not answer")
                    upload.pump(0.1)
                    taken_ns = time.perf_counter_ns()
            upload.close(len(keys))
            # The message has left once the broker is heard again, or nobody is there to hear it.
            upload.pump(1.0)
