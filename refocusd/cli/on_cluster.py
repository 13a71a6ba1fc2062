"""``refocusd process --cluster``: refocuses OME-Zarr stores with the workers of a cluster."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from refocusd.cli.console import note, plain, progress, say, write_json
from refocusd.cli.offline import Done, check_quickly, quietly, recorded, report
from refocusd.cli.runs import output_of_run, outputs_to_continue
from refocusd.cluster.job import engines_of
from refocusd.cluster.scheduler import ClusterOptions, connected
from refocusd.cluster.screen import Plan, plan_of, refocus_screen
from refocusd.config import Settings
from refocusd.daemon.acquisitions.run_id import run_id
from refocusd.daemon.offline import held_elsewhere
from refocusd.datasets.dataset import (
    Output,
    RawAndOutputs,
    acquisition_of,
    output_for,
    refuse_refocused,
)
from refocusd.errors import ConfigError, InputError, OutputError, WorkerError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ome_zarr.store_reader import StoreReader
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.understood import understood
from refocusd.profiles.catalogue import selection_id

__all__ = ["process_on_cluster"]


def process_on_cluster(arguments: argparse.Namespace, settings: Settings) -> int:
    """Refocus stores on a cluster, or estimate jobs, memory and time; return the exit status."""
    if arguments.max_jobs < 0:
        raise ConfigError(f"--max-jobs {arguments.max_jobs}: it must be 1 or more")
    options = ClusterOptions(
        where=arguments.cluster or "local",
        workers=arguments.max_jobs,
        threads=settings.threads,
        memory=arguments.job_memory,
        walltime=arguments.job_time,
        options=arguments.job_option,
        sbatch_file=arguments.sbatch_file,
    )
    # Several workers a computer: an engine that takes all cores would slow the others down.
    settings = _with_threads(settings, max(1, options.threads))
    if arguments.dry_run:
        return _dry_run(arguments, settings, options)
    all_done: list[Done] = []
    with quietly(), ExitStack() as stack:
        client = stack.enter_context(connected(options))
        if client.dashboard_link:
            note(f"progress of the jobs: {client.dashboard_link}")
        for path in arguments.paths:
            with recorded(all_done, path):
                try:
                    all_done.append(_one(path, arguments.output, settings, client))
                except WorkerError as error:
                    # Positions that were given up: the next plate may fare better.
                    all_done.append(Done(path, summary=str(error), error=True))
    return report(all_done, arguments.json)


def _with_threads(settings: Settings, threads: int) -> Settings:
    return msgspec.structs.replace(settings, threads=threads)


def _one(path: Path, folder: Path | None, settings: Settings, client: Any) -> Done:
    with open_dataset(path) as frames:
        refuse_refocused(frames)
        if not isinstance(frames, StoreReader):
            raise InputError(
                f"{path} is not an OME-Zarr store, the only kind that several workers can write at once: "
                "refocus it without --cluster, or convert it"
            )
        note(understood(frames))
        engine = engines_of(settings).ready.engine
        output, is_new = _output(frames, folder, settings)
        keys = frames.axes_keys()
        if not is_new:
            if reason := held_elsewhere(output, settings):
                return Done(path, output.path, summary=reason)
            check = check_quickly(_dataset(frames, output), output, settings)
            keys = check.report.to_do()
            if check.clean:
                return Done(path, output.path, check=check, summary=f"{output.path}: nothing to do")
        begun = time.perf_counter()
        with progress() as bar:
            task = bar.add_task(plain(f"refocusing {frames.name}"), total=len(keys))
            place = refocus_screen(
                frames,
                keys,
                output,
                settings,
                engine,
                client,
                on_frames=lambda count: bar.advance(task, count),
            )
        seconds = time.perf_counter() - begun
        made = Output.at(place)
        if made is None:
            raise OutputError(f"{place} was moved while it was written")
        check = check_quickly(_dataset(frames, made), made, settings)
    return Done(path, place, len(keys), seconds, check)


def _dry_run(arguments: argparse.Namespace, settings: Settings, options: ClusterOptions) -> int:
    plans = []
    for path in arguments.paths:
        with open_dataset(path) as frames:
            refuse_refocused(frames)
            note(understood(frames))
            output, is_new = _output(frames, arguments.output, settings)
            keys = frames.axes_keys()
            if not is_new:
                keys = check_quickly(_dataset(frames, output), output, settings).report.to_do()
            plan = plan_of(frames, keys, settings)
            say(_told(plan, options, output.path))
            plans.append(
                {"path": str(path), "output": str(output.path)} | plan.as_json(options.at_a_time)
            )
    write_json(arguments.json, {"plans": plans})
    return 0


def _told(plan: Plan, options: ClusterOptions, output: Path) -> str:
    hours = plan.hours(options.at_a_time)
    expected = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
    return (
        f"{output}: {plan.jobs} jobs, {plan.frames} frames, {plan.nbytes / 1e9:.2f} GB to read and as "
        f"much to write (not compressed); {plan.frame_ms:.0f} ms a frame and "
        f"{plan.worker_nbytes / 1e9:.1f} GB of memory a worker, measured here; with "
        f"{options.at_a_time} workers {expected}"
    )


def _output(frames: Dataset, folder: Path | None, settings: Settings) -> tuple[Output, bool]:
    target = output_for(frames, folder)
    outputs = outputs_to_continue(frames, target.parent, folder, settings)
    acquisition = acquisition_of(frames, outputs, settings.ledgers)
    engine = engines_of(settings).ready.engine
    return output_of_run(
        frames,
        outputs,
        acquisition,
        settings,
        lambda ids: run_id(engine, settings, selection_id(ids)),
        target,
        folder,
    )


def _dataset(frames: Dataset, output: Output) -> RawAndOutputs:
    return RawAndOutputs(frames.path, "", (output,), ())
