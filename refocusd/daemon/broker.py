"""One thread, one socket: who sends what to whom.

Frames wait in slots of the ring, and slots are credit: a source cannot send a
frame without one, so nothing here grows with the length of an acquisition.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import zmq

from refocusd import __version__
from refocusd.config import Settings
from refocusd.daemon import events
from refocusd.daemon.acquisitions.intake import Desk
from refocusd.daemon.acquisitions.lifecycle import Course
from refocusd.daemon.acquisitions.unfinished import left_unfinished
from refocusd.daemon.control import Reception
from refocusd.daemon.events import Mailbox, describe
from refocusd.daemon.output.writer import Writer
from refocusd.daemon.workers.pool import Crew
from refocusd.errors import RefocusdError, TransportError
from refocusd.frame import Pixels
from refocusd.transport import messages as wire
from refocusd.transport.client import SILENCE_S
from refocusd.transport.ring import RingAddress, SharedRing
from refocusd.transport.secure.endpoints import Endpoints, allowed_roles

__all__ = ["Broker"]

log = logging.getLogger(__name__)

#: How often time-outs are looked at, in seconds.
TICK_S = 0.25
#: Peers that may be connected at once.
MAX_PEERS = 256
#: The largest header is that of an acquisition, or of the axes of many frames.
MAX_HEADER_NBYTES = 32 << 20
#: Acquisitions of earlier daemons that are open at once.
MAX_PICKED_UP = 8
#: Of what peers do wrong, one line in so many seconds is logged.
COMPLAIN_S = 0.2


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
    endpoints : Endpoints
        The bound sockets; the broker's thread owns them from `start` on.
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
        endpoints: Endpoints,
        ring: SharedRing,
        writer: Writer,
        mailbox: Mailbox,
        token: str,
        catch_up: Callable[[wire.Open, str], None],
        workers: WorkerControl,
    ) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._writer = writer
        self._ring = ring
        self._mailbox = mailbox
        self._token = token
        self._workers = workers
        self._crew = Crew(self._send, ring)
        self._course = Course(settings, ring, writer, self._send, catch_up)
        self._desk = Desk(settings, ring, writer, self._send, self._course)
        self._reception = Reception(self._course, self._crew, ring, writer.preview, self._send)
        self._roles: dict[bytes, tuple[wire.Role, bool]] = {}
        self._heard: dict[bytes, float] = {}
        #: What an earlier daemon left unfinished, and the run it was of.
        self._left: deque[tuple[wire.Open, str]] = deque()
        self._stop_by = 0.0
        self._complained_at = 0.0
        #: Set once a worker is ready, or the daemon cannot have one.
        self.ready = threading.Event()
        #: Why the daemon ended, if not because it was asked to.
        self.failure = ""
        self._thread = threading.Thread(target=self._run, name="broker")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def expect(self, models: str) -> None:
        """Name the models (`models_named`) that the daemon's own workers are about to run."""
        self._crew.models = models

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread's end; False if it still runs."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def counts(self) -> dict[str, wire.Counts]:
        """Counts of the open and the last acquisitions; call it once the thread has ended."""
        return self._course.counts()

    @property
    def unfinished(self) -> int:
        """Frames of all acquisitions that failed or have no final state."""
        return self._course.unfinished

    # -- the loop -----------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        self._endpoints.register(poller)
        poller.register(self._mailbox.socket, zmq.POLLIN)
        tick = time.monotonic()
        try:
            while not self._over():
                ready = dict(poller.poll(round(TICK_S * 1000)))
                if self._mailbox.socket in ready:
                    for event in self._mailbox.take():
                        self._on_event(event)
                for identity, parts in self._endpoints.receive(ready):
                    self._receive(identity, parts)
                self._dispatch()
                if time.monotonic() - tick > TICK_S:
                    tick = time.monotonic()
                    self._look_at_the_clock()
            self._course.abandon()
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
        return self._course.empty or time.monotonic() > self._stop_by

    def _receive(self, identity: bytes, parts: list[zmq.Frame]) -> None:
        message: wire.Message | None = None
        try:
            if len(parts) not in (1, 2):
                raise TransportError("a message has one header, and pixels at most")
            if len(parts[0]) > MAX_HEADER_NBYTES:
                raise TransportError(
                    f"a header of {len(parts[0])} bytes: pixels are a part of their own"
                )
            message = wire.decode(parts[0].buffer)
            self._on_message(identity, message, parts[1].buffer if len(parts) == 2 else None)
        except TransportError as error:
            self._complain(str(error))
            about = getattr(message, "acquisition", "")
            # A peer of an earlier daemon says Hello, and may then ask the same again; what a
            # daemon that stops does not take any more is for the next one.
            again = identity not in self._roles or self._course.stopping
            self._send(identity, wire.Refused(str(error), about, again=again), None)
        except Exception:
            # No message may end the daemon: whoever sent this is answered by nobody.
            log.exception("a message of %r failed", type(message).__name__)

    def _complain(self, text: str) -> None:
        """Log what a peer did wrong; one that does so without end fills no disk."""
        now = time.monotonic()
        if now - self._complained_at > COMPLAIN_S:
            self._complained_at = now
            log.warning("refused from a peer: %s", text[:1000])

    def _send(self, identity: bytes, message: wire.Message, pixels: Pixels | None) -> None:
        try:
            parts: list[bytes | memoryview] = [wire.encode(message)]
        except (OverflowError, UnicodeError) as error:
            log.error("a %s cannot be sent: %s", type(message).__name__, error)
            return
        if pixels is not None:
            parts.append(pixels.data.cast("B"))
        # Where the peer is gone or does not read, its time-out will tell.  A task's slot is not
        # used again before its answer, so on the way to another host it need not be copied.
        self._endpoints.send(identity, parts, copy=self._endpoints.remote(identity) is None)

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
            self._on_control(identity, role, message)

    def _on_hello(self, identity: bytes, message: wire.Hello) -> None:
        trusted = message.token == self._token
        if message.protocol != wire.PROTOCOL:
            older = "that side" if message.protocol < wire.PROTOCOL else "the daemon"
            raise TransportError(
                f"a peer of refocusd {message.version} speaks protocol {message.protocol}, this "
                f"daemon ({__version__}) {wire.PROTOCOL}: upgrade {older}"
            )
        remote = self._endpoints.remote(identity)
        if message.role not in allowed_roles(remote):
            raise TransportError(f"a peer on another host cannot be a {message.role} here")
        if message.role == "worker" and not (trusted or remote):
            raise TransportError(
                "a worker must be started by this daemon, or connect with a key where it listens "
                "for workers on other hosts"
            )
        if identity not in self._roles and len(self._roles) >= MAX_PEERS:
            self._make_room()
        self._roles[identity] = (message.role, trusted)
        if message.role == "worker":
            # One that lost its link and comes back holds nothing any more.
            self._course.again(self._crew.lose(identity))
            inline = message.inline or bool(remote)
            self._crew.join(identity, pid=message.pid, inline=inline, remote=remote or "")
        welcome = wire.Welcome(
            wire.PROTOCOL,
            __version__,
            # Of no use on another host, and none of its business.
            RingAddress(0, -1, "", 0) if remote else self._ring.address,
            self._settings.policy,
            self._settings.pass_in_focus,
        )
        self._send(identity, welcome, None)

    def _make_room(self) -> None:
        """Forget who asked something once and left without a word."""
        idle = [who for who, (role, _) in self._roles.items() if role in ("control", "view")]
        if not idle:
            raise TransportError(f"{MAX_PEERS} peers are connected; close some")
        longest = min(idle, key=lambda who: self._heard.get(who, 0.0))
        for books in (self._roles, self._heard, self._reception.looks):
            books.pop(longest, None)

    def _on_source(
        self, identity: bytes, message: wire.Message, part: memoryview | None, *, trusted: bool
    ) -> None:
        if isinstance(message, wire.Open):
            if self._course.stopping:
                raise TransportError("the daemon is stopping")
            self._desk.open(identity, message, trusted=trusted)
        elif isinstance(message, wire.Submit):
            self._desk.submit(identity, message, part)
        elif isinstance(message, wire.Miss):
            self._desk.miss(identity, message)
        elif isinstance(message, wire.Behind):
            self._desk.behind(identity, message)
        elif isinstance(message, wire.Close):
            self._desk.close(identity, message)
        else:
            raise TransportError(f"a source does not send {type(message).__name__}")

    def _on_worker(self, identity: bytes, message: wire.Message, part: memoryview | None) -> None:
        if isinstance(message, wire.Ready):
            self._crew.set_ready(identity, message)
            name = identity.decode(errors="replace")
            self._workers.was_ready(name)
            first = not self.ready.is_set()
            self._course.engine_ready(message.engine)
            log.info("%s: %s, ready in %.1f s", name, describe(message.engine), message.seconds)
            self.ready.set()
            if first and self._settings.pick_up:
                self._left.extend(left_unfinished(self._settings.ledgers))
                self._pick_up_more()
        elif isinstance(message, wire.Result):
            # An answer that nobody waits for any more (its worker was taken for hung) is dropped.
            if task := self._crew.take_back(identity, message.task):
                try:
                    self._crew.fill(identity, task, part)
                except TransportError as error:
                    self._course.fail(task, str(error))
                else:
                    self._course.write(task, message, self._crew.engine_of(identity, task.channel))
        elif isinstance(message, wire.Failure):
            if task := self._crew.take_back(identity, message.task):
                self._course.fail(task, message.reason)
        else:
            raise TransportError(f"a worker does not send {type(message).__name__}")

    def _on_control(self, identity: bytes, role: wire.Role, message: wire.Message) -> None:
        if isinstance(message, wire.Stop) and role == "control":
            self._begin_stop()
        else:
            self._reception.asked(identity, role, message)

    def _pick_up_more(self) -> None:
        """A few at a time: each takes files, a thread and slots."""
        while self._left and self._course.picked_up < MAX_PICKED_UP:
            try:
                self._desk.pick_up(*self._left.popleft())
            except RefocusdError as error:
                log.warning("an acquisition cannot be picked up: %s", error)

    # -- events from other threads ------------------------------------------------------

    def _on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Written):
            self._course.written(event)
        elif isinstance(event, events.SinkOpened):
            self._course.sink_opened(event)
        elif isinstance(event, events.GivenUp):
            self._course.given_up(event)
        elif isinstance(event, events.DiskFull):
            self._course.disk_full(event)
        elif isinstance(event, events.PreviewTaken):
            self._reception.show()
        elif isinstance(event, events.Finished):
            self._course.finished(event.acquisition)
        elif isinstance(event, events.CatchUpFailed):
            self._course.catch_up_failed(event.acquisition, event.error)
        elif isinstance(event, events.WorkerGone):
            identity = event.identity.encode()
            self._roles.pop(identity, None)
            self._course.again(self._crew.lose(identity))
        elif isinstance(event, events.WorkersGaveUp):
            self.failure = event.reason
            self._begin_stop()
            self._stop_by = time.monotonic()
        else:
            self._begin_stop()

    def _begin_stop(self) -> None:
        if not self._stop_by:
            self._stop_by = time.monotonic() + self._settings.stop_timeout_s
            self._course.stop()

    def _dispatch(self) -> None:
        while (worker := self._crew.free()) and (found := self._course.queues.next_task()):
            task, acquisition = found
            focus = self._course.focus.ask(acquisition, task.submit)
            self._crew.assign(worker, task, acquisition, focus)

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for identity in self._crew.hung(self._settings.task_timeout_s):
            self._replace(identity, "holds one frame too long")
        for identity in self._crew.silent(SILENCE_S):
            self._replace(identity, "is silent")
        for identity, why in self._endpoints.gone():
            log.warning("%s: %s; its frames go to others", identity.decode(errors="replace"), why)
            self._forget_worker(identity)
        for identity, heard in list(self._heard.items()):
            if now - heard <= self._settings.source_timeout_s or self._crew.knows(identity):
                continue
            del self._heard[identity]
            self._roles.pop(identity, None)
            self._reception.looks.pop(identity, None)
            self._desk.lost(identity)
        self._course.look_at_the_clock(workers_idle=self._crew.idle)
        self._pick_up_more()

    def _replace(self, identity: bytes, why: str) -> None:
        name = identity.decode(errors="replace")
        if self._crew.is_remote(identity):
            self._endpoints.cut(identity, why)  # `gone` names it at the next tick
        else:
            log.warning("%s %s: replaced", name, why)
            self._workers.kill(name)

    def _forget_worker(self, identity: bytes) -> None:
        self._roles.pop(identity, None)
        self._heard.pop(identity, None)
        self._course.again(self._crew.lose(identity, cut=True))
