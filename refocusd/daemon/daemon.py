"""Assembles the daemon: sockets, ring, broker, writer, workers, catch-ups."""

from __future__ import annotations

import errno
import importlib
import logging
import secrets
import threading
import time
from contextlib import ExitStack
from typing import Self

import zmq

from refocusd import __version__
from refocusd.config import WITHOUT_MODEL, Settings
from refocusd.daemon.acquisitions.catch_up import CatchUps
from refocusd.daemon.acquisitions.run_id import models_named
from refocusd.daemon.broker import MAX_HEADER_NBYTES, Broker
from refocusd.daemon.events import EventQueue, StopRequested
from refocusd.daemon.output.writer import Writer
from refocusd.daemon.workers.processes import WorkerProcesses
from refocusd.engines.choose import stated_blur
from refocusd.errors import TransportError, WorkerError
from refocusd.models.bundle import load_bundle
from refocusd.transport.client import MAX_MESSAGE, Connection
from refocusd.transport.messages import Counts, Status, StatusRequest, Stop
from refocusd.transport.ring import SharedRing
from refocusd.transport.secure.endpoints import Endpoints
from refocusd.transport.secure.keys import KeyStore
from refocusd.transport.secure.local_endpoint import LocalEndpoint
from refocusd.transport.secure.remote_endpoint import RemoteEndpoint
from refocusd.transport.secure.user_keys import forget_shared_key

log = logging.getLogger(__name__)

#: Time limit for the first worker to become ready.
START_S = 120.0
#: Time limit for the end of a catch-up after the end of the broker; it is exceeded only if a disk hangs.
CATCH_UP_END_S = 5.0
#: Shortest time limit for the end of the writers, likewise.
WRITER_END_S = 5.0


class Daemon:
    """The daemon as a context manager: it runs inside the block, and has written everything at its end.

    Parameters
    ----------
    settings : Settings

    Attributes
    ----------
    endpoint : str
        The address at which it listens, once entered.
    supervisor : WorkerProcesses
        Its worker processes, once entered.

    Raises
    ------
    BundleError, ConfigError, InputError, OutputError, TransportError
        On entering, before any frame is accepted.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.endpoint = settings.endpoint

    def __enter__(self) -> Self:
        settings = self.settings
        forget_shared_key()
        # A bad PSF or bundle is reported here, rather than by a worker that ends.
        stated_blur(settings)
        sums: dict[str, str] = {"": settings.backend}
        if settings.backend not in WITHOUT_MODEL:
            sums = {name: load_bundle(model).sha256 for name, model in settings.models.items()}
        # Resources are closed in reverse order.
        with ExitStack() as resources:
            self._ring = SharedRing.create(settings.ring_mib << 20)
            resources.callback(self._ring.close)
            context = zmq.Context(io_threads=1)
            resources.callback(context.destroy, linger=0)
            self._endpoints = _listen(settings)
            resources.callback(self._endpoints.close, linger=500)
            self._events = EventQueue(context)
            resources.callback(self._events.close)
            self._resources = resources.pop_all()
        self.endpoint = self._endpoints.local_endpoint
        token = secrets.token_hex(32)
        self._writer = Writer(settings, self._ring, self._events)
        self._catch_ups = CatchUps(settings, self.endpoint, token, self._events)
        self.supervisor = WorkerProcesses(settings, self.endpoint, token, self._events)
        self._broker = Broker(
            settings,
            self._endpoints,
            self._ring,
            self._writer,
            self._events,
            token,
            self._catch_ups.start,
            self.supervisor,
            models_named(sums) if settings.workers else "",
        )
        self._broker.start()
        self.supervisor.start()
        if settings.backend not in WITHOUT_MODEL:
            # While a worker starts; otherwise, the first frame would wait for the import.
            importlib.import_module("scipy.fft")
        log.info("refocusd %s listens at %s", __version__, self.endpoint)
        if self.remote_endpoint:
            log.info("workers on other hosts connect to %s", self.remote_endpoint)
        return self

    def __exit__(self, *_error: object) -> None:
        self.request_stop()
        self._broker.join()
        # The broker has waited for the catch-ups: one that still runs hangs, or is about to end.
        end_by = max(time.monotonic() + WRITER_END_S, self._broker.stop_by)
        self._catch_ups.stop(timeout_s=CATCH_UP_END_S)
        self.supervisor.stop()
        # The broker has waited for the writers as well.
        self._writer.stop(max(1.0, end_by - time.monotonic()))
        self._resources.close()

    def wait_ready(self, asked_to_stop: threading.Event | None = None) -> None:
        """Wait until a worker has built its engine and warmed it up.

        Without workers of its own, the daemon is ready at once: workers of other hosts come at any time.

        Parameters
        ----------
        asked_to_stop : threading.Event, optional
            Ends the wait as well.

        Raises
        ------
        WorkerError
            If no worker becomes ready within `START_S`.
        """
        deadline = time.monotonic() + START_S
        while not self._broker.ready.wait(0.1):
            if asked_to_stop is not None and asked_to_stop.is_set():
                return
            if not self.settings.workers:
                return
            if time.monotonic() > deadline:
                raise WorkerError(f"no worker was ready within {START_S:.0f} s; see the log")
        self.check()

    def check(self) -> None:
        """Raise an error if the daemon ended without being asked to.

        Raises
        ------
        WorkerError
            With the reason.
        """
        if self._broker.failure:
            raise WorkerError(self._broker.failure)

    def request_stop(self) -> None:
        """Request a clean stop; may be called from any thread."""
        self._events.put(StopRequested())

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the daemon has been asked to stop and has stopped; False on time-out.

        Raises
        ------
        WorkerError
            If it ended because no worker can be kept alive.
        """
        if not self._broker.join(timeout_s):
            return False
        self.check()
        return True

    @property
    def acquiring(self) -> bool:
        """Whether an acquisition whose frames are written is open."""
        return any(not each.open.preview for each in self._broker.acquisitions)

    def counts(self) -> dict[str, Counts]:
        """Counts of its open and last acquisitions, by id; call it once the daemon has stopped."""
        return self._broker.acquisitions.counts()

    def verdicts(self) -> dict[str, int]:
        """Number of frames by verdict; call it once the daemon has stopped."""
        return self._broker.verdicts

    @property
    def unfinished(self) -> int:
        """Number of frames that failed or have no final state; read it once the daemon has stopped."""
        return self._broker.acquisitions.unfinished

    @property
    def remote_endpoint(self) -> str:
        """The address at which workers on other hosts connect; empty if they cannot."""
        return self._endpoints.remote_endpoint


