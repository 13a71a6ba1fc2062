"""A one-node SLURM cluster on this computer for the duration of a test."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from waiting import PATIENCE_S, until

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")


def missing() -> str:
    """Why SLURM cannot be started here; empty if it can."""
    absent = [name for name in _PROGRAMS if _program(name) is None]
    if absent:
        return f"{', '.join(absent)} is not installed (Debian: slurm-wlm and munge)"
    if os.geteuid() != 0:
        return "SLURM's daemons run as root"
    return ""


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin")


@contextmanager
def one_node(folder: Path) -> Iterator[Path]:
    """Run the daemons; yields the configuration file, for ``SLURM_CONF``."""
    # Paths of sockets must be short.
    host = socket.gethostname()
    ctld, node = _free_port(), _free_port()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    munge = Path(f"/tmp/munge-{os.getpid()}-{ctld}")
    munge.mkdir(mode=0o755)
    memory = psutil.virtual_memory().total // 2**20 - 64
    conf = folder / "slurm.conf"
    conf.write_text(
        "\n".join(
            [
                "ClusterName=refocusd",
                f"SlurmctldHost={host}(127.0.0.1)",
                "SlurmUser=root",
                "AuthType=auth/munge",
                f"AuthInfo=socket={munge}/socket",
                "CredType=cred/munge",
                f"SlurmctldPort={ctld}",
                f"SlurmdPort={node}",
                f"SlurmctldPidFile={folder}/slurmctld.pid",
                f"SlurmdPidFile={folder}/slurmd.pid",
                f"StateSaveLocation={folder}/state",
                f"SlurmdSpoolDir={folder}/spool",
                "ProctrackType=proctrack/linuxproc",
                "TaskPlugin=task/none",
                "SelectType=select/cons_tres",
                "SelectTypeParameters=CR_CPU",
                "JobAcctGatherType=jobacct_gather/none",
                "ReturnToService=2",
                "MpiDefault=none",
                f"NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={memory}",
                f"PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP",
                "",
            ]
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    commands = [
        [
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket"),
            *(f"--{name}-file={munge}/{name}" for name in ("pid", "log", "seed")),
        ],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    ]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, munge, ignore_errors=True)
        for name, *arguments in commands:
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen(
                [str(_program(name)), *arguments], env=environment, stdout=log, stderr=log
            )
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            if name == "munged":
                until(lambda: (munge / "socket").exists(), "munged's socket")
        # Its daemons compete with everything that runs here, so the limit grows with the load.
        busy = max(1.0, psutil.getloadavg()[0] / (os.cpu_count() or 1))
        until(lambda: _is_idle(environment), f"SLURM's node (logs in {folder})", PATIENCE_S * busy)
        yield conf


def _is_idle(environment: dict[str, str]) -> bool:
    done = subprocess.run(
        [str(_program("sinfo")), "-h", "-o", "%T"], env=environment, capture_output=True, text=True
    )
    return done.stdout.strip() == "idle"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
