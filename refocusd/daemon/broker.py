"""Passes messages and events to the parts of the daemon that act on them, in one thread.

Frames wait in slots of the ring, and slots are credit: a source cannot send a
frame without one, so nothing here grows with the length of an acquisition.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from refocusd import __version__
from refocusd.config import Settings
from refocusd.daemon import events
from refocusd.daemon.acquisitions.blur.known import KnownBlurs
from refocusd.daemon.acquisitions.focus.monitor import FocusMonitor
from refocusd.daemon.acquisitions.intake import Intake
from refocusd.daemon.acquisitions.lifecycle import Lifecycle, StartCatchUp
from refocusd.daemon.acquisitions.registry import Acquisitions
from refocusd.daemon.acquisitions.saved_frames import SavedFrames
from refocusd.daemon.acquisitions.scheduler import Scheduler
from refocusd.daemon.acquisitions.self_calibrations import SelfCalibrations
from refocusd.daemon.acquisitions.state import Acquisition
from refocusd.daemon.acquisitions.unfinished import find_unfinished
from refocusd.daemon.control import Control
from refocusd.daemon.output.writer import Writer
from refocusd.daemon.peers import Peers
from refocusd.daemon.workers.dispatcher import Dispatcher
from refocusd.daemon.workers.pool import WorkerPool
from refocusd.daemon.workers.processes import WorkerProcesses
from refocusd.errors import TransportError
from refocusd.frame import Pixels
from refocusd.transport import messages as wire
from refocusd.transport.ring import RingAddress, SharedRing
from refocusd.transport.secure.endpoints import Endpoints

log = logging.getLogger(__name__)

#: Interval of the checks for time-outs.
TICK_S = 0.25
#: Largest size of a header.  The largest are those of an acquisition, and of the axes of many frames.
MAX_HEADER_NBYTES = 32 << 20
#: At most one line about refused messages is logged in this time.
COMPLAIN_S = 0.2
#: Messages that a peer can send at any time, without a slot; only `Peers.asked` limits them.
_QUESTIONS = (
    *(wire.Hello, wire.Ping, wire.Open, wire.Behind, wire.GiveBack, wire.Unseen),
    *(wire.Pause, wire.CatchUp, wire.StatusRequest, wire.Look, wire.Follow),
)


class Broker:
    """Routes messages between sources, workers, control peers and the writer.

    Parameters
    ----------
    settings : Settings
    endpoints : Endpoints
        The bound sockets; the broker's thread owns them from `start` on.
    ring : SharedRing
    writer : Writer
    event_queue : EventQueue
        The events that other threads report.
    token : str
        Proof that the daemon started a worker or a catch-up.
    catch_up : callable
        Starts a catch-up of an acquisition, in a run.
    processes : WorkerProcesses
    models : str
        Models (`models_named`) that the daemon's own workers are about to run, if it has any.

    Attributes
    ----------
    acquisitions : Acquisitions
        Other threads may read it once the broker's thread has ended.
    ready : threading.Event
        Set once a worker is ready, or the thread has ended.
    failure : str
        Why the daemon ended, if it was not asked to.
    stop_by : float
        When frames in progress are abandoned (`time.monotonic`); 0 until a stop is requested.
    """

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        ring: SharedRing,
        writer: Writer,
        event_queue: events.EventQueue,
        token: str,
        catch_up: StartCatchUp,
        processes: WorkerProcesses,
        models: str = "",
    ) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._ring = ring
        self._event_queue = event_queue
        self._processes = processes
        self._calibrations = SelfCalibrations(settings)
        self._peers = Peers(token)
        send = self._send
        self.acquisitions = held = Acquisitions()
        scheduler = Scheduler(settings, ring.address.nbytes, held, send)
        self._lifecycle = lifecycle = Lifecycle(
            settings,
            writer,
            held,
            scheduler,
            send,
            catch_up,
            FocusMonitor(settings),
            KnownBlurs(settings),
            self._calibrations,
        )
        self._intake = Intake(ring, lifecycle, SavedFrames(ring, event_queue))
        self._pool = pool = WorkerPool(send, ring, models)
        self._dispatcher = Dispatcher(endpoints, ring, lifecycle, pool, processes, self._on_ready)
        self._control = Control(lifecycle, pool)
        self._handlers: dict[type[events.Event], Callable[[Acquisition, Any], None]] = {
            events.OutputOpened: lifecycle.output_opened,
            events.SavedFrameRead: self._intake.saved_frame_read,
            events.FramesWritten: self._dispatcher.written,
            events.FrameNotWritten: self._dispatcher.not_written,
            events.DiskFull: lifecycle.disk_full,
            events.OutputClosed: lifecycle.output_closed,
            events.CatchUpFailed: lifecycle.catch_up_failed,
        }
        self.stop_by = 0.0
        self._complained_at = 0.0
        self.ready = threading.Event()
        self.failure = ""
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def verdicts(self) -> dict[str, int]:
        """Number of frames by verdict; read it once the thread has ended."""
        return self._lifecycle.statistics.verdicts

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread's end; False if it still runs."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- the loop -----------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        self._endpoints.register(poller)
        poller.register(self._event_queue.socket, zmq.POLLIN)
        ticked_at = time.monotonic()
        try:
            while not self._over():
                ready = dict(poller.poll(round(TICK_S * 1000)))
                if self._event_queue.socket in ready:
                    for event in self._event_queue.take():
                        self._on_event(event)
                for identity, parts in self._endpoints.receive(ready):
                    self._receive(identity, parts)
                self._dispatcher.dispatch()
                self._control.tell_outcomes()
                if time.monotonic() - ticked_at > TICK_S:
                    ticked_at = time.monotonic()
                    self._tick()
            self._lifecycle.abandon()
        except Exception:
            log.exception("the broker failed; the daemon ends, what was written stays")
            self.failure = self.failure or "internal error, see the log"
        finally:
            self._calibrations.stop()
            self._processes.no_more()
            self._pool.dismiss()
            self.ready.set()

    def _on_event(self, event: events.Event) -> None:
        match event:
            case events.AcquisitionEvent():
                # Events of an acquisition that a stopping daemon has dropped are ignored.
                if acquisition := self.acquisitions.get(event.acquisition):
                    self._handlers[type(event)](acquisition, event)
            case events.PreviewTaken():
                self._control.show()
            case events.LeftUnfinished():
                self._intake.left_unfinished(event)
            case events.WorkerGone():
                identity = event.identity.encode()
                self._forget(identity)
                self._dispatcher.lose(identity)
            case events.WorkersGaveUp():
                self.failure = event.reason
                self._begin_stop(within_s=0.0)
            case _:
                self._begin_stop(self._settings.stop_timeout_s)

    def _over(self) -> bool:
        if not self.stop_by:
            return False
        return not self.acquisitions or time.monotonic() > self.stop_by

    def _tick(self) -> None:
        for identity in self._dispatcher.tick():
            self._forget(identity)
        for identity in self._peers.silent(self._settings.source_timeout_s):
            if identity not in self._pool:
                self._forget(identity)
                self._intake.lost(identity)
        self._lifecycle.scheduler.tick()
        self._lifecycle.tick(workers_idle=self._pool.idle)
        self._intake.pick_up()

    def _begin_stop(self, within_s: float) -> None:
        if not self.stop_by:
            self._lifecycle.stop()
        self.stop_by = min(self.stop_by or math.inf, time.monotonic() + within_s)

    # -- messages -----------------------------------------------------------------------

    def _send(self, identity: bytes, message: wire.Message, pixels: Pixels | None) -> None:
        try:
            parts: list[bytes | memoryview] = [wire.encode(message)]
        except (OverflowError, UnicodeError) as error:
            log.error("a %s cannot be sent: %s", type(message).__name__, error)
            return
        if pixels is not None:
            parts.append(pixels.data.cast("B"))
        # If the peer is gone or does not read, its time-out shows this.  The slot of a task is not used
        # again before the answer, so its pixels need not be copied on the way to another host.
        self._endpoints.send(identity, parts, copy=self._endpoints.remote(identity) is None)

    def _receive(self, identity: bytes, parts: list[zmq.Frame]) -> None:
        if self._peers.is_dropped(identity):
            return
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
            # A peer of an earlier daemon sends Hello and may then repeat its request; a request that a
            # stopping daemon refuses can be repeated to the next one.
            again = identity not in self._peers or self._lifecycle.stopping
            self._send(identity, wire.Refused(str(error), about, again=again), None)
            if self._peers.refused(identity):
                self._drop(identity, str(error))
        except Exception:
            # No message may end the daemon: the sender of this one gets no answer.
            log.exception("a message of %r failed", type(message).__name__)

    def _drop(self, identity: bytes, why: str) -> None:
        """Ignore a peer from now on that floods the daemon, or does not read its answers."""
        log.warning(
            "%r is not listened to any more: it was refused too often, last: %.200s (%d such since the "
            "start)",
            identity,
            why,
            self._peers.dropped,
        )
        self._forget(identity)
        self._intake.lost(identity)

    def _complain(self, text: str) -> None:
        """Log why a message was refused; not every time, so that a faulty peer cannot fill the disk."""
        now = time.monotonic()
        if now - self._complained_at > COMPLAIN_S:
            self._complained_at = now
            log.warning("refused from a peer: %s", text[:1000])

    def _on_message(self, identity: bytes, message: wire.Message, part: memoryview | None) -> None:
        if isinstance(message, _QUESTIONS):
            self._peers.asked(identity)
        if isinstance(message, wire.Hello):
            self._on_hello(identity, message)
            return
        peer = self._peers.heard(identity)
        if peer.role == "worker":
            self._pool.heard(identity)
        if isinstance(message, wire.Ping):
            self._send(identity, wire.Ping(), None)
        elif peer.role == "worker":
            self._dispatcher.receive(identity, message, part)
        elif peer.role == "source":
            self._intake.receive(identity, message, part, trusted=peer.trusted)
        elif isinstance(message, wire.Stop) and peer.role == "control":
            self._begin_stop(self._settings.stop_timeout_s)
        else:
            self._control.receive(identity, peer.role, message)

    def _on_hello(self, identity: bytes, message: wire.Hello) -> None:
        remote = self._endpoints.remote(identity)
        for forgotten in self._peers.greet(identity, message, remote):
            self._control.forget(forgotten)
        if message.role == "worker":
            self._dispatcher.join(identity, message, remote)
        welcome = wire.Welcome(
            wire.PROTOCOL,
            __version__,
            # The ring cannot be used from another host, which need not know its address.
            RingAddress(0, -1, "", 0) if remote else self._ring.address,
            self._settings.policy,
            self._settings.pass_in_focus,
        )
        self._send(identity, welcome, None)

    def _on_ready(self) -> None:
        if not self.ready.is_set() and self._settings.pick_up:
            find_unfinished(self._settings.ledgers, self._event_queue)
        self.ready.set()

    def _forget(self, identity: bytes) -> None:
        self._peers.forget(identity)
        self._control.forget(identity)
