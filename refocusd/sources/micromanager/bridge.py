"""Micro-Manager's Java bridge, called from one thread, slowly, and watched from another.

What is done about the bridge's hazards (measured with pyjavaz 1.2.8):

- Every object that Java hands out is released by a message from its destructor.  A garbage
  collection in the wrong thread has deadlocked there: the process that uses this class switches
  the collector off, and `Bridge.collect` runs it in the thread that owns the bridge.
- A call waits for ever when Micro-Manager is gone, and cannot be taken back: `Bridge.silent_s`
  tells another thread for how long, and that thread ends the process.
- Each object leaves an exit handler behind (pyjavaz never removes them), so a process that has
  used `WORN_OUT` objects makes room for another.
- pyjavaz uses ZeroMQ's global context: nothing else in this process does.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from refocusd.errors import TransportError
from refocusd.sources.micromanager.rate_limit import Pace
from refocusd.sources.micromanager.values import flat_properties

#: Calls after which the process is replaced, at a quiet moment (about 50 MB of exit handlers).
WORN_OUT = 300_000
#: The first answer is waited for as others are: Micro-Manager may have become busy since it was probed.
GREETING_MS = 0
#: What pyjavaz says when it has waited for an answer, and of every call after that.
_UNANSWERED = ("Socket timed out", "Bridge has been closed")


class Bridge:
    """One client of the bridge; belongs to the thread that makes it.

    Parameters
    ----------
    host, port
        Where `refocusd.sources.micromanager.probe.probe` found it ready.
    pace : Pace, optional

    Raises
    ------
    TransportError
        If Java does not answer, or does not hand out its Studio.
    """

    def __init__(self, host: str, port: int, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self._port = port
        self._owner = threading.get_ident()
        #: Held by the owner, but for the time of a call.
        self._working = threading.Lock()
        self._working.acquire()
        self._beat = time.monotonic()
        from pyjavaz import JavaObject  # type: ignore[import-untyped]
        from pyjavaz.bridge import Bridge as JavaBridge  # type: ignore[import-untyped]

        with warnings.catch_warnings():
            # Another version was told in words of ours, by the probe.
            warnings.simplefilter("ignore")
            # Found again by its port in what follows.
            self._java: Any = self._guard(
                1,
                lambda: JavaBridge.create_or_get_existing_bridge(
                    port=port, ip_address=host, timeout=GREETING_MS
                ),
            )
        self._new = JavaObject
        self.studio: Any = self.new("org.micromanager.Studio")
        self._core: Any = None

    @property
    def core(self) -> Any:
        """Micro-Manager's core."""
        if self._core is None:
            self._core = self.new("mmcorej.CMMCore")
        return self._core

    @property
    def silent_s(self) -> float:
        """How long the owner has neither called nor got an answer; for other threads."""
        return time.monotonic() - self._beat

    @property
    def worn_out(self) -> bool:
        """Whether this process should make room for another."""
        return self.pace.calls > WORN_OUT

    def during_a_call(self, do: Callable[[], None]) -> None:
        """Do something in another thread, if the owner waits for an answer: it goes on after that."""
        if self._working.acquire(blocking=False):
            try:
                do()
            finally:
                self._working.release()

    def beat(self) -> None:
        """The owner is well, though it does not call."""
        self._check_thread()
        self._beat = time.monotonic()

    def new(self, java_class: str) -> Any:
        """The object of a Java class that Micro-Manager has one of."""
        return self._guard(3, lambda: self._new(java_class, port=self._port))

    def call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of a Java object.

        Raises
        ------
        TransportError
            If Java raises, in its words.
        """
        # Most answers are objects, which take a second round trip to be released.
        return self._guard(2, lambda: method(*arguments))

    def field(self, java: Any, name: str) -> Any:
        """A public field of a Java object.

        Raises
        ------
        TransportError
        """
        return self._guard(1, lambda: getattr(java, name))

    def items(self, java_list: Any) -> list[Any]:
        """The elements of a ``java.util.List`` (newer bridges hand it out as an object)."""
        if java_list is None or isinstance(java_list, list):
            return java_list or []
        return [self.call(java_list.get, i) for i in range(self.call(java_list.size))]

    def properties(self, metadata: Any) -> Mapping[str, Any]:
        """Image or summary metadata as plain values; empty where Java does not tell them."""
        if metadata is None or not hasattr(metadata, "to_property_map"):
            return {}
        return flat_properties(self.call(self.call(metadata.to_property_map).to_json))

    def let_go(self) -> None:
        """Give the Studio and the core back to Java; the bridge is of no use after that."""
        self._check_thread()
        self.studio = self._core = self._java = None

    def collect(self) -> None:
        """Collect garbage, in the only thread where Java's objects may be released."""
        self._check_thread()
        gc.collect()
        self._beat = time.monotonic()

    def _guard(self, round_trips: int, do: Callable[[], Any]) -> Any:
        self._check_thread()
        self._beat = time.monotonic()
        self.pace.call(round_trips)
        self._beat = time.monotonic()
        self._working.release()
        try:
            return do()
        except Exception as error:  # noqa: BLE001 (pyjavaz raises nothing narrower)
            # pyjavaz ties its exceptions into a cycle with the frames that hold Java's objects.
            error.__traceback__ = None
            told = _in_words(error)
        finally:
            self._working.acquire()
            self._beat = time.monotonic()
        # Out here, so that the error does not keep Java's objects by that one's frames.
        raise TransportError(f"Micro-Manager's bridge: {told}")

    def _check_thread(self) -> None:
        if threading.get_ident() != self._owner:
            raise TransportError(
                "the bridge belongs to the thread that opened it; calls from others can deadlock"
            )


def _in_words(error: Exception) -> str:
    """What went wrong, in one line."""
    # Java's stack trace: the first line says it.
    told = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, (TimeoutError, queue.Empty)) or told.startswith(_UNANSWERED):
        return "Micro-Manager does not answer in time: it is busy, and is asked again"
    return told
