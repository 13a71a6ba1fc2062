"""The view's HTTP answers."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from view_process import Reply, ask, view_of
from view_setup import ACTION, HOST, Setup, raw_request, setting_up
from view_standin import PIXEL_UM, Scene, StandIn, scene_of_nuclei, written_datasets
from waiting import until as eventually

from refocusd.transport import messages as wire
from refocusd.view.client import ShownFrame
from refocusd.view.http.metrics import metrics_text
from refocusd.view.state.gpu import Gpu
from refocusd.view.state.view_state import ViewState


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scene_of_nuclei()


@pytest.fixture(scope="module")
def setup(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with setting_up(scene, tmp_path_factory.mktemp("data")) as here:
        yield here


def picture(reply: Reply) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and frames of an answer from ``/api/frame``."""
    assert reply.status == 200, reply.body
    shown = ShownFrame.from_bytes(reply.body)
    return shown.about, shown.frames


def latest(setup: Setup, **query: Any) -> Reply:
    """Request the newest frame until it comes; it is fetched on request."""
    reply: Reply = eventually(
        lambda: (r := setup.get("/api/frame/latest", **query)).status == 200 and r, "a frame"
    )
    return reply


# -- page -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/static/app.js", "text/javascript"),
        ("/static/style.css", "text/css"),
        ("/static/icon.svg", "image/svg+xml"),
    ],
)
def test_the_pages_files_have_the_types_that_browsers_insist_on(
    setup: Setup, path: str, kind: str
) -> None:
    reply = setup.get(path)
    assert reply.status == 200
    assert reply.headers.get_content_type() == kind


def test_head_is_get_without_the_body(setup: Setup) -> None:
    whole, head = setup.get("/static/app.js"), ask(setup.port, "/static/app.js", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(whole.body))
    assert ask(setup.port, "/api/events", "HEAD").status == 405


def test_requests_sent_at_once_over_one_connection_are_all_answered(setup: Setup) -> None:
    request = b"GET /health HTTP/1.1\r\n" + HOST
    both = request + b"\r\n" + request + b"Connection: close\r\n\r\n"
    assert raw_request(setup.port, both).count(b"HTTP/1.1 200 OK") == 2


# -- answers --------------------------------------------------------------------------------


def test_a_preview_is_every_nth_pixel_of_both_frames(setup: Setup) -> None:
    header, frames = picture(latest(setup, side=128))
    index = setup.scene.axes.index({k: v for k, v in header["axes"].items() if k != "time"})
    assert header["step"] == 4
    assert header["pixel_um"] == PIXEL_UM
    np.testing.assert_array_equal(frames["raw"], setup.scene.raw[index, ::4, ::4])
    np.testing.assert_array_equal(frames["refocused"], setup.scene.refocused[index, ::4, ::4])


def test_a_preview_that_the_page_has_is_not_sent_again(setup: Setup) -> None:
    header, _ = picture(latest(setup, match={"channel": "DAPI"}))
    assert header["axes"]["channel"] == "DAPI"
    setup.daemon.workers, workers = [], setup.daemon.workers
    try:  # no worker, no new frames
        eventually(
            lambda: (
                setup.get("/api/frame/latest", after=picture(latest(setup))[0]["id"]).status == 204
            ),
            "nothing newer",
        )
    finally:
        setup.daemon.workers = workers


@pytest.mark.parametrize(
    "query", [{"side": 128}, {"left": 40, "top": 80, "width": 90, "height": 70}]
)
def test_any_frame_is_read_from_disk(setup: Setup, query: dict[str, int]) -> None:
    axes = {"time": 1, "channel": "Cy5", "z": 2}
    header, frames = picture(setup.get("/api/frame", axes=axes, **query))
    index = setup.scene.axes.index({"channel": "Cy5", "z": 2})
    cut = np.s_[::4, ::4] if "side" in query else np.s_[80:150, 40:130]
    assert header["state"] == "refocused"
    assert header["facts"]["flux_ratio"] == pytest.approx(1.003)
    blur = [header["facts"][f"blur_{name}"] for name in ("px", "uncertainty", "source")]
    assert blur == [6.25, 0.12, "profile"]
    np.testing.assert_array_equal(frames["raw"], setup.scene.raw[index][cut])
    np.testing.assert_array_equal(frames["refocused"], setup.scene.refocused[index][cut])


