"""The page beside a real daemon, during a real acquisition on the demo's microscope."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from live import quick_settings, running
from pycromanager import Acquisition
from view_browser import chromium, dataset, eventually, open_page
from view_process import ask, view_process

import refocusd
from refocusd.demo.microscope import DemoMicroscope


def test_a_real_acquisition_is_watched_while_its_worker_is_killed(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    focal_um = demo_microscope.specimen.focus.at()
    stage_um = [focal_um + defocus for defocus in (-8.0, 0.0, 8.0)]
    events = demo_microscope.events_snapped(80, stage_um, ("DAPI", "Cy5"))
    with (
        running(quick_settings(tmp_path)) as daemon,
        view_process(daemon.endpoint) as (_, port),
        chromium() as browser,
        open_page(browser, f"http://127.0.0.1:{port}/") as page,
    ):
        eventually(lambda: page.locator("#link").inner_text() == "ready", "the daemon is ready")
        source = refocusd.Source(daemon.endpoint, expected=len(events))
        hooks = source.hooks(directory=str(tmp_path), name="cells", show_display=False)
        with Acquisition(**hooks) as acquisition:
            acquisition.acquire(events)
            eventually(lambda: int(dataset(page).get("drawn", 0)) >= 5, "live frames")
            pid = ask(port, "/api/status").json()["daemon"]["workers"][0]["pid"]
            os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            eventually(
                lambda: f"(pid {pid}) ended" in page.locator("#events").inner_text(),
                "the killed worker is seen",
                2.0,
            )
            eventually(lambda: page.locator("#workers [data-state=ready]").count(), "the next one")
            drawn = int(dataset(page)["drawn"])
            eventually(lambda: int(dataset(page)["drawn"]) > drawn + 3, "frames go on")
        counts = source.wait(60.0)
        assert counts is not None
        assert (counts.final, counts.failed) == (len(events), 0)
        # Afterwards any frame can be looked at, from disk.
        page.keyboard.press("Space")
        page.locator("[data-axis=time] input").fill("0")
        page.locator("[data-axis=channel] [data-value=Cy5]").click()
        wanted = '"channel":"Cy5"'
        eventually(lambda: wanted in dataset(page)["frame"], "a frame from disk")
        assert page.locator("#verdict").inner_text() == "Passed through"
        assert "pass-through engine" in page.locator("#verdict-why").inner_text()
        written = f'refocusd_frames_total{{state="passed_through",reason="identity engine"}} {len(events)}'
        # The view asks the daemon a few times a second.
        eventually(lambda: written in ask(port, "/metrics").body.decode(), "all are counted")
