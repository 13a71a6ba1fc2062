"""Training on several devices: one process each, joined by torch's DDP.

They are started as separate modules with Lightning's environment variables, not by running
the caller's script again. Programs without a main guard, notebooks and installed commands
therefore train in the same way, on every operating system.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from refocusd.errors import RefocusdError, WorkerError
from refocusd_training.config import TrainingConfig, write_config

#: Longest wait for the other processes after one has ended.
GRACE_S = 30.0


def train_in_processes(
    config: TrainingConfig, data: Path, output: Path, *, device: str, resume: bool, devices: int
) -> None:
    """Run a prepared training in one process per device, and wait for its end.

    Raises
    ------
    RefocusdError
        The error of the first process that failed.
    WorkerError
        If a process ended without a message.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, ExitStack() as stack:
        config_file = Path(scratch) / "config.toml"
        write_config(_absolute(config), config_file)
        port = _free_port()
        children = []
        for rank in range(devices):
            order = {
                "config": str(config_file),
                "data": str(data.absolute()),
                "output": str(output.absolute()),
                "device": device,
                "resume": resume,
                "devices": devices,
                "rank": rank,
                "failure": str(_failure(scratch, rank)),
            }
            child = subprocess.Popen(
                [sys.executable, "-m", "refocusd_training.loop.process", json.dumps(order)],
                stdin=subprocess.PIPE,
                env={
                    **os.environ,
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "NODE_RANK": "0",
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(devices),
                },
            )
            stack.callback(_end, child)
            children.append(child)
        _wait(children)
        for rank, child in enumerate(children):
            if child.returncode == 0:
                continue
            failure = _failure(scratch, rank)
            if failure.exists():
                said = json.loads(failure.read_text(encoding="utf-8"))
                raise _error(said["kind"], said["message"])
        if failed := [str(rank) for rank, child in enumerate(children) if child.returncode]:
            raise WorkerError(
                f"training process {', '.join(failed)} of {devices} ended without a word "
                "(see above): continue with --resume"
            )


def tied_to_parent() -> None:
    """End this process when its parent ends, which closes the parent's end of the pipe."""

    def wait() -> None:
        # Not through sys.stdin, because an exiting interpreter would wait for its lock.
        while os.read(0, 1):
            pass
        os._exit(3)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _error(kind: str, message: str) -> RefocusdError:
    kinds: dict[str, type[RefocusdError]] = {}
    pending: list[type[RefocusdError]] = [RefocusdError]
    while pending:
        found = pending.pop()
        kinds[found.__name__] = found
        pending += found.__subclasses__()
    return kinds.get(kind, WorkerError)(message)


def _failure(scratch: str, rank: int) -> Path:
    return Path(scratch) / f"failure-{rank}.json"


def _wait(children: list[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended, or until soon after one has failed, which blocks the others."""
    while any(child.poll() is None for child in children):
        if any(child.poll() for child in children):
            for child in children:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(1.0)
            return
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.2)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
        child.wait(GRACE_S)
    if child.stdin:
        with suppress(OSError):
            child.stdin.close()


def _absolute(config: TrainingConfig) -> TrainingConfig:
    def full(path: str) -> str:
        return str(Path(path).absolute()) if path else ""

    return replace(config, profile=full(config.profile), weights=full(config.weights))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
