"""Carries out an order in a separate process, because it may crash, hang or leave traces.

The child (``python -m MODULE``) reads its order with `read_order`, and prints its report as
the last line of its standard output (`print_report`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TypeVar

import msgspec

from refocusd.errors import WorkerError
from refocusd.processes.order import encode_order

#: Exit status of a child that reported the reason for its failure in one line on standard error.
REFUSED = 2
_LAST_CHARS = 300

_Report = TypeVar("_Report", bound=msgspec.Struct)


def attempt(module: str, order: msgspec.Struct, report: type[_Report], limit_s: float) -> _Report:
    """Carry out an order in another process.

    Parameters
    ----------
    module : str
        The module that the process runs.
    order : msgspec.Struct
    report : type of struct
        The type of the report.
    limit_s : float
        Time limit, in seconds; the process is then killed.

    Raises
    ------
    WorkerError
        If the process cannot be started, fails, crashes, or takes longer.
    """
    command = [sys.executable, "-m", module]
    try:
        done = subprocess.run(
            command, input=encode_order(order), capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"not done after {limit_s:g} s") from error
    except OSError as error:
        raise WorkerError(f"no process can be started: {error}") from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1][-_LAST_CHARS:] if lines else "it may have run out of memory"
        crashed = f"crashed (status {done.returncode}): " if done.returncode != REFUSED else ""
        raise WorkerError(crashed + why)
    try:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=report)
    except (IndexError, msgspec.MsgspecError) as error:
        raise WorkerError(f"its process gave no report: {error}") from error


def print_report(report: msgspec.Struct) -> None:
    """Send the report to the parent, bypassing Python's buffers, which libraries may have filled."""
    sys.stdout.flush()
    os.write(sys.stdout.fileno(), b"\n" + encode_order(report))
