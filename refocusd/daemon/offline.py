"""A daemon inside a command, for frames that are already on disk: `refocusd process` and `resume`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from refocusd.config import Settings
from refocusd.daemon.acquisitions.run_id import run_id
from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.datasets.identity import fingerprint
from refocusd.datasets.output import Output, is_being_written, note_recording
from refocusd.errors import OutputError, TransportError, WorkerError
from refocusd.formats.dataset import Dataset
from refocusd.ledger import note_output
from refocusd.processes.priority import yield_to_acquisition
from refocusd.profiles.catalogue import selection_id
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.from_disk import submit_frames
from refocusd.transport.messages import Engines, Open, Opened

#: Frames on disk can wait; a running acquisition cannot.
NICENESS = 5
#: How long a running daemon may take to answer.
ANSWER_S = 1.0


def own_settings(settings: Settings) -> Settings:
    """The settings for a daemon that serves only this command."""
    return msgspec.structs.replace(
        settings,
        endpoint="tcp://127.0.0.1:0",
        # Frames come from disk, in order; what other daemons left unfinished is left to them.
        policy="complete",
        pick_up=False,
        listen="",
        workers=max(1, settings.workers),
        # The same frames give the same result whenever they are refocused.
        blur_memory=False,
        # `process` itself does this before it begins.
        self_calibrate=False,
    )


class OwnDaemon:
    """A daemon in this process, which is started when needed, and restarted for other settings."""

    def __init__(self) -> None:
        self._running: Daemon | None = None
        self._stack = ExitStack()
        self._yields = False
        self._engine: Engines | None = None

    def run_of(self, profiles: Sequence[str]) -> str:
        """Id of its run with these calibration profiles; call it after `start`."""
        assert self._running is not None
        assert self._engine is not None
        return run_id(self._engine, self._running.settings, selection_id(profiles))

    def start(self, settings: Settings) -> None:
        """Start the daemon, unless it runs with these settings already, and wait for its engine.

        Raises
        ------
        BundleError, ConfigError, TransportError, WorkerError
            If the daemon cannot be started, or no worker becomes ready.
        """
        settings = own_settings(settings)
        if self._running is None or self._running.settings != settings:
            self.close()
            if not self._yields:
                self._yields = True
                yield_to_acquisition(NICENESS)
            daemon = self._stack.enter_context(Daemon(settings))
            self._running = daemon
            daemon.wait_ready()
            self._engine = daemon_status(daemon.endpoint, timeout_s=10.0).engine
            assert self._engine is not None

    def refocus(
        self,
        frames: Dataset,
        keys: Sequence[str],
        output: Output,
        on_frames: Callable[[int], None] = lambda _: None,
    ) -> tuple[Path, float]:
        """Refocus frames, and wait until they are written.

        Parameters
        ----------
        frames : Dataset
        keys : sequence of str
            Canonical axes of the frames; if there are none, the daemon only repairs the ledger.
        output : Output
            Where the first run's frames are, and the run that must make them.
        on_frames : callable
            Called with the number of further frames that have a final state.

        Returns
        -------
        Path
            Folder of the refocused frames.
        float
            Time that this took, in seconds.

        Raises
        ------
        InputError, OutputError, TransportError, WorkerError
            If the frames cannot be read or written, or the daemon fails.
        """
        assert self._running is not None
        folder, ledgers = output.path, self._running.settings.ledgers

        def opened(reply: Opened) -> None:
            nonlocal folder
            folder = Path(reply.output)
            if reply.run != output.run:
                raise WorkerError(
                    f"the daemon works on run {reply.run}, not on {output.run}: try again"
                )
            if not frames.catch_up_from:
                note_recording(folder, frames.path)
                note_output(ledgers, frames.path, folder)

        begun = time.perf_counter()
        submit_frames(
            frames,
            keys,
            self._running.endpoint,
            announcement(frames, output, len(keys)),
            acquired=len(frames),
            live=False,
            on_outcome=lambda _: on_frames(1),
            on_opened=opened,
        )
        return folder, time.perf_counter() - begun

    def close(self) -> None:
        """Stop the daemon after it has written everything."""
        self._running = None
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        daemon = self._running
        self.close()
        if daemon is not None and isinstance(error, TransportError):
            daemon.check()  # the reason why the daemon ended says more than that it does not answer


def announcement(frames: Dataset, output: Output, expected: int) -> Open:
    """The announcement of a dataset on disk, of which `expected` frames are refocused."""
    form = frames.first_format()
    return Open(
        acquisition=output.acquisition,
        name=frames.name,
        height=form.height,
        width=form.width,
        dtype=form.dtype_name,
        raw=frames.catch_up_from,
        output=str(output.path),
        summary=json.dumps(dict(frames.summary), default=str),
        expected=expected,
        report=True,
        first=first_of(output.first),
        profiles=list(output.profiles),
        recording=msgspec.json.encode(fingerprint(frames)).decode(),
    )


def held_by_daemon(output: Output, settings: Settings) -> bool:
    """Whether the running daemon, if there is one, has the acquisition of an output open."""
    with suppress(TransportError):
        details = daemon_status(settings.endpoint, ANSWER_S).details
        return any(a.id == output.acquisition and a.state != "ended" for a in details)
    return False


def held_elsewhere(output: Output, settings: Settings) -> str:
    """The message for an output that a running daemon is writing; empty if nobody writes it.

    Raises
    ------
    OutputError
        If another process than that daemon is writing it.
    """
    if not is_being_written(output.path):
        return ""
    if held_by_daemon(output, settings):
        return (
            f"{output.path} is being written by the daemon at {settings.endpoint}, which catches up "
            "by itself"
        )
    raise OutputError(
        f"{output.path} is being written by another process, which is not a daemon at "
        f"{settings.endpoint}; wait until it has finished, or name its --endpoint if it is a daemon"
    )
