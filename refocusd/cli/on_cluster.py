"""``refocusd process --cluster``: refocuses OME-Zarr stores with the workers of a cluster."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

import msgspec

from refocusd.cli.console import note, say, write_json
from refocusd.cli.offline import (
    Done,
    check_quickly,
    dataset_of,
    output_of_run,
    process_one,
    quietly,
    recorded,
    report,
)
from refocusd.cluster.plan import Plan, plan_of
from refocusd.cluster.scheduler import ClusterOptions, connected
from refocusd.cluster.screen import Cluster
from refocusd.config import Settings
from refocusd.datasets.dataset import refuse_refocused
from refocusd.errors import ConfigError, WorkerError
from refocusd.formats.dataset import understood
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import counted
from refocusd.view.state.alerts import alert_of, post


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
    # Several workers may share a computer: an engine that takes all cores would slow the others.
    settings = msgspec.structs.replace(settings, threads=max(1, options.threads))
    if arguments.dry_run:
        return _dry_run(arguments, settings, options)
    all_done: list[Done] = []
    with quietly(), ExitStack() as stack:
        client = stack.enter_context(connected(options))
        if client.dashboard_link:
            note(f"progress of the jobs: {client.dashboard_link}")
        cluster = Cluster(client)
        for path in arguments.paths:
            with recorded(all_done, path):
                try:
                    all_done.append(process_one(path, arguments.output, settings, cluster))
                except WorkerError as error:
                    # Positions of this plate were given up; the next plate may fare better.
                    all_done.append(Done(path, summary=str(error), error=True))
    status = report(all_done, arguments.json)
    if settings.webhook:
        text = "; ".join(map(_sentence, all_done))
        post(settings.webhook, alert_of("processed" if status == 0 else "process failed", text))
    return status


def _sentence(done: Done) -> str:
    """The result for one store."""
    if done.check is None:
        return f"{done.path}: {done.summary}"
    counts = ", ".join(f"{number} {name}" for name, number in done.check.counts().items())
    return f"{done.path}: {counts}"


def _dry_run(arguments: argparse.Namespace, settings: Settings, options: ClusterOptions) -> int:
    plans = []
    cluster = Cluster(None)
    cluster.start(settings)
    for path in arguments.paths:
        with open_dataset(path) as frames:
            refuse_refocused(frames)
            note(understood(frames))
            output, is_new = output_of_run(frames, settings, cluster.run_of, arguments.output)
            keys = frames.axes_keys()
            if not is_new:
                keys = check_quickly(dataset_of(frames, output), output, settings).report.to_do()
            plan = plan_of(frames, keys, settings)
            say(_summary(plan, options, output.path))
            plans.append(
                {"path": str(path), "output": str(output.path)} | plan.as_json(options.at_a_time)
            )
    write_json(arguments.json, {"plans": plans})
    return 0


def _summary(plan: Plan, options: ClusterOptions, output: Path) -> str:
    hours = plan.hours(options.at_a_time)
    expected = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
    return (
        f"{output}: {counted(plan.jobs, 'job')}, {counted(plan.frames)}, {plan.nbytes / 1e9:.2f} GB to read and as "
        f"much to write (not compressed); {plan.frame_ms:.0f} ms a frame and "
        f"{plan.worker_nbytes / 1e9:.1f} GB of memory a worker, measured here; with "
        f"{counted(options.at_a_time, 'worker')} {expected}"
    )
