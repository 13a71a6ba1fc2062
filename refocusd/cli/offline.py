"""What `process` and `resume` share: a daemon of their own, frames fed to it, and what was done."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from rich.progress import ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from refocusd.cli.console import console, note, plain, progress, say, write_json
from refocusd.config import Settings
from refocusd.daemon.acquisitions.run_id import run_id
from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.datasets.dataset import Dataset, Output, is_being_written, note_recording
from refocusd.datasets.verify import RunCheck, check_run
from refocusd.errors import OutputError, TransportError, WorkerError
from refocusd.formats.raw_frames import RawFrames
from refocusd.processes.priority import yield_to_acquisition
from refocusd.profiles.catalogue import selection_id
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.replay import submit_frames
from refocusd.transport.messages import Engines, Open, Opened

__all__ = [
    "Done",
    "OwnDaemon",
    "check_quickly",
    "feed",
    "held_by_daemon",
    "held_elsewhere",
    "own_settings",
    "quietly",
    "report",
]

#: Frames on disk can wait, an acquisition that is running cannot.
NICENESS = 5
#: How long a running daemon may take to answer.
ANSWER_S = 1.0
STATES = ("refocused", "passed_through", "skipped", "failed", "pending")


@dataclass(frozen=True, slots=True)
class Done:
    """What was done for one dataset, and what there is now.

    Parameters
    ----------
    path : Path
        As it was named.
    output : Path or None
    attempted : int
        Frames that were attempted now.
    seconds : float
        That took, the start of the engine excluded.
    check : RunCheck or None
        How the run stands now.
    summary : str
        One sentence, where there was nothing to do or an error.
    error : bool
    """

    path: Path
    output: Path | None = None
    attempted: int = 0
    seconds: float = 0.0
    check: RunCheck | None = None
    summary: str = ""
    error: bool = False

    @property
    def fine(self) -> bool:
        """Whether every frame has a final state, or will get one without us."""
        return not self.error and (self.check is None or self.check.clean)

    @property
    def frames_per_s(self) -> float:
        """Rate of what was done now."""
        return self.attempted / self.seconds if self.seconds > 0 else 0.0

    def counts(self) -> dict[str, int]:
        """Frames by state; ``frames`` is all of them."""
        if self.check is None:
            return {}
        report = self.check.report
        states = {**report.states, "pending": len(report.pending) + report.unnamed}
        return {"frames": report.frames} | {name: states.get(name, 0) for name in STATES}

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "path": str(self.path),
            "output": str(self.output or ""),
            "attempted": self.attempted,
            "frames_per_s": round(self.frames_per_s, 2),
            **self.counts(),
            "said": self.summary,
            "error": self.error,
            "clean": bool(self.check and self.check.clean),
        }


def _table(all_done: Sequence[Done]) -> Table:
    """A row for each output; fits a terminal of 80 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("output", overflow="fold", min_width=16)
    for heading in ("frames", "now", "fps", "refocused", "passed", "skipped", "failed", "pending"):
        table.add_column(heading, justify="right", no_wrap=True)
    for done in all_done:
        if done.check is None:
            continue
        counts = done.counts()
        rate = f"{done.frames_per_s:.1f}" if done.attempted else "-"
        name = plain(done.output.name if done.output else done.path)
        numbers = (counts["frames"], done.attempted, rate, *(counts[name] for name in STATES))
        table.add_row(name, *map(str, numbers))
    return table


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the screen for the progress bar, and say how to go on if interrupted.

    Our own daemon's log below warnings would tear the bar; ``--verbose`` shows it.
    """
    levels = {
        "refocusd": logging.WARNING,
        # It warns of acquisitions that it cannot catch up from raw: what we feed lies on disk.
        "refocusd.daemon.acquisitions.intake": logging.ERROR,
    }
    before = {name: logging.getLogger(name).level for name in levels}
    verbose = logging.getLogger().isEnabledFor(logging.DEBUG)
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(before[name] if verbose else level)
        yield
    except KeyboardInterrupt:
        note("what was done stays; the same command goes on from there")
        raise
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def own_settings(settings: Settings, **changes: Any) -> Settings:
    """Settings of a daemon that serves this command only."""
    values: dict[str, Any] = {
        "endpoint": "tcp://127.0.0.1:0",
        # Frames come from disk: each in its turn, and what other daemons left is not ours.
        "policy": "complete",
        "pick_up": False,
        "listen": "",
        "workers": max(1, settings.workers),
    }
    return msgspec.structs.replace(settings, **values, **changes)


class OwnDaemon:
    """A daemon in this process, started when it is needed, and anew for other settings."""

    def __init__(self) -> None:
        self._running: Daemon | None = None
        self._stack = ExitStack()
        self._yields = False
        self._engine: Engines | None = None

    def run_of(self, profiles: Sequence[str]) -> str:
        """Name of what it makes, once it was started, with these calibration profiles."""
        assert self._running is not None
        assert self._engine is not None
        return run_id(self._engine, self._running.settings, selection_id(profiles))

    def start(self, settings: Settings) -> str:
        """Its address, once its engine is ready.

        Raises
        ------
        BundleError, ConfigError, TransportError, WorkerError
        """
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
        return self._running.endpoint

    def close(self) -> None:
        """Stop it, everything written."""
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
            daemon.check()  # what ended it says more than that it does not answer


def held_by_daemon(output: Output, settings: Settings) -> bool:
    """Whether the running daemon, if there is one, has the acquisition of an output open."""
    with suppress(TransportError):
        details = daemon_status(settings.endpoint, ANSWER_S).details
        return any(a.id == output.acquisition and a.state != "ended" for a in details)
    return False


def held_elsewhere(output: Output, settings: Settings) -> str:
    """What to say where a running daemon does the work; empty where nobody writes the output.

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
        f"{output.path} is being written by another process, and no daemon at {settings.endpoint} "
        "says that it is its own; wait until it has finished, or name that daemon's --endpoint"
    )


