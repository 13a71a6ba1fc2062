"""Checks of Python, packages, memory, clock and anti-virus."""

from __future__ import annotations

import platform
import re
import struct
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil

from refocusd import __version__
from refocusd.doctor.case import Case, Finding, broken, doubtful, fine, not_applicable

MIB = 1 << 20
#: Range of tested Python versions.
OLDEST, NEWEST = (3, 11), (3, 13)
#: Memory beside the ring: an engine with its library, a view and the daemon.
PROCESSES_MIB = 1024
#: A clock before 2025-01-01 (in seconds since 1970), which is before this version, was never set.
NEVER_SET = 1_735_689_600
#: Latencies are reported in milliseconds.
COARSE_S = 1e-3


def python(_case: Case) -> Iterator[Finding]:
    """Version and word size of the interpreter."""
    bits = 8 * struct.calcsize("P")
    says = f"{platform.python_version()}, {bits} bit, {platform.system()} {platform.machine()}"
    if bits != 64:
        yield broken(says, "install a 64-bit Python 3.11-3.13 from python.org")
    elif not OLDEST <= sys.version_info[:2] <= NEWEST:
        yield broken(says, "refocusd runs on Python 3.11, 3.12 and 3.13: install one")
    else:
        yield fine(says)


def packages(_case: Case) -> Iterator[Finding]:
    """Whether the packages that refocusd requires are installed."""
    try:
        needed = [line for line in requires("refocusd") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        yield doubtful(
            "refocusd runs from a checkout that is not installed",
            f'"{sys.executable}" -m pip install . in the checkout',
        )
        return
    there, missing = [f"refocusd {__version__}"], []
    for line in needed:
        found = re.match(r"[A-Za-z0-9._-]+", line)
        if found is None:
            continue
        try:
            there.append(f"{found[0]} {version(found[0])}")
        except PackageNotFoundError:
            missing.append(line)
    if missing:
        quoted = " ".join(f'"{line}"' for line in missing)
        yield broken(
            f"not installed: {', '.join(missing)}", f'"{sys.executable}" -m pip install {quoted}'
        )
    else:
        yield fine(", ".join(there))


def memory(case: Case) -> Iterator[Finding]:
    """Whether ring and engines fit into the available memory."""
    free = available_memory()
    ring_mib = case.settings.ring_mib
    wanted = ring_mib + PROCESSES_MIB * max(1, case.settings.workers)
    says = f"{free / MIB:.0f} MiB available; ring and workers may take {wanted} MiB"
    if free < ring_mib * MIB:
        yield broken(says, "close other programs, or set a smaller ring_mib")
    elif free < wanted * MIB:
        yield doubtful(says, "close other programs, or set a smaller ring_mib")
    else:
        yield fine(says)


def clock(_case: Case) -> Iterator[Finding]:
    """Whether the time of day is set, and intervals can be measured."""
    resolution_s = max(
        time.get_clock_info("perf_counter").resolution, time.get_clock_info("monotonic").resolution
    )
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    if time.time() < NEVER_SET:
        yield doubtful(f"says {now}", "set date and time: they go into every dataset")
    elif resolution_s > 20 * COARSE_S:
        yield doubtful(
            f"{now}, in steps of {resolution_s * 1e3:.0f} ms", "latencies will be coarse"
        )
    else:
        yield fine(now)


def anti_virus(case: Case) -> Iterator[Finding]:
    """What to exclude from scanning: on Windows a scanner reads every frame that is written."""
    if sys.platform == "win32":
        places = [str(one) for one in (case.folder.absolute(), case.settings.ledgers)]
        folders = ",".join("'" + one.replace("'", "''") + "'" for one in places)
        yield not_applicable(
            "not checked; a scanner that reads every frame slows writing",
            f"once, in an administrator's PowerShell: Add-MpPreference -ExclusionPath {folders}",
        )
    else:
        yield not_applicable("nothing to exclude on this system")


def available_memory() -> int:
    """Bytes of memory that programs can still use."""
    return _within_container(int(psutil.virtual_memory().available))


def _within_container(free: int) -> int:
    """`free`, or less if a container has a lower limit (control groups, version 2)."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # none, or "max"
        return free
    return min(free, max(0, limit - used))
