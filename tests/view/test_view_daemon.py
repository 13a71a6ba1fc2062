"""The page beside a real daemon, during a real acquisition on the demo's microscope."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.parse
from pathlib import Path

import numpy as np
from live import opened, pump_until, quick_settings, running, source, stack
from pycromanager import Acquisition
from view_browser import chromium, dataset, eventually, open_page
from view_process import ask, bearer, view_of, view_process

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
        view_process(daemon.endpoint) as (_, view),
        chromium() as browser,
        open_page(browser, view.entry) as page,
    ):
        eventually(lambda: page.locator("#link").inner_text() == "ready", "the daemon is ready")
        hooked = refocusd.Source(daemon.endpoint, expected=len(events))
        hooks = hooked.hooks(directory=str(tmp_path), name="cells", show_display=False)
        with Acquisition(**hooks) as acquisition:
            acquisition.acquire(events)
            eventually(lambda: int(dataset(page).get("drawn", 0)) >= 5, "live frames")
            pid = ask(view.port, "/api/status", headers=bearer()).json()["daemon"]["workers"][0][
                "pid"
            ]
            os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            eventually(
                lambda: f"(pid {pid}) ended" in page.locator("#events").inner_text(),
                "the killed worker is seen",
                2.0,
            )
            eventually(lambda: page.locator("#workers [data-state=ready]").count(), "the next one")
            drawn = int(dataset(page)["drawn"])
            eventually(lambda: int(dataset(page)["drawn"]) > drawn + 3, "frames go on")
        counts = hooked.wait(60.0)
        assert counts is not None
        assert (counts.final, counts.failed) == (len(events), 0)
        # Afterwards any frame can be viewed from disk.
        page.keyboard.press("Space")
        page.locator("[data-axis=time] input").fill("0")
        page.locator("[data-axis=channel] [data-value=Cy5]").click()
        wanted = '"channel":"Cy5"'
        eventually(lambda: wanted in dataset(page)["frame"], "a frame from disk")
        assert page.locator("#verdict").inner_text() == "Passed through"
        assert "pass-through engine" in page.locator("#verdict-why").inner_text()
        labels = 'reason="identity engine",state="passed_through"'
        written = f"refocusd_frames_total{{{labels}}} {len(events)}.0"
        # The view asks the daemon a few times a second.
        eventually(lambda: written in ask(view.port, "/metrics").body.decode(), "all are counted")


def test_frames_of_an_ome_zarr_are_read_from_disk_as_well(tmp_path: Path) -> None:
    frame = stack(1)[0]
    output = tmp_path / "run_refocused"
    settings = quick_settings(tmp_path, sink="ome-zarr")
    with (
        running(settings) as daemon,
        source(daemon) as connection,
        view_of(daemon.endpoint) as port,
    ):
        upload = opened(connection, output)
        assert upload.submit(frame, '{"channel":"DAPI","time":3}', "{}", time.perf_counter_ns())
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
        asked = f"/api/axes?acquisition={upload.acquisition}"
        axes = {"channel": ["DAPI"], "time": [3]}
        eventually(lambda: ask(port, asked).json().get("axes") == axes, "its frame can be chosen")
        query = urllib.parse.urlencode({"axes": '{"channel":"DAPI","time":3}'})
        answer = ask(port, f"/api/frame?{query}")
    length = int.from_bytes(answer.body[:4], "little")
    header = json.loads(answer.body[4 : 4 + length])
    assert header["missing"] == ["raw"]
    shown = np.frombuffer(answer.body, header["dtype"], offset=4 + length)
    np.testing.assert_array_equal(shown.reshape(frame.shape), frame)
