"""A real Micro-Manager in place of the stand-in: ``REFOCUSD_TEST_BRIDGE=127.0.0.1:4827``.

Its demo configuration is sufficient, with a camera of 512² or less.  The GUI is driven over the
same bridge, from separate processes.  Acquisitions are saved in the folders of the tests, so both
must be on one computer.  Tests that stop Micro-Manager or change its answers need the stand-in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bridge_standin_rig import acquisitions, attached, look, until

from refocusd.daemon.daemon import Daemon
from refocusd.sources.attached.process import AttachProcess
from refocusd.sources.micromanager.probe import probe
from refocusd.transport.client import Connection

ADDRESS = os.environ.get("REFOCUSD_TEST_BRIDGE", "")
pytestmark = pytest.mark.skipif(
    not ADDRESS, reason="REFOCUSD_TEST_BRIDGE names no Micro-Manager (host:port)"
)
HOST, _, PORT = ADDRESS.partition(":")
MODES = ["ND_TIFF", "MULTIPAGE_TIFF", "SINGLEPLANE_TIFF_SERIES"]
BEGIN = f"""
from pyjavaz import JavaClass, JavaObject
s = JavaObject("org.micromanager.Studio", port={PORT})
def acquire(times, *, save="", root="", name="refocusd", block=True, show=True):
    builder = s.acquisitions().sequence_settings_builder()
    builder = builder.use_frames(True).num_frames(times).interval_ms(0.0).prefix(name)
    builder = builder.should_display_images(show).save(bool(save))
    if save:
        mode = JavaClass("org.micromanager.data.Datastore$SaveMode", port={PORT}).value_of(save)
        builder = builder.root(root).save_mode(mode)
    s.acquisitions().run_acquisition_with_settings(builder.build(), block)
"""


def drive(script: str, timeout_s: float = 180) -> None:
    """Run a script against Micro-Manager in a separate process: pyjavaz keeps its thread."""
    subprocess.run([sys.executable, "-c", BEGIN + script], check=True, timeout=timeout_s)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[tuple[Daemon, AttachProcess]]:
    with attached(tmp_path, int(PORT), live=False) as both:
        yield both


def ended(daemon: Daemon, count: int) -> None:
    """Wait until `count` acquisitions have ended, all of them complete."""
    found = until(
        lambda: (done := acquisitions(daemon, "ended")) and len(done) >= count and done,
        "end of the acquisitions",
        180,
    )
    assert len(found) == count
    for about in found:
        assert about.counts.acquired > 0
        assert about.counts.pending == about.counts.failed == 0


def test_it_is_ready() -> None:
    assert probe(HOST, int(PORT)).state == "ready"


def test_a_snap_and_live_mode_are_shown(tmp_path: Path) -> None:
    settings = {"studio": "off", "live": True}
    with attached(tmp_path, int(PORT), **settings) as (daemon, _):
        view = Connection(daemon.endpoint, "view", inline=True)
        try:
            view.welcome(90.0)
            drive("s.live().snap(True)")
            shown, _pixels = until(lambda: look(view), "snap")
            assert shown.name == "snap"
            drive("s.live().set_live_mode_on(True)")
            until(
                lambda: (found := look(view, shown.serial)) and found[0].name == "live",
                "frame of live mode",
            )
        finally:
            drive("s.live().set_live_mode_on(False)")
            view.close()


def test_an_acquisition_of_the_dialog_is_refocused(
    studio: tuple[Daemon, AttachProcess],
) -> None:
    drive("s.acquisitions().run_acquisition_nonblocking()")
    ended(studio[0], 1)


def test_short_acquisitions_without_a_gap_are_all_taken(
    studio: tuple[Daemon, AttachProcess],
) -> None:
    drive("for number in range(10): acquire(5, name=f'short{number}')")
    ended(studio[0], 10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("show", [True, False], ids=["window", "no window"])
def test_saved_acquisitions_are_taken_from_disk(
    studio: tuple[Daemon, AttachProcess], tmp_path: Path, mode: str, show: bool
) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    drive(f"for _ in range(4): acquire(5, save={mode!r}, root={str(root)!r}, show={show})")
    ended(studio[0], 4)
    assert all(Path(about.raw).parent == root for about in acquisitions(studio[0]))
    assert len(list(root.glob("*_refocused"))) == 4


def test_a_saved_acquisition_is_taken_while_another_is_fetched(
    studio: tuple[Daemon, AttachProcess], tmp_path: Path
) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    drive(f"acquire(100, name='memory'); acquire(5, save='ND_TIFF', root={str(root)!r})")
    ended(studio[0], 2)


def test_a_busy_micro_manager_is_waited_for(studio: tuple[Daemon, AttachProcess]) -> None:
    daemon, process = studio
    until(lambda: process.pids, "process")
    before = process.pids
    drive("acquire(400, name='blocking')")
    ended(daemon, 1)
    assert process.pids == before


def test_an_open_album_is_not_taken(studio: tuple[Daemon, AttachProcess]) -> None:
    drive("s.album().add_images(s.live().snap(False)); acquire(3)")
    ended(studio[0], 1)
