"""One thread, one socket: who sends what to whom.

Frames wait in slots of the ring, and slots are credit: a source cannot send a
frame without one, so nothing here grows with the length of an acquisition.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

import zmq

from refocusd import __version__
from refocusd.config import Settings
from refocusd.daemon import mailbox as events
from refocusd.daemon.crew import Crew
from refocusd.daemon.desk import Desk
from refocusd.daemon.mailbox import Mailbox, describe
from refocusd.daemon.writer import Writer
from refocusd.errors import TransportError
from refocusd.frame import Pixels
from refocusd.transport import messages as wire
from refocusd.transport.client import SILENCE_S
from refocusd.transport.ring import SharedRing

__all__ = ["Broker"]

log = logging.getLogger(__name__)

#: How often time-outs are looked at, in seconds.
TICK_S = 0.25
#: Peers that may be connected at once.
MAX_PEERS = 256


class WorkerControl(Protocol):
    """What the broker asks of the supervisor."""

    def kill(self, identity: str) -> None:
        """End a worker that does not answer; it is replaced."""

    def was_ready(self, identity: str) -> None:
        """Note that a worker could start."""

    def no_more(self) -> None:
        """Start no worker again."""


class Broker:
    """Routes frames between sources, workers and the writer.

    Parameters
    ----------
    settings : Settings
    socket : zmq.Socket
        The bound ROUTER socket; the broker's thread owns it from `start` on.
    ring, writer, mailbox
        See their classes.
    token : str
        What the daemon's own workers and catch-ups prove themselves with.
    catch_up : callable
        Starts a catch-up of an acquisition, in a run.
    workers : WorkerControl
        The supervisor of the worker processes.
    """

    def __init__(
        self,
        settings: Settings,
        socket: zmq.Socket[bytes],
        ring: SharedRing,
        writer: Writer,
        mailbox: Mailbox,
        token: str,
        catch_up: Callable[[wire.Open, str], None],
        workers: WorkerControl,
    ) -> None:
        self._settings = settings
        self._socket = socket
        self._ring = ring
        self._mailbox = mailbox
        self._token = token
        self._workers = workers
        self._crew = Crew(self._send, ring)
        self._desk = Desk(settings, ring, writer, self._send, catch_up)
        self._roles: dict[bytes, tuple[wire.Role, bool]] = {}
        self._heard: dict[bytes, float] = {}
        self._stop_by = 0.0
        #: Set once a worker is ready, or the daemon cannot have one.
        self.ready = threading.Event()
        #: Why the daemon ended, if not because it was asked to.
        self.failure = ""
        self._thread = threading.Thread(target=self._run, name="broker")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread's end; False if it still runs."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def counts(self) -> dict[str, wire.Counts]:
        """Counts of the open and the last acquisitions; call it once the thread has ended."""
        return self._desk.counts()

    @property
    def unfinished(self) -> int:
        """Frames of all acquisitions that failed or have no final state."""
        return self._desk.unfinished

    # -- the loop -----------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._mailbox.socket, zmq.POLLIN)
        tick = time.monotonic()
        try:
            while not self._over():
                ready = dict(poller.poll(round(TICK_S * 1000)))
                if self._mailbox.socket in ready:
                    for event in self._mailbox.take():
                        self._on_event(event)
                if self._socket in ready:
                    self._receive()
                self._dispatch()
                if time.monotonic() - tick > TICK_S:
                    tick = time.monotonic()
                    self._look_at_the_clock()
        except Exception:
            log.exception("the broker failed; the daemon ends, what was written stays")
            self.failure = self.failure or "internal error, see the log"
        finally:
            self._workers.no_more()
            self._crew.dismiss()
            self.ready.set()

    def _over(self) -> bool:
        if not self._stop_by:
            return False
        return self._desk.empty or time.monotonic() > self._stop_by

    def _receive(self) -> None:
        # A bounded batch, so that results and written frames are not starved by submissions.
        for _ in range(64):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            identity = bytes(parts[0].buffer)
            message: wire.Message | None = None
            try:
                if len(parts) not in (2, 3):
                    raise TransportError("a message has one header, and pixels at most")
                message = wire.decode(parts[1].buffer)
                self._on_message(identity, message, parts[2].buffer if len(parts) == 3 else None)
            except TransportError as error:
                log.warning("refused from a peer: %s", error)
                about = getattr(message, "acquisition", "")
                self._send(identity, wire.Refused(str(error), about), None)

    def _send(self, identity: bytes, message: wire.Message, pixels: Pixels | None) -> None:
        parts: list[bytes | memoryview] = [identity, wire.encode(message)]
        if pixels is not None:
            parts.append(pixels.data.cast("B"))
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            # The peer is gone or does not read: its time-out will tell.
            log.debug("to %r: %s", identity, error)

    # -- messages -----------------------------------------------------------------------

    def _on_message(self, identity: bytes, message: wire.Message, part: memoryview | None) -> None:
        self._heard[identity] = time.monotonic()
        if isinstance(message, wire.Hello):
            self._on_hello(identity, message)
            return
        if identity not in self._roles:
            raise TransportError("say Hello first (the daemon may have been restarted)")
        role, trusted = self._roles[identity]
        if role == "worker":
            self._crew.heard(identity)
        if isinstance(message, wire.Ping):
            self._send(identity, wire.Ping(), None)
        elif role == "worker":
            self._on_worker(identity, message, part)
        elif role == "source":
            self._on_source(identity, message, part, trusted=trusted)
        else:
            self._on_control(identity, message)

    def _on_hello(self, identity: bytes, message: wire.Hello) -> None:
        trusted = message.token == self._token
        if message.protocol != wire.PROTOCOL:
            older = "that side" if message.protocol < wire.PROTOCOL else "the daemon"
            raise TransportError(
                f"a peer of refocusd {message.version} speaks protocol {message.protocol}, this "
                f"daemon ({__version__}) {wire.PROTOCOL}: upgrade {older}"
            )
        if message.role == "worker" and not trusted:
            raise TransportError("a worker must be started by this daemon")
        if identity not in self._roles and len(self._roles) >= MAX_PEERS:
            raise TransportError(f"{MAX_PEERS} peers are connected; close some")
        self._roles[identity] = (message.role, trusted)
        if message.role == "worker":
            self._crew.join(identity, inline=message.inline)
        self._send(identity, wire.Welcome(wire.PROTOCOL, __version__, self._ring.address), None)

    def _on_source(
        self, identity: bytes, message: wire.Message, part: memoryview | None, *, trusted: bool
    ) -> None:
        if isinstance(message, wire.Open):
            if self._desk.stopping:
                raise TransportError("the daemon is stopping")
            self._desk.open(identity, message, resume=trusted)
        elif isinstance(message, wire.Submit):
            self._desk.submit(identity, message, part)
        elif isinstance(message, wire.Miss):
            self._desk.miss(identity, message)
        elif isinstance(message, wire.Close):
            self._desk.close(identity, message)
        else:
            raise TransportError(f"a source does not send {type(message).__name__}")

    def _on_worker(self, identity: bytes, message: wire.Message, part: memoryview | None) -> None:
        if isinstance(message, wire.Ready):
            self._crew.set_ready(identity, message)
            self._workers.was_ready(identity.decode())
            self._desk.engine_ready(message.engine)
            log.info(
                "%s: %s, ready in %.1f s",
                identity.decode(),
                describe(message.engine),
                message.seconds,
            )
            self.ready.set()
        elif isinstance(message, wire.Result):
            # An answer that nobody waits for any more (its worker was taken for hung) is dropped.
            if task := self._crew.take_back(identity, message.task):
                try:
                    self._crew.fill(identity, task, part)
                except TransportError as error:
                    self._desk.fail(task, str(error))
                else:
                    self._desk.write(task, message)
        elif isinstance(message, wire.Failure):
            if task := self._crew.take_back(identity, message.task):
                self._desk.fail(task, message.reason)
        else:
            raise TransportError(f"a worker does not send {type(message).__name__}")

    def _on_control(self, identity: bytes, message: wire.Message) -> None:
        if isinstance(message, wire.StatusRequest):
            self._send(
                identity,
                wire.Status(
                    version=__version__,
                    pid=os.getpid(),
                    workers=self._crew.ready,
                    engine=self._crew.engine,
                    acquisitions=self._desk.counts(),
                    stopping=self._desk.stopping,
                ),
                None,
            )
        elif isinstance(message, wire.Stop):
            self._begin_stop()
        else:
            raise TransportError(f"a control peer does not send {type(message).__name__}")

    # -- events from other threads ------------------------------------------------------

    def _on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Written):
            self._desk.written(event)
        elif isinstance(event, events.SinkOpened):
            self._desk.sink_opened(event)
        elif isinstance(event, events.Finished):
            self._desk.finished(event.acquisition)
        elif isinstance(event, events.CatchUpFailed):
            self._desk.catch_up_failed(event.acquisition, event.error)
        elif isinstance(event, events.WorkerGone):
            identity = event.identity.encode()
            self._roles.pop(identity, None)
            self._desk.again(self._crew.lose(identity))
        elif isinstance(event, events.WorkersGaveUp):
            self.failure = event.reason
            self._begin_stop()
            self._stop_by = time.monotonic()
        else:
            self._begin_stop()

    def _begin_stop(self) -> None:
        if not self._stop_by:
            self._stop_by = time.monotonic() + self._settings.stop_timeout_s
            self._desk.stop()

    def _dispatch(self) -> None:
        while (worker := self._crew.free()) and (found := self._desk.next_task()):
            task, acquisition = found
            self._crew.assign(worker, task, acquisition)

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for identity in self._crew.hung(self._settings.task_timeout_s):
            log.warning("%s holds one frame too long: replaced", identity.decode())
            self._workers.kill(identity.decode())
        for identity in self._crew.silent(SILENCE_S):
            log.warning("%s is silent: replaced", identity.decode())
            self._workers.kill(identity.decode())
        for identity, heard in list(self._heard.items()):
            if now - heard <= self._settings.source_timeout_s or self._crew.knows(identity):
                continue
            del self._heard[identity]
            self._roles.pop(identity, None)
            self._desk.lost(identity)
