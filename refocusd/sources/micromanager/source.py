"""The sources that use Micro-Manager's bridge, in the one thread that owns it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from refocusd.errors import RefocusdError, TransportError
from refocusd.sources.attached.order import AttachOrder
from refocusd.sources.folders.watcher import Follower
from refocusd.sources.micromanager.acquisitions import Studio
from refocusd.sources.micromanager.bridge import Bridge
from refocusd.sources.micromanager.live import Live
from refocusd.sources.micromanager.probe import BridgeAnswer, probe
from refocusd.sources.micromanager.save_roots import SaveRoots

log = logging.getLogger(__name__)

#: Interval of looking for Micro-Manager until it is there.
LOOK_S = 1.0
#: Interval of garbage collections, in the only thread that may run them.
COLLECT_S = 10.0
#: After this long without an answer, check whether Micro-Manager is busy or gone.
SILENT_S = 3.0
#: Time limit for the answer to our call once Micro-Manager answers others again.
GRACE_S = 1.0
#: Longest sleep between two steps.
NAP_S = 0.25


class BridgeSource:
    """Sources *studio* and *live*: attach when Micro-Manager is there, and say when it is gone.

    Parameters
    ----------
    order : AttachOrder
    start : callable
        Runs a follower in a thread with the given name.

    Attributes
    ----------
    over : str
        Why another process must replace this one; empty while that is not needed.
    failed : bool
        Whether the reason is an error of our own.
    """

    def __init__(self, order: AttachOrder, start: Callable[[Follower, str], None]) -> None:
        self._order = order
        covered = [Path(folder) for folder in order.covered]
        noted = Path(order.roots_noted) if order.roots_noted else None
        self._roots = SaveRoots(
            order.endpoint, order.since_s, covered, start, noted, order.unfinished
        )
        self._bridge: Bridge | None = None
        self._studio: Studio | None = None
        self._attaching_since = 0.0
        self._said = ""
        self._said_busy = False
        self.over = ""
        self.failed = False

    def run(self, stop: threading.Event) -> None:
        """Attach and serve until `stop` is set or Micro-Manager is gone.  Never raises."""
        try:
            if self._await_bridge(stop):
                self._serve(stop)
        except TransportError as error:
            self.over = str(error)
        except Exception as error:
            log.exception("the bridge's sources ended")
            self.failed = True
            self.over = f"{type(error).__name__}: {error}"

    def look_after(self) -> None:
        """Check, in another thread, whether a call has remained without an answer."""
        order, silent_s = self._order, self._silent_s
        if silent_s > GRACE_S and self._bridge is not None and self._studio is not None:
            self._bridge.during_a_call(self._studio.keep_alive)
        if self.over or silent_s < SILENT_S:
            self._said_busy = False
            return
        answer = probe(order.bridge_host, order.bridge_port)
        if answer.state == "busy":
            if not self._said_busy:
                self._said_busy = True
                log.warning("%s", answer.says)
            return
        # Our answer may come now, after the one to another caller.
        time.sleep(GRACE_S)
        if self._silent_s > silent_s:
            gone = answer.state in ("nothing", "stranger")
            self.over = f"Micro-Manager {'is gone' if gone else 'was restarted'}"

    @property
    def _silent_s(self) -> float:
        bridge, since = self._bridge, self._attaching_since
        if bridge is not None:
            return bridge.silent_s
        # The first calls can remain without an answer too.
        return time.monotonic() - since if since else 0.0

    def _await_bridge(self, stop: threading.Event) -> bool:
        order = self._order
        while not stop.is_set():
            answer = probe(order.bridge_host, order.bridge_port)
            self._say(answer)
            if answer.state == "ready":
                return True
            stop.wait(LOOK_S)
        return False

    def _say(self, answer: BridgeAnswer) -> None:
        """Log each new answer once; it is a warning only if Micro-Manager is expected to be ready."""
        if answer.says == self._said:
            return
        self._said = answer.says
        expected = self._order.studio == "on" or answer.state in ("stranger", "busy", "old")
        wrong = answer.state != "ready"
        log.log(logging.WARNING if wrong and expected else logging.INFO, "%s", answer.says)

    def _serve(self, stop: threading.Event) -> None:
        order = self._order
        self._attaching_since = time.monotonic()
        self._bridge = bridge = Bridge(order.bridge_host, order.bridge_port)
        studio = None
        if order.studio != "off":
            output = Path(order.studio_output).expanduser()
            studio = Studio(bridge, order.endpoint, output, self._roots, order.since_s)
            self._studio = studio
            self._roots.resume()
        live = None
        if order.live:
            live = Live(bridge, order.endpoint, lambda: studio is not None and studio.running)
        parts = [part for part in (studio, live) if part is not None]
        names = " and ".join(type(part).__name__.lower() for part in parts)
        log.info("attached to Micro-Manager: %s", names)
        collected_at = time.monotonic()
        try:
            while not stop.is_set():
                nap_s = min(part.step() for part in parts)
                if time.monotonic() - collected_at > COLLECT_S:
                    collected_at = time.monotonic()
                    bridge.collect()
                if bridge.worn_out and not (studio is not None and studio.busy):
                    raise TransportError("a fresh process takes over")
                stop.wait(min(nap_s, NAP_S))
                bridge.beat()
        finally:
            for part in parts:
                try:
                    part.close()
                except RefocusdError as error:
                    log.warning("%s", error)
