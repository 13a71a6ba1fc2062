"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from refocusd.demo.microscope import DemoMicroscope
from refocusd.transport.secure.user_keys import FOLDER_VARIABLE, KEY_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def user_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the keys of this user's daemons apart from those of the tests'."""
    folder = tmp_path_factory.mktemp("user-keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder))
        patch.delenv(KEY_VARIABLE, raising=False)
        yield folder


#: What `.ci/windows` runs: folders and files of tests that have been run there, at least in part.
ON_WINDOWS = (
    "cli/test_config.py",
    "cli/test_text_at_the_edges.py",
    "daemon/test_held_files.py",
    "faults/test_killed.py",
    "files",
    "formats/test_export.py",
    "formats/test_recordings.py",
    "formats/test_recordings_refused.py",
    "formats/test_sinks.py",
    "formats/test_sinks_common.py",
    "formats/test_sinks_crash.py",
    "formats/test_sinks_omezarr.py",
    "formats/test_sinks_omezarr_crash.py",
    "formats/test_sinks_refuse.py",
    "ledger",
    "processes/test_signals.py",
    "processes/test_supervisor.py",
    "processes/test_trial.py",
    "transport/test_keys.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run on Windows too."""
    tests = Path(__file__).parent
    chosen = [tests / name for name in ON_WINDOWS]
    for item in items:
        if any(item.path.is_relative_to(place) for place in chosen):
            item.add_marker(pytest.mark.windows)


@pytest.fixture(scope="session")
def _session_microscope() -> Iterator[DemoMicroscope]:
    with DemoMicroscope() as microscope:
        yield microscope


@pytest.fixture
def demo_microscope(_session_microscope: DemoMicroscope) -> Iterator[DemoMicroscope]:
    """Open a real MMCore with the demo specimen: one for the session, as a process takes one.

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
