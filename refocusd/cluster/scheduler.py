"""The clusters that jobs run on: this computer, SLURM, or an existing scheduler."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refocusd.errors import ConfigError, TransportError
from refocusd.files import read_limited

if TYPE_CHECKING:
    from distributed import Client


#: Time limit for the answer of a scheduler given by its address, in s: it may just have been restarted.
ANSWER_S = 30.0
#: Number of workers that a position may lose before the scheduler gives it up; `jobs` then submits it again.
ALLOWED_FAILURES = 5


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Where jobs run, and the resources of each.

    Parameters
    ----------
    where : str
        ``local``, ``slurm``, or the address of a Dask scheduler (``tcp://...``).
    workers : int
        Number of simultaneous jobs; 0 stands for one per core (local), or 8.
    threads : int
        Number of threads of each engine; 0 stands for 1.
    memory : str
        Memory of each worker, such as ``4GB``.
    walltime : str
        Time limit of each SLURM job, such as ``01:00:00``.
    options : sequence of str
        Further options of ``sbatch``, such as ``--partition=gpu``.
    sbatch_file : Path or None
        A batch file: its ``#SBATCH`` lines are options, and its other lines run before a worker.
    """

    where: str
    workers: int = 0
    threads: int = 0
    memory: str = "4GB"
    walltime: str = "01:00:00"
    options: Sequence[str] = ()
    sbatch_file: Path | None = None

    @property
    def at_a_time(self) -> int:
        """Number of simultaneous jobs."""
        return self.workers or (_cores() if self.where == "local" else 8)


def _cores() -> int:
    """Cores that this process may use."""
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    return cores


@contextmanager
def connected(options: ClusterOptions) -> Iterator[Client]:
    """A client of the cluster; everything that was started for it ends with the block.

    Raises
    ------
    ConfigError
        If Dask is not installed, or there is no such kind of cluster.
    TransportError
        If the scheduler does not answer.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise ConfigError(
            f"--cluster needs Dask ({error.name} is missing): pip install 'refocusd[cluster]'"
        ) from error
    try:
        dask.utils.parse_bytes(options.memory)
    except ValueError as error:
        raise ConfigError(
            f"--job-memory {options.memory}: write a size such as 4GB or 512MiB"
        ) from error
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", options.walltime):
        raise ConfigError(f"--job-time {options.walltime}: write H:M:S, such as 01:30:00")
    # `jobs` reports workers that are lost.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    settings = {
        "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
        # Otherwise, a thread in each worker would inspect the engine's stack a hundred times a second.
        "distributed.worker.profile.enabled": False,
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        if "://" in options.where:
            try:
                client = Client(options.where, timeout=ANSWER_S, set_as_default=False)
            except (OSError, ValueError) as error:
                raise TransportError(
                    f"no Dask scheduler answers at {options.where} ({error}): start one with `dask "
                    "scheduler`, or name another address"
                ) from error
        elif options.where == "local":
            client = Client(stack.enter_context(_local(options)), set_as_default=False)
        elif options.where == "slurm":
            client = Client(stack.enter_context(_slurm(options)), set_as_default=False)
        else:
            raise ConfigError(
                f"--cluster {options.where}: write local, slurm, or the address of a Dask scheduler "
                "such as tcp://10.0.0.5:8786"
            )
        with client, client.as_current():
            yield client


def _local(options: ClusterOptions) -> Any:
    from distributed import LocalCluster

    cluster = LocalCluster(
        n_workers=options.at_a_time,
        threads_per_worker=1,
        processes=True,
        memory_limit=options.memory,
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1",
    )
    # So that a worker that is killed while it starts is replaced too.
    cluster.adapt(minimum=options.at_a_time, maximum=options.at_a_time)
    return cluster


def _slurm(options: ClusterOptions) -> Any:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ConfigError(
            "--cluster slurm needs dask-jobqueue: pip install 'refocusd[cluster]'"
        ) from error
    directives, prologue = _batch_file(options.sbatch_file)
    cluster = SLURMCluster(
        cores=1,
        job_cpu=max(1, options.threads),
        processes=1,
        memory=options.memory,
        walltime=options.walltime,
        python=sys.executable,
        job_extra_directives=[*directives, *options.options],
        job_script_prologue=prologue,
    )
    # Jobs that SLURM ends (preemption, time limit) are replaced as long as there is work.
    cluster.adapt(minimum=1, maximum=options.at_a_time)
    return cluster


def _batch_file(path: Path | None) -> tuple[list[str], list[str]]:
    """Options and commands of a batch file."""
    if path is None:
        return [], []
    try:
        lines = read_limited(path, 1 << 20).decode("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"--sbatch-file {path} cannot be read ({error.strerror})") from error
    marked = "#SBATCH"
    directives = [line.removeprefix(marked).strip() for line in lines if line.startswith(marked)]
    commands = [line for line in lines if line.strip() and not line.startswith("#")]
    return directives, commands