def _listen(settings: Settings) -> Endpoints:
    # The largest message part: a header, or the pixels of a peer that cannot map the ring.
    largest = max(MAX_HEADER_NBYTES, (settings.ring_mib << 20) // 2)
    local = LocalEndpoint(settings.endpoint, message_nbytes=min(MAX_MESSAGE, largest))
    try:
        return Endpoints(local, _remote(settings))
    except zmq.ZMQError as error:
        raise TransportError(_why_not_bound(settings.endpoint, error)) from error


def _remote(settings: Settings) -> RemoteEndpoint | None:
    if not settings.listen:
        return None
    # A raw frame and its refocused frame must fit into the ring.
    largest = (settings.ring_mib << 20) // 2
    return RemoteEndpoint(settings.listen, KeyStore(settings.keys), frame_nbytes=largest)


def _why_not_bound(endpoint: str, error: zmq.ZMQError) -> str:
    if error.errno == errno.EACCES:
        return (
            f"the system does not let programs listen at {endpoint} ({error}); choose another port with "
            "--endpoint or `endpoint` in the settings (Windows keeps some for itself: `netsh interface "
            "ipv4 show excludedportrange tcp` lists them)"
        )
    if error.errno != zmq.EADDRINUSE:
        return f"cannot listen at {endpoint}: {error}"
    try:
        status = daemon_status(endpoint)
    except TransportError as said:
        return (
            f"{endpoint} is taken by another program or another user's daemon; choose another port "
            f"with --endpoint or `endpoint` in the settings ({said})"
        )
    return (
        f"a refocusd daemon (version {status.version}, process {status.pid}) listens at {endpoint} "
        "already; use it, stop it with `refocusd run --stop`, or choose another --endpoint"
    )


def daemon_status(endpoint: str, timeout_s: float = 2.0) -> Status:
    """Ask a running daemon for its status.

    Raises
    ------
    TransportError
        If no daemon answers.
    """
    with Connection(endpoint, "control", inline=True, version=__version__) as connection:
        connection.welcome(timeout_s)
        connection.send(StatusRequest())
        for _ in range(10):
            message = connection.receive(timeout_s)
            if isinstance(message, Status):
                return message
    raise TransportError(f"the daemon at {endpoint} does not report its status")


def stop_daemon(endpoint: str, timeout_s: float = 2.0) -> None:
    """Ask a running daemon to stop.

    Raises
    ------
    TransportError
        If no daemon answers.
    """
    with Connection(endpoint, "control", inline=True, version=__version__) as connection:
        connection.welcome(timeout_s)
        connection.send(Stop())
        connection.receive(0.2)
