"""Shared parts of `process` and `resume`: what to refocus, the progress, and what was done."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from refocusd.cli.console import console, note, plain, progress, say, write_json
from refocusd.cluster.plan import has_slides
from refocusd.cluster.screen import Cluster
from refocusd.config import Settings
from refocusd.daemon.offline import OwnDaemon, held_elsewhere
from refocusd.datasets.dataset import (
    RawAndOutputs,
    acquisition_of,
    output_for,
    outputs_of,
    recognised,
    refuse_another,
    refuse_merging,
    refuse_refocused,
)
from refocusd.datasets.output import Output
from refocusd.datasets.verify import STATES, RunCheck, check_run
from refocusd.errors import OutputError, RefocusdError, TransportError, WorkerError
from refocusd.files import in_command
from refocusd.formats.dataset import Dataset, understood
from refocusd.formats.ome_zarr.mirror.layout import is_mirror
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import sink_kind
from refocusd.formats.scale import stated_z_step_um, z_position_um
from refocusd.frame import counted
from refocusd.ledger import note_output
from refocusd.processes.self_calibration import FEWEST_PLANES, LIMIT_S, SelfCalibrator
from refocusd.profiles.catalogue import Catalogue
from refocusd.profiles.microscope_metadata import first_of, pixel_um_of


@dataclass(frozen=True, slots=True)
class Done:
    """What was done for one dataset, and its state now.

    Parameters
    ----------
    path : Path
        The dataset, as the user named it.
    output : Path or None
        The refocused dataset.
    attempted : int
        Frames that this command attempted.
    seconds : float
        Time that they took, without the start of the engine.
    check : RunCheck or None
        State of the run now.
    summary : str
        One sentence, if there was nothing to do or an error.
    error : bool
        Whether the dataset could not be refocused.
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
        """Whether every frame has a final state, or another process will give it one."""
        return not self.error and (self.check is None or self.check.clean)

    @property
    def frames_per_s(self) -> float:
        """Rate at which frames were attempted; 0 if there were none."""
        return self.attempted / self.seconds if self.seconds > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "path": str(self.path),
            "output": str(self.output or ""),
            "attempted": self.attempted,
            "frames_per_s": round(self.frames_per_s, 2),
            **(self.check.counts() if self.check else {}),
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
        counts = done.check.counts()
        rate = f"{done.frames_per_s:.1f}" if done.attempted else "-"
        name = plain(done.output.name if done.output else done.path)
        numbers = (counts["frames"], done.attempted, rate, *(counts[name] for name in STATES))
        table.add_row(name, *map(str, numbers))
    return table


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the screen for the progress bar, and say how to continue if interrupted.

    Our own daemon logs only warnings, as more lines would break up the bar; ``--verbose`` shows all.
    """
    levels = {
        "refocusd": logging.WARNING,
        # It warns of acquisitions that it cannot catch up from raw; ours are read from disk anyway.
        "refocusd.daemon.acquisitions.intake": logging.ERROR,
    }
    before = {name: logging.getLogger(name).level for name in levels}
    verbose = logging.getLogger().isEnabledFor(logging.DEBUG)
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(before[name] if verbose else level)
        yield
    except KeyboardInterrupt:
        note("finished frames are kept; the same command continues from there")
        raise
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def recorded(all_done: list[Done], path: Path, output: Path | None = None) -> Iterator[None]:
    """Record an error as the result of this dataset, and continue with the next."""
    try:
        yield
    except (TransportError, WorkerError):
        raise  # our own daemon failed: the next dataset would fare no better
    except (RefocusdError, OSError) as error:
        all_done.append(Done(path, output, summary=str(error), error=True))


def check_quickly(dataset: RawAndOutputs, output: Output, settings: Settings) -> RunCheck:
    """Check the state of a run without reading pixels."""
    return check_run(dataset, output, settings.ledgers, pixels=False, running=False)


def check_sink(output: Output, settings: Settings, *, asked: bool) -> None:
    """Refuse an output in another format than the one set, or only note it if none was asked for.

    Raises
    ------
    OutputError
        If the formats differ and one was asked for.
    """
    kind = sink_kind(output.path)
    if kind is None or kind == settings.sink or is_mirror(output.path):
        return  # the output of an OME-Zarr store is one too, whatever the setting
    if asked:
        raise OutputError(
            f"{output.path} is in the format {kind}, but sink = {settings.sink} is set, and a dataset has "
            f"one format; name another --output for one in {settings.sink}, or give --sink {kind}"
        )
    note(f"{output.path} is continued in its format, {kind}")


def process_one(
    path: Path,
    folder: Path | None,
    settings: Settings,
    runner: OwnDaemon | Cluster,
    *,
    asked: bool = False,
) -> Done:
    """Refocus one finished dataset, or its remaining frames.

    Parameters
    ----------
    path : Path
    folder : Path or None
        Folder for a new output; by default beside the dataset.
    settings : Settings
    runner : OwnDaemon or Cluster
    asked : bool
        Whether the user asked for the output's format: then another one is an error.

    Raises
    ------
    RefocusdError
        If the dataset cannot be refocused.
    """
    with open_dataset(path) as frames:
        refuse_refocused(frames)
        note(understood(frames))
        if missing := len(frames.missing_keys()):
            note(f"{frames.path}: {counted(missing)} listed but not on disk, and left out")
        keys = frames.axes_keys()
        if isinstance(runner, OwnDaemon) and has_slides(frames):
            runner = Cluster(None)
        output_for(frames, folder)  # a wrong output is reported before an engine is built
        runner.start(settings)
        output, is_new = output_of_run(frames, settings, runner.run_of, folder)
        if is_new and isinstance(runner, OwnDaemon) and measure_psf(frames, output, settings):
            output, is_new = output_of_run(frames, settings, runner.run_of, folder)
        if not is_new:
            # From now on the output is found from this path too: of a copy, or another path to raw.
            note_output(settings.ledgers, frames.path, output.path)
            check_sink(output, settings, asked=asked or settings.sink != Settings().sink)
            if reason := held_elsewhere(output, settings):
                return Done(path, output.path, summary=reason)
            check = check_quickly(dataset_of(frames, output), output, settings)
            keys = check.report.to_do()
            if check.clean:
                return Done(path, output.path, check=check, summary=f"{output.path}: nothing to do")
            if keys:
                refuse_merging(frames, output, len(keys))
        place, seconds = feed(runner, frames, keys, output)
        made = Output.at(place)
        if made is None:
            raise OutputError(f"{place} was moved while it was written")
        check = check_quickly(dataset_of(frames, made), made, settings)
    return Done(path, place, len(keys), seconds, check)


def measure_psf(frames: Dataset, output: Output, settings: Settings) -> bool:
    """Measure the PSF on the recording's own z-stacks, unless a profile has one; True if it was."""
    calibrator = SelfCalibrator(settings)
    known = Catalogue(settings.calibrations).named(output.profiles, output.first).profiles
    told = any(profile.psf for profile in known)
    if not calibrator.on or told or not _states_planes(frames):
        return False
    note(f"{frames.path}: measuring the PSF on its z-stack, for at most {LIMIT_S / 60:.0f} minutes")
    found = calibrator.measure(str(frames.path), output.acquisition, elsewhere=False)
    for sentence in found.said:
        note(f"{frames.path}: {sentence}")
    return bool(found.profiles)


