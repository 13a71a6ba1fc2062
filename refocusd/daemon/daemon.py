"""The daemon, put together: one socket, one ring, a broker, a writer, workers."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from types import TracebackType
from typing import Self

import zmq

from refocusd import __version__
from refocusd.config import Settings
from refocusd.daemon.acquisitions.catch_up import CatchUps
from refocusd.daemon.acquisitions.run_id import models_named
from refocusd.daemon.broker import MAX_HEADER_NBYTES, Broker
from refocusd.daemon.events import Mailbox, StopRequested
from refocusd.daemon.output.writer import Writer
from refocusd.daemon.workers.processes import WorkerProcesses
from refocusd.errors import RefocusdError, TransportError, WorkerError
from refocusd.models.bundle import load_bundle
from refocusd.transport.client import MAX_MESSAGE, Connection
from refocusd.transport.messages import Counts, Status, StatusRequest, Stop
from refocusd.transport.ring import SharedRing
from refocusd.transport.secure.endpoints import Endpoints, RemoteEndpoint
from refocusd.transport.secure.keys import KeyStore

__all__ = ["Daemon", "daemon_status", "stop_daemon"]

log = logging.getLogger(__name__)

#: From the start of a worker to its first readiness, at most.
START_S = 120.0


class Daemon:
    """Use as a context manager: everything is running inside, and written after.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    BundleError, ConfigError, TransportError, WorkerError
        On entering, before any frame is taken.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: Where it listens, once entered.
        self.endpoint = settings.endpoint

    def __enter__(self) -> Self:
        settings = self.settings
        sums = {"": "identity"}
        if settings.backend != "identity":
            # A bad bundle is told here, not by a dying worker.
            sums = {name: load_bundle(model).sha256 for name, model in settings.models.items()}
        self._context = zmq.Context(io_threads=1)
        try:
            local = self._bind()
            self._ring = SharedRing.create(settings.ring_mib << 20)
            try:
                self._endpoints = self._open_endpoints(local)
            except RefocusdError:
                self._ring.close()
                raise
        except RefocusdError:
            self._context.destroy(linger=0)
            raise
        self.endpoint = self._endpoints.local_endpoint
        token = secrets.token_hex(32)
        self._mailbox = Mailbox(self._context)
        self._writer = Writer(settings, self._ring, self._mailbox)
        self._catch_ups = CatchUps(settings, token, self._mailbox)
        self._catch_ups.listen_on(self.endpoint)
        self.supervisor = WorkerProcesses(settings, self.endpoint, token, self._mailbox)
        self._broker = Broker(
            settings,
            self._endpoints,
            self._ring,
            self._writer,
            self._mailbox,
            token,
            self._catch_ups.start,
            self.supervisor,
        )
        if settings.workers:
            self._broker.expect(models_named(sums))
        self._writer.start()
        self._broker.start()
        self.supervisor.start()
        log.info("refocusd %s listens at %s", __version__, self.endpoint)
        if self._endpoints.remote_endpoint:
            log.info("workers on other hosts connect to %s", self._endpoints.remote_endpoint)
        return self

    def wait_ready(self, asked_to_stop: threading.Event | None = None) -> None:
        """Wait until a worker has its engine built and warmed up.

        Parameters
        ----------
        asked_to_stop : threading.Event, optional
            Ends the waiting as well.

        Raises
        ------
        WorkerError
            If none can be had.
        """
        deadline = time.monotonic() + START_S
        while not self._broker.ready.wait(0.1):
            if asked_to_stop is not None and asked_to_stop.is_set():
                return
            if not self.settings.workers:
                return  # one on another host may come at any time
            if time.monotonic() > deadline:
                raise WorkerError(f"no worker was ready within {START_S:.0f} s; see the log")
        self.check()

    def check(self) -> None:
        """Raise what ended the daemon, if it was not asked to end.

        Raises
        ------
        WorkerError
        """
        if self._broker.failure:
            raise WorkerError(self._broker.failure)

    def request_stop(self) -> None:
        """Ask for a clean stop; may be called from any thread and from signal handlers."""
        self._mailbox.put(StopRequested())

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

    def counts(self) -> dict[str, Counts]:
        """Counts of the acquisitions it served; once it has stopped."""
        return self._broker.counts()

    @property
    def unfinished(self) -> int:
        """Frames of all acquisitions that failed or have no final state; once it has stopped."""
        return self._broker.unfinished

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.request_stop()
        self._broker.join()
        self._catch_ups.stop()
        self.supervisor.stop()
        self._writer.stop(self.settings.stop_timeout_s)
        self._mailbox.close()
        self._endpoints.close(linger=500)
        self._context.term()
        self._ring.close()

    @property
    def remote_endpoint(self) -> str:
        """Where workers on other hosts connect; empty if nowhere."""
        return self._endpoints.remote_endpoint

    def _open_endpoints(self, local: zmq.Socket[bytes]) -> Endpoints:
        settings = self.settings
        remote = None
        if settings.listen:
            # A frame, before and after, must fit the ring anyway.
            largest = (settings.ring_mib << 20) // 2
            remote = RemoteEndpoint(settings.listen, KeyStore(settings.keys), frame_nbytes=largest)
        return Endpoints(local, remote)

    def _bind(self) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        # Pixels of a peer that cannot map the ring, or a header.
        largest = max(MAX_HEADER_NBYTES, self.settings.ring_mib << 20)
        socket.setsockopt(zmq.MAXMSGSIZE, min(MAX_MESSAGE, largest))
        socket.setsockopt(zmq.SNDHWM, 10_000)
        socket.setsockopt(zmq.RCVHWM, 1000)
        endpoint = self.settings.endpoint
        address = endpoint.removesuffix(":0") + ":*" if endpoint.endswith(":0") else endpoint
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise TransportError(_why_not_bound(endpoint, error)) from error
        return socket


def _why_not_bound(endpoint: str, error: zmq.ZMQError) -> str:
    if error.errno != zmq.EADDRINUSE:
        return f"{endpoint} cannot be listened at: {error}"
    try:
        status = daemon_status(endpoint)
    except TransportError:
        return (
            f"{endpoint} is taken by another program; choose another port with --endpoint or "
            "`endpoint` in the settings"
        )
    return (
        f"a refocusd daemon (version {status.version}, process {status.pid}) listens at {endpoint} "
        "already; use it, stop it with `refocusd run --stop`, or choose another --endpoint"
    )


def daemon_status(endpoint: str, timeout_s: float = 2.0) -> Status:
    """Ask a running daemon how it is.

    Raises
    ------
    TransportError
        If none answers.
    """
    with Connection(endpoint, "control", inline=True, version=__version__) as connection:
        connection.welcome(timeout_s)
        connection.send(StatusRequest())
        for _ in range(10):
            message = connection.receive(timeout_s)
            if isinstance(message, Status):
                return message
    raise TransportError(f"the daemon at {endpoint} does not tell its status")


def stop_daemon(endpoint: str, timeout_s: float = 2.0) -> None:
    """Ask a running daemon to stop.

    Raises
    ------
    TransportError
        If none answers.
    """
    with Connection(endpoint, "control", inline=True, version=__version__) as connection:
        connection.welcome(timeout_s)
        connection.send(Stop())
        connection.receive(0.2)
