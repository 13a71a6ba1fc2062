"""The view's parts without a page: options, figures, TLS and token, its process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pynvml
import pytest
from PIL import ImageFont
from view_certificate import write_certificate
from view_process import ask, bearer, view_of, view_process
from view_standin import ENGINE, StandIn, scene_of_nuclei
from waiting import PATIENCE_S
from waiting import until as eventually

from refocusd.errors import ConfigError, TransportError
from refocusd.transport import messages as wire
from refocusd.transport.secure.user_keys import derived_secret
from refocusd.view.command import add_view_flags, run_view, view_options
from refocusd.view.frames.snapshot import scale_bar_text, scale_bar_um
from refocusd.view.http.options import ViewOptions
from refocusd.view.process import ViewProcess
from refocusd.view.serve import serving
from refocusd.view.state.figures import StatusHistory, percentile_ms
from refocusd.view.state.gpu import Gpu, GpuMonitor
from refocusd.view.state.link import _halves
from refocusd.view.state.previews import MAX_PREVIEWS
from refocusd.view.state.view_state import Link, ViewState

TOKEN = "a-token-of-enough-characters"
ENDPOINT = "tcp://127.0.0.1:9"
FACTS = wire.FrameFacts(100.0, 400.0, 1.0, 2.0, 0.1, 0.2, 1.0, 0, "trusted")


def options(**changes: Any) -> ViewOptions:
    return ViewOptions(**{"endpoint": ENDPOINT, "port": 0, **changes})


# -- options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": "0.0.0.0"}, "token .* and TLS"),
        ({"host": "192.168.1.5", "token": TOKEN}, "token .* and TLS"),
        ({"host": "", "token": TOKEN}, "token .* and TLS"),
        ({"certificate": Path("c.pem")}, "both"),
        ({"token": "short"}, "at least 16"),
        ({"port": 70000}, "between 0 and 65535"),
    ],
)
def test_unsafe_options_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        options(**changes)


def test_files_that_are_no_certificate_are_refused(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("nothing", encoding="utf-8")
    bad = options(certificate=tmp_path / "c.pem", key=tmp_path / "k.pem")
    with pytest.raises(ConfigError, match="PEM"), serving(bad):
        pass


def parsed(arguments: Sequence[str]) -> ViewOptions:
    parser = ArgumentParser()
    add_view_flags(parser)
    return view_options(parser.parse_args(arguments))


def test_the_token_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token.txt"
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    assert parsed(["--token-file", str(file)]).token == TOKEN
    file.write_text("two words; and more of them\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no token"):
        parsed(["--token-file", str(file)])
    with pytest.raises(ConfigError, match="cannot be read"):
        parsed(["--token-file", str(tmp_path / "missing")])


def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    with (
        serving(options()) as first,
        pytest.raises(TransportError, match="another --port"),
        serving(options(port=first.port)),
    ):
        pass


def test_over_tls_the_token_is_asked_for(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=certificate)

    def get(port: int, path: str, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer

    with view_of(ENDPOINT, token=TOKEN, certificate=certificate, key=key) as port:
        assert get(port, "/").status == 401
        assert get(port, "/api/status").status == 401
        assert (
            get(port, "/api/status", Authorization="Bearer wrong-token-of-some-length").status
            == 401
        )
        assert get(port, "/api/status", Authorization=f"Bearer {TOKEN}").status == 200
        assert get(port, "/health").status == 503  # for monitors, without a token
        entry = get(port, f"/?token={TOKEN}")
        cookie = entry.getheader("Set-Cookie") or ""
        assert (entry.status, entry.getheader("Location")) == (303, "/")
        assert {"httponly", "samesite=strict", "secure"} <= set(cookie.lower().split("; "))
        assert get(port, "/", Cookie=cookie.partition(";")[0]).status == 200
        assert get(port, f"/api/status?token={TOKEN}").status == 401
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(port, "/health")  # unencrypted


# -- figures --------------------------------------------------------------------------------


def status(frames: int, pid: int = 1, counts: list[int] | None = None) -> wire.Status:
    stages = {"total": wire.Histogram([10.0, 20.0], counts, 0.0)} if counts else {}
    return wire.Status(
        version="1",
        pid=pid,
        workers=1,
        engine=ENGINE,
        acquisitions={},
        stopping=False,
        frames={"refocused": frames, "skipped: a rule": 7},
        stages=stages,
        raw_nbytes=frames * 1_000_000,
    )


def test_rates_are_of_the_last_seconds() -> None:
    history = StatusHistory()
    for second in range(10):
        history.add(float(second), status(second * (5 if second < 5 else 20)))
    assert history.figures().fps == pytest.approx(20.0)
    assert history.figures().raw_mb_s == pytest.approx(20.0)


def test_another_daemon_counts_from_zero() -> None:
    history = StatusHistory()
    history.add(0.0, status(1000))
    history.add(1.0, status(3, pid=2))
    history.add(2.0, status(5, pid=2))
    assert history.figures().fps == 2.0


def test_latencies_are_of_the_last_seconds_not_since_the_start() -> None:
    history = StatusHistory()
    history.add(0.0, status(0, counts=[1000, 0, 0]))
    history.add(1.0, status(0, counts=[1000, 50, 0]))
    stage = history.figures().stages["total"]
    assert (stage.frames, stage.recent, stage.p50_ms) == (50, True, 15.0)


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ([4, 0, 0], 0.5, 5.0),
        ([0, 4, 0], 0.25, 12.5),
        ([1, 1, 2], 0.95, 20.0),
        ([0, 0, 0], 0.5, 20.0),
    ],
)
def test_percentiles(counts: list[int], share: float, expected: float) -> None:
    assert percentile_ms([10.0, 20.0], counts, share) == expected


def test_a_scale_bar_is_a_round_number_and_fits() -> None:
    for width_um in (0.7, 3.0, 330.0, 12345.0):
        bar = scale_bar_um(width_um)
        assert width_um / 12.5 <= bar <= width_um / 5
        assert f"{bar:e}"[0] in "125"


def test_the_scale_bars_text_has_only_signs_that_the_font_has() -> None:
    font = ImageFont.load_default(20)
    missing = bytes(font.getmask("\N{SNOWMAN}"))
    assert bytes(font.getmask("\N{MICRO SIGN}")) == missing, "it could be written as it should"
    assert all(bytes(font.getmask(sign)) != missing for sign in scale_bar_text(50.0))


# -- state ----------------------------------------------------------------------------------


def shown(serial: int, axes: dict[str, Any], step: int = 1, metadata: str = "{}") -> wire.Shown:
    return wire.Shown(
        serial,
        "a",
        "a",
        json.dumps(axes),
        "refocused",
        64,
        64,
        "uint16",
        step,
        metadata,
        FACTS,
        1.0,
        True,
    )


def test_the_newest_frame_of_each_channel_is_kept_and_no_more() -> None:
    state = ViewState(ENDPOINT)
    pixels = np.zeros((64, 64), np.uint16)
    for number in range(200):
        axes = {"time": number, "channel": "AB"[number % 2], "position": number // 40}
        state.put_preview(shown(number, axes), pixels, pixels)
    newest = state.newest({"channel": "A", "position": 4})
    assert newest is not None
    assert newest.axes["time"] == 198
    assert state.newest({"channel": "C"}) is None
    for position in range(1000):
        state.put_preview(shown(1, {"position": position}), pixels, pixels)
    assert len(state._previews) <= MAX_PREVIEWS
    assert len(state.focus) <= 600


def test_pages_are_woken_by_news_and_by_the_views_end() -> None:
    state = ViewState(ENDPOINT)
    woken: list[int] = []
    with state.page(lambda: woken.append(state.news.status)):
        before = state.news
        state.set_link(Link("connected", ""))
        assert state.news != before
        assert woken == [state.news.status]
        state.close()
        assert state.closed
        assert len(woken) == 2
    state.note("info", "nobody looks")
    assert len(woken) == 2


@pytest.mark.parametrize(
    "part", [None, b"", bytes(64 * 64 * 2 * 2 - 1), bytes(64 * 64 * 2 * 2 + 2)]
)
def test_pixels_that_are_not_what_their_header_says_are_not_shown(part: bytes | None) -> None:
    assert _halves(shown(1, {}), None if part is None else memoryview(part)) is None


def test_gpus_are_read_or_there_are_none() -> None:
    for gpu in GpuMonitor().read():
        assert gpu.name
        assert 0 <= gpu.used_nbytes <= gpu.total_nbytes


def test_a_host_without_the_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", not_supported)
    assert GpuMonitor().read() == ()


def test_what_the_driver_does_not_report_of_a_gpu_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index if index else not_supported(),
        "nvmlDeviceGetMemoryInfo": lambda _handle: SimpleNamespace(used=1 << 30, total=2 << 30),
        "nvmlDeviceGetName": lambda _handle: "a device",
        "nvmlDeviceGetUtilizationRates": not_supported,
        "nvmlDeviceGetTemperature": lambda _handle, _sensor: 40,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    assert GpuMonitor().read() == (Gpu(1, "a device", 1 << 30, 2 << 30, None, 40),)


def not_supported(*_arguments: Any) -> Any:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_a_view_of_the_command_line_shows_and_does_nothing_for_other_users(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with StandIn(scene_of_nuclei()) as daemon, view_process(daemon.endpoint) as (_, view):
        for path in ("/", "/api/status", "/api/frame/latest", "/api/events"):
            assert ask(view.port, path).status == 401
        pause = {"X-Refocusd-View": "1", "Content-Length": "12"}
        assert ask(view.port, "/api/pause", "POST", b'{"on": true}', pause).status == 401
        assert daemon.actions == []
        assert ask(view.port, "/metrics").status == 200
        assert ask(view.port, "/api/status", headers=bearer()).status == 200
        entry = view.entry.removeprefix(view.url.rstrip("/"))
        assert ask(view.port, entry).status == 303
        parser = ArgumentParser()
        add_view_flags(parser)
        assert run_view(parser.parse_args(["--port", str(view.port), "--print-url"])) == 0
        assert capsys.readouterr().out == view.entry + "\n"


def test_the_browser_is_led_to_the_page_by_a_file_of_this_user_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All users can see the arguments of a browser in the list of processes."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    parser = ArgumentParser()
    add_view_flags(parser)
    assert run_view(parser.parse_args(["--port", "1234", "--open"])) == 0
    (address,) = opened
    page = Path(url2pathname(urlsplit(address).path))
    assert f"http://127.0.0.1:1234/?token={derived_secret('view')}" in page.read_text()
    assert derived_secret("view") not in address
    assert page.stat().st_mode & 0o077 == 0 or os.name == "nt"


# -- process --------------------------------------------------------------------------------


def test_the_daemons_view_is_started_again_when_it_dies_and_ends_with_it() -> None:
    with (
        StandIn(scene_of_nuclei()) as daemon,
        ViewProcess(daemon.endpoint, ["--port", "0"]) as view,
    ):
        assert view.settled.wait(PATIENCE_S)
        first, url = view.pid, view.url
        eventually(lambda: ask(_port(url), "/health").status == 200, "ready")
        assert first is not None
        os.kill(first, getattr(signal, "SIGKILL", signal.SIGTERM))
        eventually(lambda: view.pid not in (None, first) and view.url != url, "the next")
        eventually(lambda: ask(_port(view.url), "/health").status == 200, "ready again")
        last = view.url
    with pytest.raises(OSError, match=r"refused|reset|forcibly|actively"):
        ask(_port(last), "/health")


def test_a_view_that_cannot_listen_is_given_up_and_nothing_else_ends() -> None:
    with serving(options()) as taken, ViewProcess(ENDPOINT, ["--port", str(taken.port)]) as view:
        assert view.settled.wait(PATIENCE_S)
        assert view.url == ""


def _port(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])
