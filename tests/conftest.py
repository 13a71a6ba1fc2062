"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from refocusd.demo.microscope import DemoMicroscope
from refocusd.transport.secure.user_keys import FOLDER_VARIABLE, KEY_VARIABLE

# A shell ignores SIGINT in its background jobs, and the programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The tests start about a thousand Python processes: compiling every module again takes half of each start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session", autouse=True)
def user_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep this user's own keys apart from those of the tests."""
    folder = tmp_path_factory.mktemp("user-keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder))
        patch.delenv(KEY_VARIABLE, raising=False)
        yield folder


#: Packages that only some environments have, and the tests that cannot be run (or not even read) without them.
NEEDED = {
    "bioimageio": ("models/test_bioimageio.py", "models/test_foreign_bundles.py"),
    "onnxruntime_ep_nv_tensorrt_rtx": ("engines/test_tensorrt.py",),
    "playwright": tuple(
        f"view/test_view_{name}.py"
        for name in ("controls", "daemon", "jobs_page", "odd_use", "page", "settings", "trust")
    ),
    "torch": ("engines/test_cuda.py", "training"),
}
MISSING = [name for name in NEEDED if find_spec(name) is None]
collect_ignore = [path for name in MISSING for path in NEEDED[name]]


def pytest_report_header() -> list[str]:
    """Say which tests are left out; `.ci/run`, whose environment is complete, then fails."""
    return [f"left out, without {name}: {', '.join(NEEDED[name])}" for name in MISSING]


@pytest.fixture(scope="session")
def _session_microscope() -> Iterator[DemoMicroscope]:
    with DemoMicroscope() as microscope:
        yield microscope


@pytest.fixture
def demo_microscope(_session_microscope: DemoMicroscope) -> Iterator[DemoMicroscope]:
    """Open a real MMCore with the demo specimen, one for the session: a process can have only one.

    After each test the microscope is as it was before.
    """
    microscope, core = _session_microscope, _session_microscope.core
    focus, exposure_ms = microscope.specimen.focus, core.get_exposure()
    yield microscope
    microscope.specimen.focus = focus
    core.set_exposure(exposure_ms)
    core.set_position(0.0)
    core.set_xy_position(0.0, 0.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small tmpfs")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)