def test_a_pending_frame_is_shown_raw_and_said_to_be_pending(setup: Setup) -> None:
    axes = {"time": 1, **setup.scene.axes[-1]}
    header, frames = picture(setup.get("/api/frame", axes=axes))
    assert (header["state"], header["missing"]) == ("pending", ["refocused"])
    assert set(frames) == {"raw"}


def test_axes_to_choose_from(setup: Setup) -> None:
    known = setup.get("/api/axes", acquisition=setup.daemon.acquisition).json()
    assert known["axes"] == {"channel": ["Cy5", "DAPI"], "time": [0, 1], "z": list(range(7))}
    assert known["frames"] == 28


def test_counts_of_a_pixel(setup: Setup) -> None:
    axes = {"time": 0, "channel": "DAPI", "z": 0}
    counts = setup.get("/api/pixel", axes=axes, x=33, y=77).json()
    assert counts["raw"] == setup.scene.raw[0, 77, 33]
    assert counts["refocused"] == setup.scene.refocused[0, 77, 33]


def test_the_tiff_has_the_counts_and_the_metadata(setup: Setup) -> None:
    reply = setup.get("/api/snapshot.tif", axes={"time": 0, "channel": "DAPI", "z": 1})
    index = setup.scene.axes.index({"channel": "DAPI", "z": 1})
    assert "attachment" in reply.headers["Content-Disposition"]
    with tifffile.TiffFile(io.BytesIO(reply.body)) as tiff:
        pixels = tiff.asarray()
        about = tiff.imagej_metadata or {}
        resolution = tiff.pages.first.tags["XResolution"].value
    np.testing.assert_array_equal(pixels, [setup.scene.raw[index], setup.scene.refocused[index]])
    assert about["Labels"] == ["raw", "refocused"]
    assert about["unit"] == "um"
    assert resolution[0] / resolution[1] == pytest.approx(1 / PIXEL_UM, rel=1e-3)
    info = json.loads(about["Info"])
    assert info["axes"] == {"channel": "DAPI", "time": 0, "z": 1}
    assert "estimate" in info["note"]


def test_the_png_has_both_frames_in_one_grey_scale(setup: Setup) -> None:
    query = {"axes": {"time": 0, "channel": "DAPI", "z": 1}, "low": 100, "high": 900}
    image = Image.open(io.BytesIO(setup.get("/api/snapshot.png", **query).body))
    index = setup.scene.axes.index({"channel": "DAPI", "z": 1})
    shown = np.asarray(image.convert("L"), float)[:512]
    for left, pixels in ((0, setup.scene.raw[index]), (520, setup.scene.refocused[index])):
        expected = np.clip((pixels.astype(float) - 100) / 800, 0, 1) * 255
        np.testing.assert_allclose(shown[:, left : left + 512], expected, atol=1)


def test_actions_reach_the_daemon(setup: Setup) -> None:
    for path, message in (("/api/pause", wire.Pause), ("/api/catch-up", wire.CatchUp)):
        for on in (True, False):
            answer = ask(setup.port, path, "POST", json.dumps({"on": on}).encode(), ACTION)
            assert answer.status == 202
            expected = message(on)
            eventually(partial(setup.daemon.actions.__contains__, expected), "the action")


