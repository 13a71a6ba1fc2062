"""A real Micro-Manager in the stand-in's place: ``REFOCUSD_TEST_BRIDGE=127.0.0.1:4827``.

Its demo configuration is enough.  The GUI is driven over the same bridge: a snap, live mode,
and an acquisition with the settings of its dialog (keep that short, and do not save).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bridge_standin_rig import acquisitions, attached, look, until

from refocusd.sources.micromanager.probe import probe
from refocusd.transport.client import Connection

ADDRESS = os.environ.get("REFOCUSD_TEST_BRIDGE", "")
pytestmark = pytest.mark.skipif(
    not ADDRESS, reason="REFOCUSD_TEST_BRIDGE names no Micro-Manager (host:port)"
)
HOST, _, PORT = ADDRESS.partition(":")


def drive(script: str) -> None:
    """Do something in Micro-Manager, from a process of its own: pyjavaz keeps its thread."""
    begin = (
        f"from pyjavaz import JavaObject; s = JavaObject('org.micromanager.Studio', port={PORT})\n"
    )
    subprocess.run([sys.executable, "-c", begin + script], check=True, timeout=60)


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
            drive("s.live().set_live_mode_on(True)")
            until(
                lambda: (found := look(view, shown.serial)) and found[0].name == "live",
                "frame of live mode",
            )
        finally:
            drive("s.live().set_live_mode_on(False)")
            view.close()


def test_an_acquisition_of_the_gui_is_refocused(tmp_path: Path) -> None:
    with attached(tmp_path, int(PORT), live=False) as (daemon, _):
        time.sleep(1.0)
        drive("s.acquisitions().run_acquisition_nonblocking()")
        [about] = until(lambda: acquisitions(daemon, "ended"), "end of the acquisition", 90)
    assert about.counts.acquired > 0
    assert about.counts.pending == about.counts.failed == 0
