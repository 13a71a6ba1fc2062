"""Micro-Manager's Java bridge: called by one thread at a limited rate, and watched by another.

How the bridge's hazards are avoided (measured with pyjavaz 1.2.8):

- The destructor of every object from Java sends a message to release it.  A garbage collection in
  the wrong thread has deadlocked there.  The process that uses this class therefore switches the
  collector off, and `Bridge.collect` runs it in the thread that owns the bridge.
- If Micro-Manager is gone, a call waits for ever and cannot be cancelled.  `Bridge.silent_s` tells
  another thread for how long, and that thread ends the process.
- Each object leaves an exit handler behind, which pyjavaz never removes.  After `WORN_OUT` calls,
  the process is therefore replaced by a new one.
- pyjavaz uses ZeroMQ's global context; nothing else in this process may use it.
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
#: No time limit for the first answer either: Micro-Manager may have become busy since the probe.
GREETING_MS = 0
#: pyjavaz's messages for a call that timed out, and for every call after that.
_UNANSWERED = ("Socket timed out", "Bridge has been closed")


class Bridge:
    """One client of the bridge; only the thread that makes it may call it.

    Parameters
    ----------
    host, port
        Address at which `refocusd.sources.micromanager.probe.probe` found it ready.
    pace : Pace, optional
        Limits the rate of calls.

    Raises
    ------
    TransportError
        If Java does not answer, or does not return its Studio.
    """

    def __init__(self, host: str, port: int, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self._port = port
        self._owner = threading.get_ident()
        #: Held by the owner except during a call.
        self._working = threading.Lock()
        self._working.acquire()
        self._beat = time.monotonic()
        from pyjavaz import JavaObject  # type: ignore[import-untyped]
        from pyjavaz.bridge import Bridge as JavaBridge  # type: ignore[import-untyped]

        with warnings.catch_warnings():
            # The probe has already warned about another version, in our words.
            warnings.simplefilter("ignore")
            # pyjavaz finds this bridge again by its port.
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
        """Seconds since the owner last called or got an answer; may be used in other threads."""
        return time.monotonic() - self._beat

    @property
    def worn_out(self) -> bool:
        """Whether this process should be replaced by a new one."""
        return self.pace.calls > WORN_OUT

    def during_a_call(self, do: Callable[[], None]) -> None:
        """Do something in another thread while the owner waits for an answer; else do nothing.

        The owner continues only after that.
        """
        if self._working.acquire(blocking=False):
            try:
                do()
            finally:
                self._working.release()

    def beat(self) -> None:
        """Note that the owner is alive, although it does not call."""
        self._check_thread()
        self._beat = time.monotonic()

    def new(self, java_class: str) -> Any:
        """The object of a Java class of which Micro-Manager has exactly one."""
        return self._guard(3, lambda: self._new(java_class, port=self._port))

    def call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of a Java object.

        Raises
        ------
        TransportError
            If Java raises; with Java's message.
        """
        # Most answers are objects, which take a second round trip to be released.
        return self._guard(2, lambda: method(*arguments))

    def field(self, java: Any, name: str) -> Any:
        """A public field of a Java object.

        Raises
        ------
        TransportError
            As `call`.
        """
        return self._guard(1, lambda: getattr(java, name))

    def items(self, java_list: Any) -> list[Any]:
        """The elements of a ``java.util.List`` (newer bridges return it as an object)."""
        if java_list is None or isinstance(java_list, list):
            return java_list or []
        return [self.call(java_list.get, i) for i in range(self.call(java_list.size))]

    def properties(self, metadata: Any) -> Mapping[str, Any]:
        """Image or summary metadata as plain values; empty if Java has none."""
        if metadata is None or not hasattr(metadata, "to_property_map"):
            return {}
        return flat_properties(self.call(self.call(metadata.to_property_map).to_json))

    def let_go(self) -> None:
        """Release the Studio and the core; the bridge cannot be used after that."""
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
            # Exceptions of pyjavaz form a reference cycle with the stack frames that hold Java's objects.
            error.__traceback__ = None
            told = _in_words(error)
        finally:
            self._working.acquire()
            self._beat = time.monotonic()
        # Raised here, outside `except`, so that this error does not refer to those stack frames.
        raise TransportError(f"Micro-Manager's bridge: {told}")

    def _check_thread(self) -> None:
        if threading.get_ident() != self._owner:
            raise TransportError(
                "the bridge belongs to the thread that opened it; calls from others can deadlock"
            )


def _in_words(error: Exception) -> str:
    """What went wrong, in one line."""
    # Of Java's stack trace, the first line is enough.
    told = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, (TimeoutError, queue.Empty)) or told.startswith(_UNANSWERED):
        return "Micro-Manager does not answer in time: it is busy, and will be asked again"
    return told