def test_metrics_are_what_prometheus_reads(setup: Setup) -> None:
    eventually(lambda: setup.daemon.shown > 20, "frames")
    eventually(
        lambda: (
            b'reason="already in focus",state="passed_through"} 0.0'
            not in setup.get("/metrics").body
        ),
        "counted",
    )
    reply = setup.get("/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(reply.body.decode()))
    kinds = {family.name: family.type for family in families}
    assert len(kinds) == len(families), "a name is given twice"
    samples = [sample for family in families for sample in family.samples]

    def values(name: str, **labels: str) -> list[float]:
        return [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]

    assert values("refocusd_up") == values("refocusd_ready") == [1]
    assert values("refocusd_workers", state="ready") == [1]
    (passed,) = values("refocusd_frames_total", state="passed_through", reason="already in focus")
    assert passed > 0
    buckets = values("refocusd_stage_seconds_bucket", stage="total")
    assert buckets == sorted(buckets)
    assert buckets[-1:] == values("refocusd_stage_seconds_count", stage="total")
    assert kinds["refocusd_stage_seconds"] == "histogram"
    assert values("refocusd_ring_bytes") == [512 << 20]


def test_acquisitions_that_ran_unseen_are_counted_and_named(setup: Setup) -> None:
    said = ["first of Micro-Manager is not refocused", "second of Micro-Manager is not refocused"]
    setup.daemon.status_changes = {"unseen": 2, "unseen_last": said}

    def status() -> Any:
        return setup.get("/api/v1/status").json()

    eventually(lambda: status()["daemon"]["unseen"] == 2, "word of them")
    assert status()["daemon"]["unseen_last"] == said
    assert [event["text"] for event in status()["events"] if event["text"] in said] == said
    assert b"refocusd_unseen_acquisitions_total 2.0" in setup.get("/metrics").body


def test_health_says_why_not(scene: Scene) -> None:
    with StandIn(scene) as daemon, view_of(daemon.endpoint) as port:
        eventually(lambda: ask(port, "/health").status == 200, "ready")
        daemon.restart_worker()
        starting = eventually(lambda: (r := ask(port, "/health")).status == 503 and r, "not ready")
        assert "warmed up" in starting.json()["reason"]
        daemon.worker_ready()
        eventually(lambda: ask(port, "/health").status == 200, "ready again")


def test_without_a_daemon_the_view_says_so_and_finds_it_when_it_comes(scene: Scene) -> None:
    with StandIn(scene) as first:
        address = first.endpoint
    with view_of(address) as port:
        assert ask(port, "/health").status == 503
        assert b"refocusd_up 0" in ask(port, "/metrics").body
        status = ask(port, "/api/status").json()
        assert status["daemon"] is None
        assert ask(port, "/api/pause", "POST", b'{"on": true}', ACTION).status == 503
        with StandIn(scene, address=address):
            eventually(lambda: ask(port, "/health").status == 200, "found")
        eventually(lambda: ask(port, "/health").status == 503, "lost", 4.0)
        status = ask(port, "/api/status").json()
        assert status["events"][-1]["level"] == "bad"


def test_a_daemon_that_was_restarted_is_met_again(scene: Scene) -> None:
    with StandIn(scene) as first, view_of(first.endpoint) as port:
        eventually(lambda: ask(port, "/api/frame/latest").status == 200, "a frame")
        address = first.endpoint
        first._stop.set()
        first._thread.join()  # type: ignore[union-attr]
        first._socket.close()
        with StandIn(scene, address=address) as second:
            eventually(
                lambda: ask(port, "/api/frame/latest").status == 200 and second.looks, "looks"
            )


def test_a_dataset_that_is_deleted_meanwhile_is_said_to_be_gone(
    scene: Scene, tmp_path: Path
) -> None:
    raw = written_datasets(tmp_path, scene)
    with StandIn(scene, raw=raw) as daemon, view_of(daemon.endpoint) as port:
        eventually(lambda: ask(port, "/health").status == 200, "ready")
        path = "/api/frame?axes=%7B%22time%22:0,%22channel%22:%22DAPI%22,%22z%22:{}%7D"
        assert ask(port, path.format(0)).status == 200
        for folder in (raw, raw.with_name("cells_1_refocused")):
            folder.rename(tmp_path / f"moved-{folder.name}")
        gone = eventually(lambda: (r := ask(port, path.format(1))).status == 404 and r, "gone")
        assert "cells_1" in gone.json()["error"]


def test_the_dashboard_asks_for_metrics_that_exist(setup: Setup) -> None:
    dashboard = (Path(__file__).parents[2] / "docs" / "grafana-dashboard.json").read_text(
        encoding="utf-8"
    )
    asked = set(re.findall(r"refocusd_[a-z_]+", dashboard))
    exported = set(
        re.findall(r"^(refocusd_[a-z_]+)", setup.get("/metrics").body.decode(), re.MULTILINE)
    )
    gpu = {name for name in asked if "_gpu_" in name}  # only if there is a GPU
    assert asked - gpu <= exported
    assert gpu
    assert gpu <= gpu_metrics()


def gpu_metrics() -> set[str]:
    """Names of the metrics of a GPU."""
    state = ViewState("tcp://127.0.0.1:9")
    gpu = Gpu(0, 'a "named" device', 1 << 30, 2 << 30, 50, 60)
    text = metrics_text(state, (gpu,)).decode()
    assert 'name="a \\"named\\" device"} 0.5' in text
    return set(re.findall(r"^(refocusd_gpu[a-z_]+)", text, re.MULTILINE))
