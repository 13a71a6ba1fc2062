"""The machine on which figures are measured, and the folders that they are measured in."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil

#: Where Linux keeps files in memory.
_MEMORY = Path("/dev/shm")
_PACKAGES = ("refocusd", "pycromanager", "pymmcore", "ndstorage", "numpy", "openvino", "pyzmq")

#: Kind of storage (``memory`` or ``disk``) → folder on it.
Medium = tuple[str, Path]


def machine() -> dict[str, Any]:
    """The hardware, the system, the versions, and the processor load of other programs."""
    return {
        "cpu_model": cpu_model(),
        "cores_logical_count": psutil.cpu_count(),
        "cores_physical_count": psutil.cpu_count(logical=False),
        "ram_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        # The benchmark has not started yet, so this load is that of other programs.
        "cpu_busy_before_percent": psutil.cpu_percent(interval=1.0),
    }


def cpu_model() -> str:
    """The processor's name, as precisely as the system gives it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            facts = dict(line.split(":", 1) for line in lines if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    named = {name.strip(): value.strip() for name, value in facts.items()}
    # Virtual machines shorten the name; family and model still identify the generation.
    numbers = f"family {named.get('cpu family', '?')} model {named.get('model', '?')}"
    return f"{named.get('model name', platform.machine())} ({numbers})"


def media(disk: Path, memory: Path | None) -> list[Medium]:
    """The folders to measure in; one in memory only if it is given or the system has one."""
    if memory is None and _MEMORY.is_dir():
        memory = _MEMORY
    return ([("memory", memory)] if memory else []) + [("disk", disk)]


def file_system(path: Path) -> str:
    """Type of the file system that `path` is on, e.g. ``ext4`` or ``tmpfs``."""
    resolved = path.resolve()
    mounts = [
        (len(part.mountpoint), part.fstype)
        for part in psutil.disk_partitions(all=True)
        if resolved.is_relative_to(part.mountpoint)
    ]
    return max(mounts, default=(0, "unknown"))[1]


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, removed with its contents at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix="refocusd-overhead-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settle(folder: Path) -> None:
    """Remove a measurement's data and sync the disk, so that the next one starts undisturbed."""
    shutil.rmtree(folder, ignore_errors=True)
    if hasattr(os, "sync"):
        os.sync()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
