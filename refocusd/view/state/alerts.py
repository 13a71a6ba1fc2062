"""Posts alerts to one URL, for when nobody watches: JSON that says what is wrong."""

from __future__ import annotations

import contextlib
import http.client
import logging
import queue
import socket
import threading
import time
import urllib.request
from collections import deque
from datetime import UTC, datetime
from typing import Any, Self

from refocusd.frame import counted
from refocusd.transport.messages import AcquisitionStatus, Counts, FrameOutcome, Status
from refocusd.view.json_text import json_bytes

log = logging.getLogger(__name__)

#: At most this many alerts wait to be sent; further ones are dropped.
MAX_WAITING = 64
#: At most this many acquisitions, and alerts that were sent, are remembered.
MAX_KNOWN = 1000
SEND_S = 10.0
#: The untrusted share is that of the last `JUDGED` judged frames, if there are at least `MIN_JUDGED`.
JUDGED, MIN_JUDGED = 50, 20
#: Workers are restarted; an alert is sent after this long without any.
NO_WORKER_S = 60.0


class Alerts:
    """Sends alerts from a thread of its own, for as long as the `with` statement lasts.

    There is an alert for an acquisition that ends with failed or pending frames, that is paused
    because its disk is full, of which many frames are untrusted, or that ran unseen, and for a
    daemon that has had no worker for a minute.

    Parameters
    ----------
    url : str
        URL to which they are posted; empty for none.
    max_untrusted : float
        Largest share of an acquisition's last frames that may be untrusted without an alert, 0 to 1.
    """

    def __init__(self, url: str, max_untrusted: float = 1.0) -> None:
        self._url = url
        self._max_untrusted = max_untrusted
        self._begun = time.time()
        #: By acquisition: whether each of its last frames is untrusted.
        self._judged: dict[str, deque[bool]] = {}
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._first = True
        #: Alerts that were sent, or whose cause is older than this process: (acquisition, what).
        self._told: dict[tuple[str, str], None] = {}
        self._worker_seen_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._url:
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._url:
            # A URL that accepts no alerts must not keep the view from ending.
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(SEND_S)

    def note(self, status: Status) -> None:
        """Take in the daemon's newest status; does not wait."""
        if not self._url:
            return
        for detail in status.details:
            for event, text in _troubles(detail):
                if self._is_news(detail.id, event) and not self._first:
                    self._put(event, text, detail.id, detail.counts)
        for text in status.unseen_last:
            if self._is_news(text, "acquisition not seen") and not self._first:
                self._put("acquisition not seen", text)
        now = time.monotonic()
        if status.workers or status.stopping:
            self._worker_seen_at = now
            self._told.pop(("", "no worker"), None)
        elif now - self._worker_seen_at > NO_WORKER_S and self._is_news("", "no worker"):
            self._put("no worker", f"no worker has been ready for {NO_WORKER_S:.0f} s")
        self._first = False

    def note_outcomes(self, outcomes: list[FrameOutcome]) -> None:
        """Take in outcomes of frames; does not wait."""
        for outcome in outcomes if self._url else ():
            if outcome.verdict is None or outcome.at < self._begun:
                continue
            acquisition = outcome.acquisition
            judged = self._judged.setdefault(acquisition, deque(maxlen=JUDGED))
            if len(self._judged) > MAX_KNOWN:
                del self._judged[next(iter(self._judged))]
            judged.append(outcome.verdict == "untrusted")
            share = sum(judged) / len(judged)
            enough = len(judged) >= MIN_JUDGED and share > self._max_untrusted
            if enough and self._is_news(acquisition, "frames not trusted"):
                why = outcome.reasons[0] if outcome.reasons else "no reason was given"
                text = (
                    f"{outcome.name}: {sum(judged)} of the last {len(judged)} frames are not "
                    f"trusted, such as {outcome.axes} ({why})"
                )
                self._put("frames not trusted", text, acquisition)

    def _is_news(self, acquisition: str, event: str) -> bool:
        known = (acquisition, event) in self._told
        self._told[acquisition, event] = None
        if len(self._told) > MAX_KNOWN:
            del self._told[next(iter(self._told))]
        return not known

    def _put(
        self, event: str, text: str, acquisition: str | None = None, counts: Counts | None = None
    ) -> None:
        try:
            self._waiting.put_nowait(alert_of(event, text, acquisition, counts))
        except queue.Full:
            log.warning("an alert was dropped, because %s accepts none: %s", self._url, text)

    def _run(self) -> None:
        while (alert := self._waiting.get()) is not None:
            post(self._url, alert)


def alert_of(
    event: str, text: str, acquisition: str | None = None, counts: Counts | None = None
) -> dict[str, Any]:
    """The alert as it is posted: plain values for JSON."""
    return {
        "event": event,
        "text": text,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "acquisition": acquisition,
        "counts": counts,
    }


def post(url: str, alert: dict[str, Any]) -> None:
    """Post an alert; if that fails, it is logged."""
    headers = {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(url, json_bytes(alert), headers)  # noqa: S310
        urllib.request.urlopen(request, timeout=SEND_S).close()  # noqa: S310
    except (OSError, ValueError, http.client.HTTPException) as error:
        log.warning("the alert %r did not reach %s: %s", alert["text"], url, error)


def _troubles(detail: AcquisitionStatus) -> list[tuple[str, str]]:
    found = []
    counts = detail.counts
    if detail.state == "ended" and counts.failed + counts.pending:
        text = f"{detail.name} is incomplete: {counted(counts.failed)} failed, {counts.pending} pending"
        found.append(("acquisition incomplete", text))
    found += [
        ("disk full", f"{detail.name}: {warning}")
        for warning in detail.warnings
        if warning.startswith("the disk of ")
    ]
    return found
