"""Frames that are fetched one at a time, on their way to the daemon.

What comes over the bridge is asked for, so nothing needs to be buffered here: the next frame is
fetched when the daemon has room for it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from refocusd import __version__
from refocusd.errors import InputError, TransportError
from refocusd.frame import Pixels
from refocusd.transport.client import SILENCE_S, Connection, Upload
from refocusd.transport.messages import Open, Outcome, Refused, Welcome

__all__ = ["Delivery"]

log = logging.getLogger(__name__)

#: Before the next try where the daemon went away, or says "try again".
AGAIN_S = 1.0


class Delivery:
    """One acquisition on its way; belongs to one thread, and never waits.

    Parameters
    ----------
    endpoint : str
        Of the daemon.
    open_ : Open
        The announcement, with ``report`` set.  A daemon that was restarted is told it again.
    most : int
        Frames at the daemon at a time: a short queue keeps a live view fresh.
    remember : bool
        Keep the axes of the frames that are done.

    Attributes
    ----------
    done : set of str
        Canonical axes of the frames that have a final state, if `remember`.
    refused : str
        Why the daemon does not take this acquisition.
    """

    def __init__(self, endpoint: str, open_: Open, *, most: int, remember: bool = False) -> None:
        if not open_.report:
            raise InputError(
                "a delivery counts the frames at the daemon: its Open asks for reports"
            )
        self.open = open_
        self.done: set[str] = set()
        self.refused = ""
        self._endpoint = endpoint
        self._most = most
        self._remember = remember
        self._out: set[str] = set()
        self._acquired: int | None = None
        self._said_closed = False
        self._again_at = 0.0
        self._upload: Upload | None = None
        self._connection: Connection | None = None

    @property
    def ready(self) -> bool:
        """Whether the daemon has room for a frame now."""
        upload = self._upload
        return bool(upload and upload.opened and upload.credit) and len(self._out) < self._most

    @property
    def idle(self) -> bool:
        """Whether nothing is at the daemon."""
        return not self._out

    @property
    def over(self) -> bool:
        """Whether the daemon has closed the acquisition, or does not take it."""
        return bool(self.refused) or (self._upload is not None and self._upload.closed is not None)

    def knows(self, axes: str) -> bool:
        """Whether a frame is done, or at the daemon."""
        return axes in self.done or axes in self._out

    def pump(self) -> None:
        """Take in what the daemon says; find it again where it went away."""
        if self.over or time.monotonic() < self._again_at:
            return
        if self._connection is None:
            self._connection = Connection(self._endpoint, "source", version=__version__)
        try:
            self._listen(self._connection)
        except TransportError as error:
            log.info("%s: %s", self.open.name, error)
            self._hang_up()

    def submit(self, pixels: Pixels, axes: str, metadata: Mapping[str, Any], taken_ns: int) -> bool:
        """Hand over a frame; False if there is no room for it after all.

        Raises
        ------
        InputError
            If the frame is of another size or type than those before it.
        """
        if self._upload is None or not self.ready:
            return False
        text = json.dumps(metadata, default=str)
        if not self._upload.submit(pixels, axes, text, taken_ns):
            return False
        self._out.add(axes)
        return True

    def fail(self, axes: str, reason: str) -> None:
        """Name a frame that cannot be handed over, and why."""
        if self._upload is not None and self._upload.opened:
            self._upload.miss([axes], "failed", reason)
            self.done.add(axes)

    def finish(self, acquired: int) -> None:
        """No more frames will come of `acquired`; go on with `pump` until it is `over`."""
        self._acquired = acquired

    def close(self) -> None:
        """Hang up, whatever is still out there."""
        if self._upload is not None and self._upload.opened and not self._said_closed:
            self._upload.close(self._acquired or 0)
        if self._connection is not None:
            self._connection.close(linger_s=0.5)
            self._connection = None
        self._upload = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _listen(self, connection: Connection) -> None:
        upload = self._upload
        if upload is None:
            message = connection.receive(0)
            if isinstance(message, Refused):
                self.refused = message.reason
            elif isinstance(message, Welcome):
                connection.accept(message)
                self._upload = Upload(connection, self.open, self._on_outcome)
        else:
            while upload.pump(0):
                pass
            if upload.refused and not upload.again:
                self.refused = upload.refused
            elif upload.refused or (upload.closed and not self._said_closed):
                raise TransportError(upload.refused or "the daemon is stopping")
            elif self._acquired is not None and upload.opened and not self._said_closed:
                self._said_closed = True
                upload.close(self._acquired)
        if connection.silent_s > SILENCE_S:
            raise TransportError(f"the daemon at {self._endpoint} does not answer")

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._upload = None
        self._out.clear()
        self._said_closed = False
        self._again_at = time.monotonic() + AGAIN_S

    def _on_outcome(self, outcome: Outcome) -> None:
        self._out.discard(outcome.axes)
        if self._remember:
            self.done.add(outcome.axes)
