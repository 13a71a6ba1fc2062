"""What `resume` and `process` share: a daemon of their own, and frames fed to it from disk."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from rich.progress import Progress, ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from refocusd.cli.commands.verify import held_by_daemon
from refocusd.cli.console import messages, progress
from refocusd.config import Settings
from refocusd.daemon.acquisitions.run_id import run_id
from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.datasets.dataset import Output, RawAndOutputs, is_being_written, note_recording
from refocusd.datasets.verify import RunCheck, check_run
from refocusd.errors import OutputError, TransportError, WorkerError
from refocusd.formats.dataset import Dataset
from refocusd.processes.priority import yield_to_acquisition
from refocusd.profiles.catalogue import selection_id
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.from_disk import submit_frames
from refocusd.transport.messages import Engines, Open, Opened

__all__ = [
    "Done",
    "OwnDaemon",
    "check_quickly",
    "feed",
    "held_elsewhere",
    "own_settings",
    "quietly",
    "summary",
]

#: Frames on disk can wait, an acquisition that is running cannot.
NICENESS = 5
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
    said : str
        In a sentence, where there was nothing to do or an error.
    error : bool
    """

    path: Path
    output: Path | None = None
    attempted: int = 0
    seconds: float = 0.0
    check: RunCheck | None = None
    said: str = ""
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
            "said": self.said,
            "error": self.error,
            "clean": bool(self.check and self.check.clean),
        }


def summary(all_done: Sequence[Done]) -> Table:
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
        table.add_row(
            str(done.output.name if done.output else done.path),
            str(counts["frames"]),
            str(done.attempted),
            rate,
            *(str(counts[name]) for name in STATES),
        )
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
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: logger.level for logger in loggers}
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        for logger, level in loggers.items():
            logger.setLevel(level)
    try:
        yield
    except KeyboardInterrupt:
        messages.print("what was done stays; the same command goes on from there")
        raise
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


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


def check_quickly(dataset: RawAndOutputs, output: Output, settings: Settings) -> RunCheck:
    """How a run stands, pixels unread."""
    return check_run(dataset, output, settings.ledgers, pixels=False, running=False)


def feed(
    frames: Dataset,
    keys: Sequence[str],
    endpoint: str,
    acquisition: str,
    output: Path,
    run: str,
    first: Mapping[str, Any],
    profiles: Sequence[str],
) -> tuple[Path, float]:
    """Have frames refocused, with a progress bar.

    Parameters
    ----------
    frames : Dataset
    keys : sequence of str
        Which; none at all lets the daemon repair the ledger only.
    endpoint : str
    acquisition : str
    output : Path
        Where the first run's frames are.
    run : str
        What must make them.
    first : mapping
        Metadata of the acquisition's first frame.
    profiles : sequence of str
        Ids of the run's calibration profiles.

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
    form = frames.first_format()
    place = output

    def opened(said: Opened) -> None:
        nonlocal place
        place = Path(said.output)
        if said.run != run:
            raise WorkerError(f"the daemon works on run {said.run}, not on {run}: try again")
        if not frames.catch_up_from:
            note_recording(place, frames.path)

    begun = time.perf_counter()
    with _bar() as bar:
        task = bar.add_task(f"refocusing {frames.name}", total=len(keys))
        submit_frames(
            frames,
            keys,
            endpoint,
            Open(
                acquisition=acquisition,
                name=frames.name,
                height=form.height,
                width=form.width,
                dtype=form.dtype_name,
                raw=frames.catch_up_from,
                output=str(output),
                summary=json.dumps(dict(frames.summary), default=str),
                expected=len(keys),
                report=True,
                first=first_of(first),
                profiles=list(profiles),
            ),
            acquired=len(frames),
            live=False,
            on_outcome=lambda _: bar.advance(task),
            on_opened=opened,
        )
    return place, time.perf_counter() - begun


class _Rate(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """The rate of late."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} fps" if speed else "", style="progress.data.speed")


def _bar() -> Progress:
    plain = progress()
    plain.columns = (*plain.columns, _Rate())
    return plain