def check_quickly(dataset: Dataset, output: Output, settings: Settings) -> RunCheck:
    """How a run stands, pixels unread."""
    return check_run(dataset, output, settings.ledgers, pixels=False, running=False)


def feed(
    frames: RawFrames, keys: Sequence[str], endpoint: str, output: Output
) -> tuple[Path, float]:
    """Have frames refocused, with a progress bar.

    Parameters
    ----------
    frames : RawFrames
    keys : sequence of str
        Which; none at all lets the daemon repair the ledger only.
    endpoint : str
    output : Output
        Where the first run's frames are, and what must make them.

    Returns
    -------
    Path
        Where they are.
    float
        Seconds.

    Raises
    ------
    InputError, OutputError, TransportError, WorkerError
    """
    (height, width), dtype = frames.format()
    folder = output.path

    def opened(reply: Opened) -> None:
        nonlocal folder
        folder = Path(reply.output)
        if reply.run != output.run:
            raise WorkerError(
                f"the daemon works on run {reply.run}, not on {output.run}: try again"
            )
        if not frames.catch_up_from:
            note_recording(folder, frames.path)

    begun = time.perf_counter()
    with progress(_Rate()) as bar:
        task = bar.add_task(plain(f"refocusing {frames.name}"), total=len(keys))
        submit_frames(
            frames,
            keys,
            endpoint,
            Open(
                acquisition=output.acquisition,
                name=frames.name,
                height=height,
                width=width,
                dtype=dtype,
                raw=frames.catch_up_from,
                output=str(output.path),
                summary=json.dumps(dict(frames.summary), default=str),
                expected=len(keys),
                report=True,
                first=first_of(output.first),
                profiles=list(output.profiles),
            ),
            acquired=len(frames.keys()),
            live=False,
            on_outcome=lambda _: bar.advance(task),
            on_opened=opened,
        )
    return folder, time.perf_counter() - begun


class _Rate(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """The latest rate."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} fps" if speed else "", style="progress.data.speed")


def report(all_done: Sequence[Done], json_file: str | None) -> int:
    """Show what was done, and write it; the exit status."""
    for done in all_done:
        if done.error:
            note(f"refocusd: error: {done.summary}")
        elif done.summary:
            say(done.summary)
    if any(done.attempted for done in all_done):
        console.print(_table(all_done))
    for done in all_done:
        if done.check is not None and not done.check.clean:
            say(f"{done.output}: not all is well; `refocusd verify {done.output}` says what is off")
    write_json(json_file, {"datasets": [done.as_json() for done in all_done]})
    if all_done and all(done.error for done in all_done):
        return 2
    return 0 if all(done.fine for done in all_done) else 1
