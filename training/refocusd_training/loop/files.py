"""The files of a run folder, each written atomically.

=========================  ========================================================
``config.toml``            every setting
``profile.json``           the profile of the microscope for which it was trained, if any
``log.csv``                loss, rate and time of every step
``validation.csv``         figures of every validation
``validation_by_defocus.csv``  the same by distance from focus
``tensorboard/``           the same for TensorBoard
``state.pt``               the state from which the run is resumed
``weights.safetensors``    the averaged weights of the latest checkpoint
``best.safetensors``       those of the lowest validation loss
``step_NNNNNN.safetensors``  those of every checkpoint, with ``snapshots``
``run.json``               provenance
=========================  ========================================================
"""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from refocusd import files
from refocusd.errors import DiskFullError, InputError, OutputError
from refocusd_training.loop.record import RunRecord

CONFIG_FILE = "config.toml"
PROFILE_FILE = "profile.json"
STATE_FILE = "state.pt"
WEIGHTS_FILE = "weights.safetensors"
BEST_FILE = "best.safetensors"
RECORD_FILE = "run.json"
#: Files that a run writes before its first checkpoint.
BEGUN = frozenset({CONFIG_FILE, PROFILE_FILE, "log.csv", "tensorboard"})
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def not_written(path: Path, error: OSError) -> OutputError:
    """The error to raise if a file of a run cannot be written."""
    if error.errno in FULL:
        return DiskFullError(
            f"{path} cannot be written: {error.strerror}. The checkpoint before it is whole: make "
            "room, then run the same command again ('train run' with --resume)"
        )
    return OutputError(f"{path} cannot be written ({error.strerror or error})")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: it gets its name only when it is complete.

    Raises
    ------
    DiskFullError, OutputError
        If it cannot be written; an existing file is then unchanged.
    """
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise not_written(path, error) from error


def start_table(path: Path, columns: Sequence[str], done: int) -> None:
    """Write the header of a table of steps, or remove its lines after step `done`.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    kept: list[Sequence[str]] = [columns]
    if done and path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[1:]
        # The last line of a killed run may be incomplete.
        whole = (row for row in rows if len(row) == len(columns) and row[0].isdigit())
        kept += [row for row in whole if int(row[0]) <= done]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(kept)
    write_whole(path, text.getvalue().encode())


def misfit_of(error: Exception) -> str:
    """Shorten torch's message about weights that do not fit, which may fill a screen, to one line."""
    first, *others = [line.strip() for line in str(error).splitlines()] or [""]
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"{others[0]}{more}" if others else f"{type(error).__name__}: {first}"


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights as safetensors."""
    write_whole(path, save({name: value.cpu().contiguous() for name, value in weights.items()}))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read weights; nothing in the file is executed.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as weights ({error})") from error
    return weights


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state to resume a run from: only tensors, numbers and text."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_whole(path, buffer.getvalue())


def read_state(path: Path) -> dict[str, Any]:
    """Read the state to resume a run from; nothing in the file is executed.

    Raises
    ------
    InputError
        If it cannot be read, or holds more than tensors, numbers and text.
    """
    try:
        # On the CPU, because a run may be resumed on another device than it was started on.
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    # torch's unpickler raises all kinds of errors for a damaged file.
    except Exception as error:
        raise InputError(
            f"{path} does not continue this run ({type(error).__name__}: {error}): start a new one in another "
            "folder"
        ) from error
    return state


def write_record(folder: Path, record: RunRecord) -> None:
    """Write ``run.json``."""
    text = json.dumps(asdict(record), indent=2) + "\n"
    write_whole(folder / RECORD_FILE, text.encode())


def read_record(folder: Path) -> RunRecord:
    """Read ``run.json``.

    Raises
    ------
    InputError
        If there is none, or it is damaged.
    """
    path = folder / RECORD_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path} is not a record of a run ({error})") from error