def _states_planes(frames: Dataset) -> bool:
    """Whether a recording has z-stacks, and says how far apart planes and pixels are."""
    keys = frames.axes_keys()
    if len({json.loads(key).get("z") for key in keys}) < FEWEST_PLANES:
        return False
    first = frames.metadata(frames.first_key())
    where_um = (z_position_um(first), stated_z_step_um(frames.summary))
    return pixel_um_of(first, frames.summary) is not None and where_um != (None, None)


def dataset_of(frames: Dataset, output: Output) -> RawAndOutputs:
    """The frames with this output only."""
    return RawAndOutputs(frames.path, "", (output,), ())


def feed(
    runner: OwnDaemon | Cluster, frames: Dataset, keys: Sequence[str], output: Output
) -> tuple[Path, float]:
    """Refocus frames with a progress bar, as `OwnDaemon.refocus` does without."""
    with progress(_Rate()) as bar:
        task = bar.add_task(plain(f"refocusing {frames.name}"), total=len(keys))
        return runner.refocus(frames, keys, output, lambda count: bar.advance(task, count))


class _Rate(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """The latest rate."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} fps" if speed else "", style="progress.data.speed")


def report(all_done: Sequence[Done], json_file: str | None) -> int:
    """Print what was done, write it as JSON, and return the exit status."""
    for done in all_done:
        if done.error:
            note(f"refocusd: error: {done.summary}")
        elif done.summary:
            say(done.summary)
    if any(done.attempted for done in all_done):
        console.print(_table(all_done))
    for done in all_done:
        if done.check is not None and not done.check.clean:
            say(
                f"{done.output}: there are problems; `refocusd verify {in_command(str(done.output))}` lists them"
            )
    write_json(json_file, {"datasets": [done.as_json() for done in all_done]})
    if all_done and all(done.error for done in all_done):
        return 2
    return 0 if all(done.fine for done in all_done) else 1


def _outputs_to_continue(
    frames: Dataset, target: Path, folder: Path | None, settings: Settings
) -> tuple[Output, ...]:
    """Outputs of these frames; outputs of other frames in the folder `target` are refused.

    Raises
    ------
    OutputError
        If the folder has the output of other frames with this name.
    """
    ours = []
    for output in outputs_of(frames, settings.ledgers, folder):
        recognition = recognised(frames, output, settings.ledgers)
        if output.path.parent == target:
            refuse_another(frames.path, output, recognition)
        if not recognition.differing:
            ours.append(output)
            if not recognition.compared:
                note(
                    f"{output.path} is assumed to be of {frames.path} because of its name; nothing else proves it"
                )
    return tuple(ours)


def output_of_run(
    frames: Dataset,
    settings: Settings,
    run_of: Callable[[Sequence[str]], str],
    folder: Path | None,
) -> tuple[Output, bool]:
    """Output of the run that these settings make, and whether it is new.

    Parameters
    ----------
    frames : Dataset
    settings : Settings
    run_of : callable
        Gives the run's id, from the ids of the calibration profiles.
    folder : Path or None
        The folder that the user named; by default the one beside the frames.

    Raises
    ------
    OutputError
        If the output of other frames is in the way.
    """
    target = output_for(frames, folder)
    outputs = _outputs_to_continue(frames, target.parent, folder, settings)
    acquisition = acquisition_of(frames, outputs, settings.ledgers)
    ours = [output for output in outputs if output.acquisition == acquisition]
    first = next((o.first for o in ours if o.first), None) or _first(frames)
    form = frames.first_format()
    catalogue, shape = Catalogue(settings.calibrations), (form.height, form.width)
    learned = catalogue.learned_on(acquisition) if settings.self_calibrate else []
    chosen, _ = catalogue.choose(first, shape, learned=learned)
    there = [o for o in ours if folder is None or o.path.parent == target.parent]
    run = run_of(chosen.ids)
    found = next((o for o in there if o.run == run), None)
    if found is None and settings.self_calibrate:
        # Profiles that refocusd measured by itself are no reason to refocus all frames again.
        own = {profile.id() for profile in chosen.profiles if not profile.learned}
        begun = (o for o in there if o.run == run_of(o.profiles))
        found = next((o for o in begun if catalogue.not_learned(o.profiles) == own), None)
    new = Output(target, acquisition, run, "", {}, {}, tuple(chosen.ids), first)
    return (new, True) if found is None else (found, False)


def _first(frames: Dataset) -> dict[str, Any]:
    """Metadata of the first frame that identify the microscope."""
    key = frames.first_key()
    channel = json.loads(key).get("channel", "")
    first: dict[str, Any] = json.loads(first_of(frames.metadata(key), channel))
    return first
